"""Settings of PromptFL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from feddtl.checks import NOT_BLANK, AtLeast, Settings


@dataclass(frozen=True)
class PromptFLSettings(Settings, table="promptfl"):
    """PromptFL: learned context vectors in front of the class name."""

    context_length: Annotated[int, AtLeast(0, meaning="16, or the tokens of initial_text")] = 0
    """Context vectors, one set for all classes; 0: as many as `initial_text` has tokens, or 16 without a text
    (PromptFL: 16)."""
    init_std: Annotated[float, AtLeast(0)] = 0.02
    """Standard deviation of their initial values (PromptFL: 0.02)."""
    initial_text: Annotated[str, NOT_BLANK] = ""
    """Text whose token embeddings the context vectors start from; empty: random (PromptFL: random; CoOp from base to
    new classes: a photo of a)."""
