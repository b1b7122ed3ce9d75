"""Settings of PromptFL."""

from __future__ import annotations

from dataclasses import dataclass

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class PromptFLSettings:
    """PromptFL: learned context vectors in front of the class name."""

    context_length: int = 16
    """Context vectors, one set for all classes (PromptFL: 16)."""
    init_std: float = 0.02
    """Standard deviation of their initial values (PromptFL: 0.02)."""

    def __post_init__(self) -> None:
        check_fields("promptfl", self)
        require(self.context_length >= 1, "promptfl.context_length", self.context_length, "1 or more")
        require(self.init_std >= 0, "promptfl.init_std", self.init_std, "0 or more")
