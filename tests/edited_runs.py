"""Run folders with other content in whole files: what another run, or an earlier version, would have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feddtl.sealed_files import KEY, sealed_lines, write_sealed

SEALED = ("config.json", "environment.json", "origin.json", "data.json", "summary.json", "metrics.jsonl")


def tables(file: Path) -> list[dict[str, Any]]:
    """The tables in a file, one or one in each line, without their checksums."""
    text = file.read_text()
    found = [json.loads(part) for part in (text.splitlines() if file.suffix == ".jsonl" else [text])]
    return [{key: value for key, value in table.items() if key != KEY} for table in found]


def change(file: Path, *edits: Callable[[dict[str, Any]], object]) -> None:
    """Edit every table of a sealed file, and seal it again."""
    found = tables(file)
    for table in found:
        for edit in edits:
            edit(table)
    if file.suffix == ".jsonl":
        file.write_text(sealed_lines(json.dumps(table) for table in found))
    else:
        write_sealed(file, found[0])


def without_seals(run: Path) -> Path:
    """The run as an earlier version wrote it, without checksums."""
    for file in filter(Path.is_file, (run / name for name in SEALED)):
        file.write_text("".join(json.dumps(table) + "\n" for table in tables(file)))
    return run
