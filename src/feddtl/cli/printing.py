"""How commands print text: every line goes through here, so that a terminal breaks none within a word."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from feddtl.errors import FeddtlError
from feddtl.line_breaks import fitted, wrapped
from feddtl.notes import noted
from feddtl.units import harmless

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """Print a value on standard output, NaN as null."""
    from feddtl.storage import json_text

    print(json_text(value), end="")


def print_text(text: str, *, to: TextIO | None = None) -> None:
    """Print text on standard output, or on another stream, at once."""
    stream = sys.stdout if to is None else to
    print(fitted(harmless(text), stream), file=stream, flush=True)


def print_aside(text: str) -> None:
    """Print text that is no result on standard error."""
    print_text(text, to=sys.stderr)


def print_note(text: str) -> None:
    """Print a note or a warning on standard error."""
    print_aside(noted(text))


def print_error(error: FeddtlError) -> None:
    """Print an error on standard error, and its hint below it."""
    print_aside("\n  ".join(filter(None, (f"error: {error.message}", error.hint))))


def print_line(console: Console, line: str, *, style: str = "") -> None:
    """Print text on a console, above its bars, in a style of rich."""
    shown = harmless(line)
    text = wrapped(shown, console.width) if console.is_terminal else shown
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
