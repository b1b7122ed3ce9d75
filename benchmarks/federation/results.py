"""Result files of this package: one JSON file per measurement, each line with the machine that measured it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

FOLDER = Path(__file__).resolve().parent.parent / "results"


def add_result(file: str, name: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Replace the line of this name in benchmarks/results/federation_FILE.json."""
    path = FOLDER / f"federation_{file}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    here = machine()
    here["packages"] |= {name: version(name) for name in ("flwr", "ray", "grpcio")}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept[name] = {**found, "settings": dict(settings), "machine": here, "when": stamp}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
