"""Settings of pFedMMA."""

from __future__ import annotations

from dataclasses import dataclass

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class PFedMMASettings:
    """pFedMMA: adapters beside the last blocks of both towers, joined by a shared map."""

    blocks: int = 8
    """Last blocks of each tower that have an adapter (pFedMMA: 8 of 12); all blocks where a tower has fewer."""
    width: int = 32
    """Width of the shared map (pFedMMA: 32)."""
    scale: float = 0.001
    """Factor of the adapters' output (pFedMMA: 0.001)."""

    def __post_init__(self) -> None:
        check_fields("pfedmma", self)
        require(self.blocks >= 1, "pfedmma.blocks", self.blocks, "1 or more")
        require(self.width >= 1, "pfedmma.width", self.width, "1 or more")
        require(self.scale > 0, "pfedmma.scale", self.scale, "a number above 0")
