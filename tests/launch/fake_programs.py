"""Stand-ins for Flower's programs: Python scripts of the same name in a folder of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def fake_program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a script, and let feddtl find Flower's programs beside it; the file where it may count its calls."""
    folder.mkdir(exist_ok=True)
    calls = folder / f"{name}.calls"
    script = folder / name
    script.write_text(f"#!{sys.executable}\nimport json, sys\nCALLS = {str(calls)!r}\n{body}")
    script.chmod(0o755)
    monkeypatch.setattr("feddtl.launch.processes.sysconfig.get_path", lambda kind: str(folder))
    return calls
