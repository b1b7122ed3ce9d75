"""Runs on a user's own images: which classes are trained, with which model, and without novel classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.small_runs import CLASSES, Bench, Command, summary
from edited_runs import without_seals

AUTO = ("--data.class-split", "auto")


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_model_that_nobody_chose_is_noted_once(bench: Bench, feddtl: Command, command: str) -> None:
    Path("mine.toml").write_text(f"data.source = '{bench.photos}'\nmethod = 'zero-shot'\ndata.clients = 2\n")
    answer = feddtl(command, "mine.toml", "--output", "out")
    assert answer.code == 0
    assert answer.err.count("No model was chosen") == 1
    assert "--model tiny-clip" in answer.err


def test_a_comparison_without_a_number_of_clients_is_finished_and_kept(bench: Bench, feddtl: Command) -> None:
    Path("mine.toml").write_text(f"data.source = '{bench.photos}'\nmethod = 'zero-shot'\n")
    for expected in ("zero-shot", "kept"):
        answer = feddtl("compare", "mine.toml", "--model", bench.clip, "--output", "out")
        assert answer.code == 0, answer.err
        assert expected in answer.err.lower()


def test_all_classes_are_trained(bench: Bench, feddtl: Command) -> None:
    """Few-shot and on held-back images: novel accuracy is a dash, null in files, and nowhere an error."""
    more = ("--rounds", 2, "--data.shots", 4, "--evaluation.images", "held-back", "--output", "run")
    answer = feddtl("run", *bench.flags(*AUTO, *more))
    assert answer.code == 0
    assert "All 6 classes are trained" in answer.err
    assert "novel     –" in answer.err
    assert "0 novel classes" in answer.err
    found = summary(Path("run"))
    assert (found["final"]["novel"], found["final"]["harmonic_mean"]) == (None, None)
    assert found["final"]["base"] is not None
    assert found["few_images"] in answer.out
    assert found["few_images"].startswith("accuracies of fewer than 10 held-back training images: base (6)")
    data = json.loads(Path("run/data.json").read_text())
    assert (data["base_classes"], data["novel_classes"], data["test_novel_images"]) == (list(CLASSES), [], 0)
    assert feddtl("report", "run").code == 0
    assert found["few_images"] in Path("run/report.html").read_text()
    scores = json.loads(feddtl("evaluate", "run", "--json").out)
    assert [(score["choices"], score["images"]) for score in scores] == [(6, 18), (0, 0), (6, 18)]
    assert scores[1]["accuracy"] is None
    assert feddtl("export", "run", "model").code == 0


def test_a_run_of_an_earlier_version_keeps_its_halves(feddtl: Command, finished: Path, tmp_path: Path) -> None:
    """Its settings say nothing of classes, and it trained the first half."""
    run = without_seals(shutil.copytree(finished, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    for key in ("class_split", "novel_share", "class_seed"):
        del config["data"][key]
    (run / "config.json").write_text(json.dumps(config))
    assert feddtl("run", "--resume", tmp_path / "run", "--json").code == 0
    scores = json.loads(feddtl("evaluate", tmp_path / "run", "--json").out)
    assert [list(score["by_class"]) for score in scores[:2]] == [list(CLASSES[:3]), list(CLASSES[3:])]


def test_a_list_is_a_flag_of_every_command(bench: Bench, feddtl: Command) -> None:
    """Trained are the named classes in the order of the file, whatever the order of the folders."""
    Path("names.txt").write_text("fox\nant\n")
    lists = (*AUTO, "--data.classes", "@names.txt", "--data.novel-classes", "others", "--data.clients", 2)
    assert feddtl("run", *bench.flags(*lists, "--rounds", 1, "--output", "run")).code == 0
    data = json.loads(Path("run/data.json").read_text())
    assert (data["base_classes"], data["novel_classes"]) == (["fox", "ant"], ["bee", "cat", "dog", "elk"])
    assert json.loads(Path("run/config.json").read_text())["data"]["classes"] == "fox, ant"
    scores = json.loads(feddtl("evaluate", "run", "--json").out)
    assert [round(score["accuracy"], 4) for score in scores[:2]] == [
        summary(Path("run"))["final"][key] for key in ("base", "novel")
    ]
