"""Line breaks between words: a terminal gets lines that fit it, a file or another program gets them whole."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

COLUMNS = 80  # of a terminal that does not tell its size
# Blanks, and a word behind them. What is between backticks is a command to copy: it is one word.
WORD = re.compile(r"( *)((?:`[^`\n]*`|[^ \n])+)")
# Further lines of a message begin below its first word, those of other text two columns in.
LABEL = re.compile(r"(?:\d\d:\d\d )?(?:note|warning|error|feddtl): |\d\d:\d\d | +")


def fitted(text: str, stream: TextIO) -> str:
    """Text as a stream gets it."""
    columns = terminal_columns(stream)
    return text if columns is None else wrapped(text, columns)


def terminal_columns(stream: TextIO) -> int | None:
    """Width of the terminal behind a stream; None if there is none."""
    if not stream.isatty():
        return None
    with suppress(ValueError):
        if (asked := int(os.environ.get("COLUMNS", ""))) > 0:
            return asked
    with suppress(OSError):
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    return COLUMNS


def wrapped(text: str, columns: int) -> str:
    """Text with line breaks between words, so that it fits so many columns.

    A word that is longer than a line, such as a path, and a command between backticks stay whole: a terminal breaks
    them itself, and they can be copied from it.
    """
    return "\n".join(line for whole in text.split("\n") for line in _lines(whole, columns))


def width(text: str) -> int:
    """Columns of a terminal that a text takes: two for each wide letter, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _lines(whole: str, columns: int) -> Iterator[str]:
    if width(whole) <= columns:
        yield whole
        return
    label = LABEL.match(whole)
    indent = " " * (len(label[0]) if label else 2)
    line, used = "", 0
    for blanks, word in WORD.findall(whole):
        more = width(word)
        # Behind a label alone, a break would gain nothing.
        if used > len(indent) and used + len(blanks) + more > columns:
            yield line
            line, used, blanks = indent, len(indent), ""
        line += blanks + word
        used += len(blanks) + more
    yield line
