"""Lines that feddtl prints in Flower's processes, marked to distinguish them from Flower's own."""

from __future__ import annotations

import sys

from feddtl.line_breaks import fitted

MARK = "feddtl: "


def say(text: str) -> None:
    """Print text on standard error in one write, with a mark before each line."""
    sys.stderr.write(fitted("".join(f"{MARK}{line}\n" for line in text.splitlines()), sys.stderr))
    sys.stderr.flush()


def unmarked(line: str) -> str | None:
    """The text of a marked line without its line break; None for any other line."""
    return line.removeprefix(MARK).rstrip("\n") if line.startswith(MARK) else None
