"""A run with hostile clients says so wherever its numbers are: terminal, files, report and model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.small_runs import Bench, Command
from test_docs import ROOT, feddtl_commands

from feddtl.records import Summary
from feddtl.report.page import _notes_of


def test_a_run_under_attack_says_so(feddtl: Command, bench: Bench, tmp_path: Path) -> None:
    """The first command of the page, with the small bench's images, model and number of clients."""
    words = feddtl_commands(ROOT / "docs/how-to/hostile-clients.md")[0]
    run = tmp_path / "run"
    answer = feddtl(*words, *bench.flags("--rounds", 1, "--output", run))
    assert answer.code == 0, answer.err
    assert "warning: Under attack, as an experiment: sign-flip by client " in answer.err
    assert "under attack: sign-flip by client " in answer.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["attack"].startswith("sign-flip by client ")
    assert json.loads((run / "config.json").read_text())["attack"] == {
        "name": "sign-flip",
        "share": 0.2,
        "scale": 10.0,
    }
    [record] = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-3)  # four decimals each
    assert f"Under attack, as an experiment: {summary['attack']}." in _notes_of(Summary.from_dict(summary))
    assert feddtl("export", run, tmp_path / "model", "--format", "embeddings").code == 0
    assert "**Do not use this model.**" in (tmp_path / "model" / "README.md").read_text()
