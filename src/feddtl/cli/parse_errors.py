"""What the parser of flags refuses, told as every other error is: `error: …`, and below it what may help."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

BAD_FLAGS = 2  # tyro's exit code
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BORDER = re.compile(r"^│ ?|\s*│$")


@contextmanager
def plain_parse_errors() -> Iterator[None]:
    """Print what tyro says in a box without the box; its exit code stays."""
    said = io.StringIO()
    code: object = None
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as exit_:
        code = exit_.code
        raise
    finally:
        sys.stderr.write(unboxed(said.getvalue()) if code == BAD_FLAGS else said.getvalue())


def unboxed(text: str) -> str:
    """A box as `error: …` and indented lines; a text that is no box as it is."""
    inside = _inside([COLOUR.sub("", line) for line in text.splitlines()])
    if not inside:
        return text
    rules = [place for place, line in enumerate(inside) if set(line) in ({"─"}, {"-"})]
    # Up to the first rule is the message, broken between words; lines that are indented are a list.
    end = rules[0] if rules else len(inside)
    first = next((place for place, line in enumerate(inside[:end]) if line.startswith(" ")), end)
    message = " ".join(inside[:first]).removeprefix("Error parsing ")
    rest = [f"  {line}" for place, line in enumerate(inside[first:], first) if place not in rules]
    return "\n".join([f"error: {message[:1].upper()}{message[1:]}", *rest]) + "\n"


def _inside(lines: list[str]) -> list[str]:
    """Lines within the frame, which is drawn with lines, or by a title above a rule where the output is not UTF-8."""
    if lines and lines[0].startswith("╭"):
        return [BORDER.sub("", line) for line in lines[1:] if not line.startswith("╰")]
    if len(lines) > 1 and set(lines[1].strip()) == {"-"}:
        return [line[2:].rstrip() for line in lines[2:] if line.strip()]
    return []
