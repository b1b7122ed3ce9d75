"""Settings of FedCLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feddtl.checks import check_fields


@dataclass(frozen=True)
class FedCLIPSettings:
    """FedCLIP: a gate on the image features."""

    loss: Literal["cross-entropy", "contrastive"] = "cross-entropy"
    """Cross-entropy over all base classes, as in the other methods here, or contrastive within the batch (FedCLIP)."""

    def __post_init__(self) -> None:
        check_fields("fedclip", self)
