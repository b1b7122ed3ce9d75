"""Settings of a method that has none of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""
