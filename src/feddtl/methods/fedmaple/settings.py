"""Settings of FedMaPLe."""

from __future__ import annotations

from dataclasses import dataclass

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class FedMaPLeSettings:
    """FedMaPLe: learned prompts in both towers, the visual ones mapped from the textual ones."""

    initial_text: str = "a photo"
    """Text whose token embeddings the first contexts start from; one visual prompt per token (MaPLe: a photo)."""
    depth: int = 9
    """Blocks with prompts of their own, the first included (MaPLe: 9); all blocks of a tower that has fewer."""
    init_std: float = 0.02
    """Standard deviation of the initial deeper contexts (MaPLe: 0.02)."""

    def __post_init__(self) -> None:
        check_fields("fedmaple", self)
        require(bool(self.initial_text.strip()), "fedmaple.initial_text", self.initial_text, "one or more words")
        require(self.depth >= 1, "fedmaple.depth", self.depth, "1 or more")
        require(self.init_std >= 0, "fedmaple.init_std", self.init_std, "0 or more")
