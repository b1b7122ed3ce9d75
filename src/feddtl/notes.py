"""Notes for the user, and which of them are shown in spite of --quiet."""

from __future__ import annotations


class Warned(str):
    """A note on a reason why the numbers of a run may not be what they seem: no command hides it."""

    __slots__ = ()


def noted(text: str) -> str:
    """A note as a line of text: 'note: …' or 'warning: …'."""
    return f"{'warning' if isinstance(text, Warned) else 'note'}: {text}"


def prefixed(prefix: str, text: str) -> str:
    """A note behind a prefix, and still a warning if it is one."""
    return Warned(f"{prefix}{text}") if isinstance(text, Warned) else f"{prefix}{text}"
