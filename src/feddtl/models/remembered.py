"""Small JSON files in the cache folder, with which one process saves the next a measurement or an import."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from feddtl.errors import RunError
from feddtl.parsing import parse_table
from feddtl.storage import write_json_atomic


def read_remembered(file: Path | None) -> dict[str, Any]:
    """Entries by key; none without a file or if it cannot be read, since they can be determined again."""
    try:
        return {} if file is None else parse_table(file.read_bytes())
    except (OSError, ValueError):
        return {}


def remember(file: Path | None, key: str, entry: Any) -> None:
    """Store an entry. Nothing is stored without a file or if it cannot be written."""
    if file is None:
        return
    with suppress(OSError, RunError):
        # Activations of private images may be stored in the same folder.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json_atomic(file, {**read_remembered(file), key: entry})
