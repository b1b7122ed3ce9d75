"""Forms of the names of classes, domains and sites: the same name on every system, and in a prompt."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): some systems store an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def readable(name: str) -> str:
    """A class name as used in a prompt: single spaces for underscores and blanks, in Unicode's composed form."""
    return composed(" ".join(name.replace("_", " ").split()))


def name_key(name: str) -> str:
    """Equal for names that differ only in case, spaces, underscores and Unicode form."""
    return composed(readable(name).casefold())
