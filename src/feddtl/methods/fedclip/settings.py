"""Settings of FedCLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Settings
from feddtl.prompts import TEMPLATES


@dataclass(frozen=True)
class FedCLIPSettings(Settings, table="fedclip"):
    """FedCLIP: a gate on the image features."""

    loss: Literal["cross-entropy", "contrastive"] = "cross-entropy"
    """Cross-entropy over all base classes, as in the other methods here, or contrastive within the batch (FedCLIP)."""
    prompt: Annotated[str, TEMPLATES] = ""
    """Prompt of this method, with {class} in place of the class name, or several; empty: that of the data (FedCLIP: a
    picture of a {class})."""
