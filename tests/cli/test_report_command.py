"""`feddtl report`: where the page goes, what is said, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cli.small_runs import Command, contents, refused


def test_the_page_lies_in_the_folder(finished: Path, tmp_path: Path, feddtl: Command) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(run)
    source = json.loads((run / "config.json").read_text())["data"]["source"]
    told = f"note: The page shows no images of {source}. If you trust the run folder, add `--images-of {source}`.\n"
    assert feddtl("report", run).err == told
    answer = feddtl("report", run, "--images-of", source)
    assert answer.code == 0
    assert answer.out.startswith("report of 1 run, ")
    assert answer.out.strip().endswith(str(run / "report.html"))
    assert answer.err == ""
    after = contents(run)
    assert after.pop("report.html").startswith(b"<!DOCTYPE html>")
    assert after == before


def test_a_page_does_not_stand_in_the_way(finished: Path, tmp_path: Path, feddtl: Command) -> None:
    """A second report replaces the first, and the run can still be resumed and reported."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert feddtl("report", run).code == 0
    assert feddtl("run", "--resume", run, "--quiet").code == 0
    assert feddtl("report", run).code == 0


def test_as_json_elsewhere(finished: Path, tmp_path: Path, feddtl: Command) -> None:
    answer = feddtl("report", finished, "--output", tmp_path / "page.html", "--no-images", "--json")
    said = json.loads(answer.out)
    page = tmp_path / "page.html"
    assert said == {"path": str(page), "runs": 1, "bytes": page.stat().st_size, "problems": [], "unconfirmed": []}
    assert b"<img" not in page.read_bytes()
    assert not (finished / "report.html").exists()


def test_what_is_damaged_is_noted(finished: Path, tmp_path: Path, feddtl: Command) -> None:
    for name in ("good", "bad"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    (tmp_path / "runs" / "bad" / "summary.json").write_text("{")
    answer = feddtl("report", tmp_path / "runs")
    assert answer.code == 0
    assert answer.err.startswith("note: bad is skipped. bad/summary.json is damaged")
    assert "report of 1 run, " in answer.out


def test_refusals(finished: Path, tmp_path: Path, feddtl: Command) -> None:
    refused(feddtl("report", tmp_path / "missing"), "There is no folder", "missing")
    (tmp_path / "empty").mkdir()
    refused(feddtl("report", tmp_path / "empty"), "There is no run in", "empty")
    refused(feddtl("report", finished, "--output", tmp_path / "no" / "page.html"), "Cannot write", "page.html")
    assert list((tmp_path / "empty").iterdir()) == []
