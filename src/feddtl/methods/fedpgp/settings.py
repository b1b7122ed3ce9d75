"""Settings of FedPGP."""

from __future__ import annotations

from dataclasses import dataclass

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class FedPGPSettings:
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
