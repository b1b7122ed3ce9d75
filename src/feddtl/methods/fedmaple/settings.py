"""Settings of FedMaPLe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import AtLeast, Rule, Settings


@dataclass(frozen=True)
class FedMaPLeSettings(Settings, table="fedmaple"):
    """FedMaPLe: learned prompts in both towers, the visual ones mapped from the textual ones."""

    initial_text: Annotated[str, Rule(str.strip, "one or more words")] = "a photo"
    """Text whose token embeddings the first contexts start from; one visual prompt per token (MaPLe: a photo)."""
    depth: Annotated[int, AtLeast(1)] = 9
    """Blocks with prompts of their own, the first included (MaPLe: 9); all blocks of a tower that has fewer."""
    init_std: Annotated[float, AtLeast(0)] = 0.02
    """Standard deviation of the initial deeper contexts (MaPLe: 0.02)."""
