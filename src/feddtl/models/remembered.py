"""Small JSON files beside the cache: what one process measured or read, and the next need not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from feddtl.errors import RunError
from feddtl.storage import write_json_atomic


def read_remembered(file: Path | None) -> dict[str, Any]:
    """Entries by key; none where there is no file or it cannot be read, since they can be found out again."""
    try:
        content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(file: Path | None, key: str, entry: Any) -> None:
    """Keep an entry; where the folder cannot be written, or there is none, the next process finds it out again."""
    if file is None:
        return
    with suppress(OSError, RunError):
        # Activations of private images may come to lie beside it.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json_atomic(file, {**read_remembered(file), key: entry})
