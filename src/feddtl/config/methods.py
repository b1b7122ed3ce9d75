"""What is each compared method's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class PromptFLConfig:
    """PromptFL: learned context vectors in front of the class name."""

    context_length: int = 16
    """Context vectors, one set for all classes (PromptFL: 16)."""
    init_std: float = 0.02
    """Standard deviation of their initial values (PromptFL: 0.02)."""

    def __post_init__(self) -> None:
        check_fields("promptfl", self)
        require(self.context_length >= 1, "promptfl.context_length", self.context_length, "1 or more")
        require(self.init_std >= 0, "promptfl.init_std", self.init_std, "0 or more")


@dataclass(frozen=True)
class FedMaPLeConfig:
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


@dataclass(frozen=True)
class FedPGPConfig:
    """FedPGP: a shared prompt and a personal low-rank change of it."""

    context_length: int = 16
    """Context vectors of the shared prompt (FedPGP: 16)."""
    bottleneck: int = 8
    """Rank b of the personal change U V (FedPGP: 8)."""
    init_std: float = 0.02
    """Standard deviation of the initial shared prompt (FedPGP: 0.02)."""
    contrast_weight: float = 0.5
    """Weight mu of the contrastive term (ours: 0.5)."""
    contrast_temperature: float = 0.5
    """Temperature t of the contrastive term (ours: 0.5)."""

    def __post_init__(self) -> None:
        check_fields("fedpgp", self)
        require(self.context_length >= 1, "fedpgp.context_length", self.context_length, "1 or more")
        require(self.bottleneck >= 1, "fedpgp.bottleneck", self.bottleneck, "1 or more")
        require(self.init_std >= 0, "fedpgp.init_std", self.init_std, "0 or more")
        require(self.contrast_weight >= 0, "fedpgp.contrast_weight", self.contrast_weight, "0 or more")
        require(
            self.contrast_temperature > 0, "fedpgp.contrast_temperature", self.contrast_temperature, "a number above 0"
        )


@dataclass(frozen=True)
class PFedMMAConfig:
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


@dataclass(frozen=True)
class FedCLIPConfig:
    """FedCLIP: a gate on the image features."""

    loss: Literal["cross-entropy", "contrastive"] = "cross-entropy"
    """Cross-entropy over all base classes, as every method here, or contrastive within the batch (FedCLIP)."""

    def __post_init__(self) -> None:
        check_fields("fedclip", self)
