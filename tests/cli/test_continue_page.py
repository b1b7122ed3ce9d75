"""The commands of docs/how-to/continue.md, from top to bottom, on small photos."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cli.small_runs import CLASSES, Bench, summary
from edited_runs import tables
from test_docs import ROOT, shell_lines

from feddtl.cli import main
from feddtl.report import write_report
from feddtl.runs import RunFolder


def test_the_runs_of_the_page(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is resumed and extended; classes and clients come later, and what is written then says where it began.

    Photos and model have the names of the page; `compare` and `submit` have tests of their own.
    """
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(bench.photos)
    small = {"openai/clip-vit-base-patch16": str(bench.clip)}
    lines = map(shlex.split, shell_lines(ROOT / "docs/how-to/continue.md"))
    for words in [[small.get(word, word) for word in line[1:]] for line in lines if line[1:2] == ["run"]]:
        assert main([*words, "--quiet"]) == 0
    first, second = (RunFolder.open(Path("runs") / name) for name in ("first", "second"))
    assert (first.experiment.rounds, len(first.records), first.data["base_classes"]) == (3, 3, list(CLASSES[:3]))
    assert second.data["base_classes"] == list(CLASSES[:5])
    assert second.records[0].clients == [0, 1, 2, 3]
    said, [origin] = "first, 3 rounds of FedDTL (SFT only) on photos", tables(second.path / "origin.json")
    assert f"started from {said}" in " ".join(capsys.readouterr().out.split())
    assert summary(second.path)["started_from"] == origin["started_from"]
    assert main(["export", str(second.path), "out", "--format", "embeddings"]) == 0
    card = Path("out/README.md").read_text()
    assert f"| started from | the run {said} |" in card
    assert f"| SHA-256 of what it took from there | `{origin['started_from']['sha256']}` |" in card
    assert f"| SHA-256 of its weights | `{origin['model']['weights']}` |" in card
    write_report(second.path, images=False)
    assert f"Started from {said}." in (second.path / "report.html").read_text()
