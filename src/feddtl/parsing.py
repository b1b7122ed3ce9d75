"""JSON and TOML of unknown origin: whatever is in a file, it is read or a ValueError says what is wrong."""

from __future__ import annotations

import codecs
import json
import tomllib
from typing import Any

from feddtl.errors import shown

MOST_LEVELS = 64
"""Tables and lists inside each other; no file of feddtl has ten."""
TOO_DEEP = f"it has more than {MOST_LEVELS} tables or lists inside each other"
WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def text_of(content: bytes) -> str:
    """The text of a file in UTF-8, without the byte-order mark that some editors write. Raises ValueError."""
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        if content.startswith(WIDE_MARKS):
            raise ValueError("it is saved as UTF-16; save it as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        letter = f"byte 0x{content[error.start]:02x} in line {line}"
        raise ValueError(f"it is not saved as UTF-8 ({letter}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it has null characters, as a file in UTF-16 or a damaged one; save it as UTF-8")
    return text


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for anything that is none, or is nested too deeply."""
    try:
        value = json.loads(text_of(content) if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _require_levels(value)
    return value


def parse_table(content: bytes | str) -> dict[str, Any]:
    """The table of a JSON text. Raises ValueError as `parse_json`, or if it is something else."""
    values = parse_json(content)
    if not isinstance(values, dict):
        raise ValueError(f"it has {shown(values, 40)} instead of a table of keys")
    return values


def parse_toml(content: bytes) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError as `parse_json`."""
    try:
        values = tomllib.loads(text_of(content))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _require_levels(values)
    return values


def _require_levels(value: Any) -> None:
    """Raise ValueError for a value that functions which call themselves could not walk through."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in found if isinstance(inner, dict | list)]
