"""`feddtl compare`: cells are ordinary runs, flags override every file, and nothing that is done is done twice."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.killable import KillableRuns
from cli.small_runs import Bench, Command, contents, final_state, refused, summary
from comparison.made_up import outcome as made_up
from rich.console import Console

from feddtl.cli.bars import Bars
from feddtl.cli.comparison_progress import ComparisonProgress, ComparisonWarnings, comparison_progress
from feddtl.cli.comparison_tables import parts
from feddtl.cli.experiment_argument import positionals
from feddtl.comparison.cells import Cell
from feddtl.comparison.files import Failure
from feddtl.comparison.grid import compare
from feddtl.experiment_file import load_experiment
from feddtl.results.tables import Cell as TableCell
from feddtl.results.tables import Column, Table


def write_experiment(bench: Bench, path: Path, method: str = "feddtl", rounds: int = 1, source: object = "") -> Path:
    """A file for a run of less than a second; the learning rate is in the file alone."""
    path.write_text(
        f"""
        method = "{method}"
        model = "{bench.clip}"
        rounds = {rounds}
        [data]
        source = "{source or bench.photos}"
        class_split = "half"
        clients = 3
        [local]
        learning_rate = 0.01
        [compute]
        precision = "float32"
        attention = "sdpa"
        """
    )
    return path


@pytest.fixture
def files(bench: Bench, tmp_path: Path) -> list[Path]:
    """Two methods in one setting."""
    return [write_experiment(bench, tmp_path / f"{method}.toml", method) for method in ("feddtl", "fedlora")]


def test_every_cell_is_the_run_that_the_run_command_gives(feddtl: Command, files: list[Path]) -> None:
    answer = feddtl("compare", *files, "--seeds", 0, 1, "--output", "out", "--evaluation.every=5")
    assert answer.code == 0
    cells = sorted(path.name for path in Path("out/runs").iterdir())
    assert cells == ["feddtl-seed0", "feddtl-seed1", "fedlora-seed0", "fedlora-seed1"]
    again = ("--seed", 1, "--output", "plain", "--evaluation.every", 5, "--quiet")
    assert feddtl("run", files[1], *again).code == 0
    torch.testing.assert_close(final_state(Path("out/runs/fedlora-seed1")), final_state(Path("plain")))
    assert summary(Path("out/runs/fedlora-seed1"))["final"] == summary(Path("plain"))["final"]
    assert Path("out/runs/fedlora-seed1/config.json").read_bytes() == Path("plain/config.json").read_bytes()
    config = json.loads(Path("out/runs/feddtl-seed1/config.json").read_text())
    assert (config["rounds"], config["evaluation"]["every"], config["local"]["learning_rate"]) == (1, 5, 0.01)


def test_what_it_says_and_writes(feddtl: Command, files: list[Path]) -> None:
    answer = feddtl("compare", *files, "--seeds", 0, 1, "--rounds", 2, "--output", "out")
    first, *rest = answer.err.splitlines()
    assert first == "4 cells, 4 to run; one line is printed for each"
    lines = [line for line in rest if not line.startswith("note: ")]
    notes = [line for line in rest if line.startswith("note: ")]
    assert len(notes) == len(set(notes))  # what all runs have to say is said once
    assert notes[0].startswith("note: Fewer than 16")
    assert notes[1] == "note: 15 training images of novel classes are not trained on."
    kernels = [line for line in notes if line.startswith("note: Blocks compute in ")]
    assert [line.rpartition(": ")[2] for line in kernels[-1:]] == ["as in the comparison's first run."]
    folders = [Path("out/runs") / name for name in ("feddtl-seed0", "fedlora-seed0", "feddtl-seed1")]
    why = [json.loads((folder / "environment.json").read_text())["kernels"]["chosen"] for folder in folders]
    assert why == ["set", "shared", "shared"]
    # What a run says of a round names the run.
    others = set(notes[2:]) - set(kernels)
    assert all(re.match(r"note: fed(dtl|lora), seed [01]: Round ", line) for line in others)
    scored = r"base +[\d.]+  novel +[\d.]+  HM +[\d.]+  \d+ s"
    assert re.fullmatch(r"about \d+ s left for all cells, from the first round of FedDTL \(.*", lines.pop(0))
    assert re.fullmatch(rf"\[1/4\] FedDTL \(feddtl\), seed 0  {scored}  about \d+ s left", lines[0])
    assert re.fullmatch(rf"\[2/4\] FedLoRA \+ two-stage \(fedlora\), seed 0  {scored}(  about \d+ s left)?", lines[1])
    assert re.fullmatch(rf"\[4/4\] FedLoRA \+ two-stage \(fedlora\), seed 1  {scored}", lines[3])
    assert "\x1b" not in answer.err
    assert answer.out.startswith("Accuracy in %: photos, few-shot, non-iid, 3 clients, 2 rounds, ")
    for text in ("Zero-shot", "FedDTL", "FedLoRA", "Local", "Δ HM", "best", "95 % interval"):
        assert text in answer.out
    assert answer.out.splitlines()[-1] == "out has table.md, table.tex, table.csv, comparison.json"
    assert "Mean over the clients' own models" in Path("out/table.md").read_text()
    final = json.loads(Path("out/comparison.json").read_text())["runs"][0]["final"]
    assert final == json.loads(Path("out/runs/feddtl-seed0/summary.json").read_text())["final"]
    assert len(Path("out/table.csv").read_text().splitlines()) == 5


def test_a_second_time_everything_is_kept(feddtl: Command, files: list[Path]) -> None:
    words = ("compare", *files, "--output", "out")
    first, before = feddtl(*words), contents(Path("out"))
    answer = feddtl(*words)
    assert answer.out == first.out
    assert [line.split()[-1] for line in answer.err.splitlines()] == ["kept", "kept"]
    assert contents(Path("out")) == before


def test_a_seed_can_be_added(feddtl: Command, files: list[Path]) -> None:
    assert feddtl("compare", files[0], "--output", "out").code == 0
    answer = feddtl("compare", *files, "--seeds", 0, 1, "--output", "out")
    assert answer.code == 0
    assert answer.err.count("kept") == 1
    assert len(json.loads(Path("out/comparison.json").read_text())["runs"]) == 4


def test_json_prints_comparison_json_and_nothing_else(feddtl: Command, files: list[Path]) -> None:
    answer = feddtl("compare", files[0], "--json")
    assert answer.err == ""
    assert answer.out == Path("runs/comparison/comparison.json").read_text()


def test_quiet_prints_the_tables_alone(feddtl: Command, files: list[Path]) -> None:
    answer = feddtl("compare", "--quiet", files[1], "--output", "out")
    assert answer.err == ""
    assert "Accuracy in %" in answer.out


def test_a_failed_cell_is_named_and_the_rest_goes_on(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    broken = write_experiment(bench, tmp_path / "broken.toml", source=tmp_path / "nowhere")
    good = write_experiment(bench, tmp_path / "good.toml")
    answer = feddtl("compare", broken, good, "--output", "out")
    assert answer.code == 1
    assert "[1/2] FedDTL (broken), seed 0  failed: " in answer.err
    ending = answer.err[answer.err.index("error: ") :]
    assert ending.startswith("error: 1 of 2 cells failed:\n  broken, seed 0: ")
    assert "nowhere" in ending
    assert "run the same command again" in ending
    assert "FedDTL" in answer.out
    assert [path.name for path in Path("out/runs").iterdir()] == ["good-seed0"]
    (tmp_path / "nowhere").symlink_to(bench.photos)
    answer = feddtl("compare", broken, good, "--output", "out")
    assert answer.code == 0
    assert answer.err.count("kept") == 1


def test_other_flags_are_refused_as_run_refuses_them(feddtl: Command, files: list[Path]) -> None:
    assert feddtl("compare", files[0], "--output", "out").code == 0
    before = contents(Path("out/runs"))
    answer = feddtl("compare", files[0], "--output", "out", "--rounds", 3)
    assert answer.code == 1
    assert "rounds is 1 there, 3 here" in answer.err
    assert contents(Path("out/runs")) == before


def test_bad_words(bench: Bench, feddtl: Command, tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "other").mkdir()
    twin = write_experiment(bench, tmp_path / "other/feddtl.toml")
    refused(feddtl("compare"), "no experiment to compare")
    refused(feddtl("compare", "folder"), "'folder' is not an experiment file")
    refused(feddtl("compare", "missing.toml"), "Cannot read the experiment file missing.toml")
    refused(feddtl("compare", *files, twin), "Two experiments are called 'feddtl'", str(twin))
    refused(feddtl("compare", *files, "--seed", 3), "--seed", "--seeds")
    refused(feddtl("compare", *files, "--seed=0"), "--seed", "--seeds")
    refused(feddtl("compare", *files, "--seeds", 1, 1), "seeds = (1, 1)")
    refused(feddtl("compare", *files, "--rounds", 0), "feddtl with these flags: rounds = 0")
    refused(feddtl("compare", *files, "--output", tmp_path), "something other than a comparison")
    assert feddtl("compare", *files, "--no-such-flag", 1).code == 2
    assert feddtl("compare", *files, "--seeds", "one").code == 2
    assert not Path("runs").exists()


def test_a_flag_is_judged_beside_the_values_of_each_file(bench: Bench, feddtl: Command, tmp_path: Path) -> None:
    """Three supervised rounds fit into four, but not into two."""
    four = write_experiment(bench, tmp_path / "four.toml", rounds=4)
    two = write_experiment(bench, tmp_path / "two.toml", rounds=2)
    assert feddtl("compare", four, "--schedule.sft-rounds", 3, "--output", "out").code == 0
    refused(feddtl("compare", four, two, "--schedule.sft-rounds", 3), "two with these flags: schedule.sft_rounds = 3")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a.toml", "b.toml", "--seeds", "0", "1", "--output", "c.toml"], ["a.toml", "b.toml"]),
        (["--quiet", "a.toml", "--rounds=3", "b.toml"], ["a.toml", "b.toml"]),
        (["--rounds", "3", "a.toml", "--seeds", "1", "b.toml"], ["a.toml"]),
        (["--rl.noise-std", "-3", "a.toml"], ["a.toml"]),
        (["--seeds", "0", "1", "--json", "a.toml"], ["a.toml"]),
        ([], []),
    ],
)
def test_which_words_are_files(words: list[str], found: list[str]) -> None:
    assert list(positionals(words)) == found


def test_help_shows_every_flag_without_a_file(feddtl: Command) -> None:
    answer = feddtl("compare", "--help-all")
    assert answer.code == 0
    for flag in ("--seeds", "--output", "--json", "--quiet", "--data.source", "--rl.noise-std"):
        assert flag in answer.out
    assert "--resolved" not in answer.out


def test_interrupted_by_the_user(feddtl: Command, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert feddtl("compare", files[0], "--output", "out").code == 0

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("feddtl.preparation.load_backbone", interrupt)
        answer = feddtl("compare", *files, "--output", "out")
    assert answer.code == 130
    assert "run the same command again" in answer.err
    assert len(json.loads(Path("out/comparison.json").read_text())["runs"]) == 1
    assert feddtl("compare", *files, "--output", "out").code == 0


@pytest.mark.slow
def test_killed_in_the_second_cell_and_given_again(processes: KillableRuns, files: list[Path], tmp_path: Path) -> None:
    """Tables of the first cell stay; then every cell ends where it would have without the kill."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = ["compare", *files, "--rounds", 2]
    assert processes.run([*words, "--output", whole]) == 0
    second = out / "runs" / "fedlora-seed0"
    assert processes.kill_when([*words, "--output", out], (second / "checkpoints/round-0001").exists, slow=0.02)
    assert not (second / "summary.json").exists()
    assert [run["experiment"] for run in json.loads((out / "comparison.json").read_text())["runs"]] == ["feddtl"]
    assert "FedLoRA" not in (out / "table.md").read_text()
    first = contents(out / "runs" / "feddtl-seed0")
    assert processes.run([*words, "--output", out]) == 0
    assert contents(out / "runs" / "feddtl-seed0") == first
    for cell in ("feddtl-seed0", "fedlora-seed0"):
        resumed, uninterrupted = out / "runs" / cell, whole / "runs" / cell
        # To rounding: what a process computed before moves its memory, and with it the order of sums.
        torch.testing.assert_close(final_state(resumed), final_state(uninterrupted))
        assert summary(resumed)["final"] == summary(uninterrupted)["final"]
    assert list(out.rglob(".*.draft")) == []


@pytest.mark.slow
def test_killed_before_every_kind_of_storage_operation(
    processes: KillableRuns, files: list[Path], tmp_path: Path
) -> None:
    """Each process gets a little further; whatever is left can always be gone on with."""
    words, number = ["compare", files[0], "--output", tmp_path / "out"], 1
    while (code := processes.run(words, die_before=number)) != 0:
        assert code == -9
        number += 7
    assert number > 20
    assert len(json.loads((tmp_path / "out/comparison.json").read_text())["runs"]) == 1


def test_bars_and_a_line_for_each_cell(files: list[Path], tmp_path: Path) -> None:
    screen = io.StringIO()
    drawn: list[tuple[Any, ...]] = []

    class RecordedBars(Bars):
        def draw(self, name: str, *arguments: Any, **options: Any) -> None:
            drawn.append(arguments)
            super().draw(name, *arguments, **options)

    with RecordedBars(Console(file=screen, force_terminal=True, width=100, color_system=None)) as bars:
        experiments = {file.stem: load_experiment(file) for file in files}
        compare(experiments, tmp_path / "out", observer=ComparisonProgress(bars))
    assert drawn == [
        ("cells", 0, 2),
        ("loading feddtl, seed 0",),
        ("feddtl, seed 0", 0, 1),
        ("feddtl, seed 0", 1, 1),
        ("cells", 1, 2),
        ("cells", 1, 2),
        ("loading fedlora, seed 0",),
        ("fedlora, seed 0", 0, 1),
        ("fedlora, seed 0", 1, 1),
        ("cells", 2, 2),
    ]
    assert "[2/2] FedLoRA + two-stage (fedlora), seed 0" in screen.getvalue()
    assert "━━━━" in screen.getvalue()


def test_the_time_left_is_said_once_from_the_first_round_on_and_then_for_each_cell() -> None:
    screen, done = io.StringIO(), made_up("a", 3, 60, 50)
    observer, cell = ComparisonProgress(Bars(Console(file=screen, width=40))), Cell("a", done.experiment, Path("a"))
    observer.time_estimated(cell, 65)
    observer.time_estimated(cell, 60)
    observer.cell_finished(cell, done, 1, 2, 55)
    first, second = screen.getvalue().splitlines()
    assert first == "about 1 min 05 s left for all cells, from the first round of FedDTL (a), seed 3"
    assert second.endswith("10 s  about 55 s left")


def test_lines_of_kept_and_failed_cells() -> None:
    screen = io.StringIO()
    observer = ComparisonProgress(Bars(Console(file=screen, width=40)))
    done = made_up("a", 3, 60, 50, method="pfedmma")
    cell = Cell("a", done.experiment, Path("a"))
    observer.cell_kept(cell, done, 1, 12)
    observer.cell_failed(cell, Failure("a", 3, "[red] is no data set."), 12, 12)
    assert screen.getvalue().splitlines() == [
        "[ 1/12] pFedMMA (a), seed 3  base  60.0  novel  50.0  HM  54.5  kept",
        "[12/12] pFedMMA (a), seed 3  failed: [red] is no data set.",
    ]


def test_which_observer() -> None:
    for quiet, kind in ((True, ComparisonWarnings), (False, ComparisonProgress)):
        with comparison_progress(quiet=quiet) as observer:
            assert type(observer) is kind


def test_a_table_is_cut_between_groups_and_where_a_line_is_full() -> None:
    """A column of ten signs takes 13; the labels take 5 + 3, the frame 1: 48 signs hold three columns."""
    columns = tuple(Column("HM", group) for group in ("", "", "", "", "Paper"))
    table = Table("T", columns, (("label", (TableCell("x" * 10),) * 5),))
    assert list(parts(table, 48)) == [range(3), range(3, 4), range(4, 5)]
    assert list(parts(table, 47)) == [range(2), range(2, 4), range(4, 5)]
    assert list(parts(table, 200)) == [range(4), range(4, 5)]
    assert list(parts(table, 5)) == [range(index, index + 1) for index in range(5)]
