"""Stand-ins for Flower's programs: Python scripts with the same names in a separate folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def fake_program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a script where feddtl then looks for Flower's programs; the file in which it may record its calls."""
    folder.mkdir(exist_ok=True)
    calls = folder / f"{name}.calls"
    script = folder / name
    script.write_text(f"#!{sys.executable}\nimport json, sys\nCALLS = {str(calls)!r}\n{body}")
    script.chmod(0o755)
    monkeypatch.setattr("feddtl.launch.processes.sysconfig.get_path", lambda kind: str(folder))
    return calls
