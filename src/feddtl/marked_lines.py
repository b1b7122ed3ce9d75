"""Lines that feddtl prints from inside Flower's processes, marked so that they can be told from Flower's own."""

from __future__ import annotations

import sys

MARK = "feddtl: "


def say(text: str) -> None:
    """Print text on standard error, each line of it marked and written in one piece."""
    sys.stderr.write("".join(f"{MARK}{line}\n" for line in text.splitlines()))
    sys.stderr.flush()


def unmarked(line: str) -> str | None:
    """The text of a marked line without its end; None for any other line."""
    return line.removeprefix(MARK).rstrip("\n") if line.startswith(MARK) else None
