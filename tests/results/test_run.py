"""One run as plain values, known without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from comparison.made_up import outcome

HEAVY = ("torch", "transformers", "matplotlib", "rich")


def test_only_a_finished_run_has_an_outcome() -> None:
    run = outcome("a", 0, 60, 50)
    assert run.finished is run.summary
    with pytest.raises(ValueError, match="a is not finished"):
        _ = replace(run, summary=None).finished


def test_tables_load_without_heavy_libraries() -> None:
    """Committed results can be put into tables where nothing can be run."""
    code = f"import sys, feddtl.comparison.files; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
