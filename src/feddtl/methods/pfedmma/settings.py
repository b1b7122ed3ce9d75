"""Settings of pFedMMA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import Above, AtLeast, Settings


@dataclass(frozen=True)
class PFedMMASettings(Settings, table="pfedmma"):
    """pFedMMA: adapters beside the last blocks of both towers, joined by a shared map."""

    blocks: Annotated[int, AtLeast(1)] = 8
    """Last blocks of each tower that have an adapter (pFedMMA: 8 of 12); all blocks where a tower has fewer."""
    width: Annotated[int, AtLeast(1)] = 32
    """Width of the shared map (pFedMMA: 32)."""
    scale: Annotated[float, Above(0)] = 0.001
    """Factor c of the adapters' output; their weights get the gradient without it (pFedMMA: 0.001)."""
