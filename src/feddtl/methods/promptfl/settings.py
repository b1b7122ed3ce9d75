"""Settings of PromptFL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import AtLeast, Settings


@dataclass(frozen=True)
class PromptFLSettings(Settings, table="promptfl"):
    """PromptFL: learned context vectors in front of the class name."""

    context_length: Annotated[int, AtLeast(1)] = 16
    """Context vectors, one set for all classes (PromptFL: 16)."""
    init_std: Annotated[float, AtLeast(0)] = 0.02
    """Standard deviation of their initial values (PromptFL: 0.02)."""
