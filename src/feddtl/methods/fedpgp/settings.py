"""Settings of FedPGP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import NOT_BLANK, Above, AtLeast, Settings


@dataclass(frozen=True)
class FedPGPSettings(Settings, table="fedpgp"):
    """FedPGP: a shared prompt and a personal low-rank change of it."""

    context_length: Annotated[int, AtLeast(0, meaning="16, or the tokens of initial_text")] = 0
    """Context vectors of the shared prompt; 0: as many as `initial_text` has tokens, or 16 without a text (FedPGP:
    16)."""
    bottleneck: Annotated[int, AtLeast(1)] = 8
    """Rank b of the personal change U V (FedPGP: 8)."""
    init_std: Annotated[float, AtLeast(0)] = 0.02
    """Standard deviation of the initial shared prompt, and of U and V (FedPGP: 0.02)."""
    contrast_weight: Annotated[float, AtLeast(0)] = 0.5
    """Weight mu of the contrastive term (FedPGP: 0.5)."""
    contrast_temperature: Annotated[float, Above(0)] = 0.5
    """Temperature t of the contrastive term (FedPGP: 0.5)."""
    initial_text: Annotated[str, NOT_BLANK] = ""
    """Text whose token embeddings the shared prompt starts from; empty: random (FedPGP: random; CoOp from base to
    new classes: a photo of a)."""
