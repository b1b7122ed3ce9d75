"""Settings of FedMGP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import Above, AtLeast, Rule, Settings, require


@dataclass(frozen=True)
class FedMGPSettings(Settings, table="fedmgp"):
    """FedMGP: groups of learned prompts in both towers, of which a client sends some."""

    groups: Annotated[int, AtLeast(1)] = 5
    """Groups G of a text prompt and a visual prompt (FedMGP: 5)."""
    shared_groups: Annotated[int, AtLeast(1)] = 2
    """Text prompts, and visual prompts, s that a client sends in a round; at most fedmgp.groups (FedMGP: 2)."""
    prompt_length: Annotated[int, AtLeast(1)] = 2
    """Vectors of each prompt, in either tower (FedMGP: 2)."""
    initial_text: Annotated[str, Rule(str.strip, "one or more words")] = "a photo of a"
    """Text whose first token embeddings the text prompts start from (FedMGP: a photo of a)."""
    init_std: Annotated[float, AtLeast(0)] = 0.02
    """Standard deviation of the initial visual prompts and of the noise on the initial text prompts (ours: 0.02)."""
    diversity_weight: Annotated[float, AtLeast(0)] = 1.0
    """Weight lambda of the loss that drives the groups apart (FedMGP: 1)."""
    temperature: Annotated[float, Above(0)] = 1.0
    """Temperature tau of the choice of the groups that a client sends (FedMGP: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.shared_groups <= self.groups,
            "fedmgp.shared_groups",
            self.shared_groups,
            f"1 to {self.groups}, the number of groups (fedmgp.groups)",
        )
