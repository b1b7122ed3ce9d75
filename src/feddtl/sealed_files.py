"""JSON files of a run that hold their own checksum, so that no damage is believed: a changed digit is valid JSON.

The last key of a table, `sha256`, is the SHA-256 of all bytes of the file before it. A file with a table per line has
one in each line, of the lines before it too. Runs of earlier versions have none; the file written first says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from feddtl.parsing import parse_table
from feddtl.storage import json_text, read_whole, write_text_atomic

FIRST = "config.json"
"""Written first: if it is sealed, all sealed files of the folder must be."""
KEY = "sha256"
SEAL = re.compile(rb',(?:(\n  )| )"sha256": "([0-9a-f]{64})"(?(1)\n)}\n\Z')


def sealed(text: str) -> str:
    """The text of a JSON table that is not empty, with the checksum as its last key."""
    return sealed_lines([text])


def sealed_lines(texts: Iterable[str]) -> str:
    """The texts of JSON tables one after the other, each with the checksum of all that is before it as its last key."""
    written, so_far = [], hashlib.sha256()
    for text in texts:
        inside = text.rstrip().removesuffix("}")
        before, after = ("\n  ", "\n") if inside.endswith("\n") else (" ", "")
        so_far.update(inside.rstrip().encode())
        seal = f',{before}"{KEY}": "{so_far.hexdigest()}"{after}}}\n'
        so_far.update(seal.encode())
        written.append(inside.rstrip() + seal)
    return "".join(written)


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically by a table with its checksum."""
    write_text_atomic(path, sealed(json_text(values)))


def read_sealed(path: Path) -> dict[str, Any]:
    """The table in a file of a run folder, without its checksum.

    Raises:
        ValueError: It is damaged, or was changed after it was written.
        RunError: It cannot be read.
    """
    content = read_whole(path)
    return opened(content, needs_seal=is_sealed(path.parent))


def read_sealed_lines(path: Path) -> list[dict[str, Any]]:
    """The tables in the lines of a file of a run folder. Raises as `read_sealed`."""
    content, needs_seal = read_whole(path), is_sealed(path.parent)
    tables, so_far = [], hashlib.sha256()
    for line in content.splitlines(keepends=True):
        tables.append(opened(line, so_far, needs_seal=needs_seal))
        so_far.update(line)
    return tables


def is_sealed(folder: Path) -> bool:
    """Whether the files of a run folder have checksums."""
    try:
        return SEAL.search(read_whole(folder / FIRST)) is not None
    except ValueError:
        return False


def opened(content: bytes, before: hashlib._Hash | None = None, *, needs_seal: bool = True) -> dict[str, Any]:
    """The table of a sealed text, without its checksum.

    Args:
        content: The text of the table.
        before: SHA-256 of what precedes it in the file; None: nothing.
        needs_seal: Whether a text without a checksum is refused; one that does not match always is.

    Raises:
        ValueError: It is no table, or it is not as it was written.
    """
    return confirmed(parse_table(content), content, before, needs_seal=needs_seal)


def confirmed(
    values: dict[str, Any], content: bytes, before: hashlib._Hash | None = None, *, needs_seal: bool = True
) -> dict[str, Any]:
    """The table of a sealed text, which has been parsed, without its checksum. Arguments and errors as of `opened`."""
    seal = SEAL.search(content)
    if seal is None and (needs_seal or KEY in values):
        raise ValueError("its checksum is missing, or was never written because another version made it")
    if seal is None:
        return values
    digest = before.copy() if before else hashlib.sha256()
    digest.update(content[: seal.start()])
    if digest.hexdigest().encode() != seal[2]:
        raise ValueError("it does not match its checksum, so it was changed after it was written")
    del values[KEY]
    return values
