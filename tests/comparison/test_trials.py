"""A comparison at chosen rates: its cells, what is kept, what is refused; runs are stand-ins here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison.made_up import outcome

import feddtl
from feddtl.comparison import grid
from feddtl.comparison.cells import Cell
from feddtl.comparison.files import load_comparison
from feddtl.comparison.grid import ComparisonObserver, compare
from feddtl.comparison.tuning import ChosenRates, Tuning
from feddtl.config import Experiment
from feddtl.errors import ClientError, ConfigError, DataError, FeddtlError, RunError
from feddtl.experiment_file import experiment_to_dict

EXPERIMENTS = {
    "one": Experiment(),
    "two": Experiment(method="fedlora"),
    "zero": Experiment(method="zero-shot"),
}
TUNING = Tuning((0.001, 0.01))
TRIALS = ["one-rate0.001-seed0", "one-rate0.01-seed0", "two-rate0.001-seed0", "two-rate0.01-seed0"]
CELLS = ["one-seed0", "two-seed0", "zero-seed0"]
# (method, rate, images) -> base accuracy, or why the run stops
Score = Callable[[str, float, str], float | BaseException]


class StandIn:
    """Runs that train nothing: FedDTL is best at 0.01, FedLoRA at 0.001."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.score: Score = lambda method, rate, images: 100 * rate if method == "feddtl" else 50 - 100 * rate

    def __call__(
        self, experiment: Experiment, output: Path, *, resume: bool, observer: object, kernels: object, **more: object
    ) -> None:
        self.started.append(output.name)
        found = self.score(experiment.method, experiment.local.learning_rate, experiment.evaluation.images)
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.json").write_text(json.dumps(experiment_to_dict(experiment)))
        (output / "environment.json").write_text("{}")
        if isinstance(found, BaseException):
            raise found
        done = outcome("x", experiment.seed, found, 50, method=experiment.method).finished.to_dict()
        (output / "summary.json").write_text(json.dumps(done))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(grid, "run_experiment", stand_in)
    return stand_in


class Heard(ComparisonObserver):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def cell_finished(self, cell: Cell, found: object, done: int, cells: int, seconds_left: float | None) -> None:
        self.events.append((cell.folder.name, cell.rate, done, cells, seconds_left))

    def note(self, text: str) -> None:
        self.events.append(text)

    def rates_chosen(self, rates: ChosenRates) -> None:
        self.events.append({choice.name: choice.rate for choice in rates.choices})


def rate_of(folder: Path) -> float:
    return float(json.loads((folder / "config.json").read_text())["local"]["learning_rate"])


def tuning(folder: Path) -> Any:
    return json.loads((folder / "tuning.json").read_text())


def test_rates_are_chosen_first_and_the_cells_run_at_them(runs: StandIn, tmp_path: Path) -> None:
    """Seven stand-ins of ten seconds each; zero-shot is expected to take as long as one of their twenty rounds."""
    heard = Heard()
    found = compare(EXPERIMENTS, tmp_path / "out", tune=TUNING, observer=heard)
    assert runs.started == [*TRIALS, *CELLS]
    assert [rate_of(tmp_path / "out/runs" / name) for name in CELLS] == [0.01, 0.001, 0.001]
    assert heard.events[:2] == [(TRIALS[0], 0.001, 1, 7, 50.5), (TRIALS[1], 0.01, 2, 7, 40.5)]
    assert heard.events[4] == {"one": 0.01, "two": 0.001}
    assert heard.events[-1] == ("zero-seed0", None, 7, 7, 0)
    assert load_comparison(tmp_path / "out") == found
    assert tuning(tmp_path / "out") == {"feddtl": feddtl.__version__, **found.as_dict()["tuning"]}
    assert found.rates is not None
    assert (found.rates.seeds, found.rates.untrained) == ((0,), ("zero",))


def test_tables_show_the_chosen_rates(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    table = (tmp_path / "out/table.md").read_text()
    assert "| FedDTL | 0.01 | base | 0.1 | **1.0** |" in table
    [head] = [line.split(" | ") for line in table.splitlines() if "| Rate |" in line]
    shown = {
        line.split(" | ")[0]: line.split(" | ")[head.index("Rate")] for line in table.split("## ")[1].splitlines()[4:7]
    }
    assert shown == {"| Zero-shot": "–", "| FedDTL": "0.01", "| FedLoRA + two-stage": "0.001"}
    assert r"Chosen rates" in (tmp_path / "out/table.tex").read_text()
    assert "local.learning_rate" in (tmp_path / "out/table.csv").read_text().splitlines()[0]


def test_without_tuning_there_is_no_rate_in_the_tables(runs: StandIn, tmp_path: Path) -> None:
    found = compare(EXPERIMENTS, tmp_path / "out")
    assert "Rate" not in (tmp_path / "out/table.md").read_text()
    assert "tuning" not in found.as_dict()
    assert not (tmp_path / "out/tuning.json").exists()


def test_every_rate_runs_with_every_tuning_seed(runs: StandIn, tmp_path: Path) -> None:
    compare({"one": Experiment()}, tmp_path / "out", seeds=(5, 6), tune=replace(TUNING, seeds=(8, 9)))
    assert runs.started == [
        *("one-rate0.001-seed8", "one-rate0.01-seed8", "one-rate0.001-seed9", "one-rate0.01-seed9"),
        *("one-seed5", "one-seed6"),
    ]


@pytest.mark.parametrize("killed", range(7))
def test_a_comparison_that_was_killed_goes_on_wherever_it_was(runs: StandIn, tmp_path: Path, killed: int) -> None:
    whole = compare(EXPERIMENTS, tmp_path / "whole", tune=TUNING)
    runs.started.clear()
    score, runs.score = runs.score, lambda *cell: KeyboardInterrupt() if len(runs.started) > killed else score(*cell)
    with pytest.raises(KeyboardInterrupt):
        compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    assert (tmp_path / "out/comparison.json").exists()
    runs.score = score
    assert compare(EXPERIMENTS, tmp_path / "out", tune=TUNING) == whole
    order = [*TRIALS, *CELLS]
    assert runs.started == [*order[: killed + 1], *order[killed:]]
    assert compare(EXPERIMENTS, tmp_path / "out", tune=TUNING) == whole
    assert len(runs.started) == 8


def test_a_rate_that_diverges_is_worst_and_the_comparison_has_no_failure(runs: StandIn, tmp_path: Path) -> None:
    runs.score = lambda method, rate, images: ClientError("NaN in 'A'.", "Lower it.") if rate == 0.01 else 30.0
    found = compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    assert found.failures == ()
    assert found.rates is not None
    assert [(choice.rate, dict(choice.diverged)) for choice in found.rates.choices] == [
        (0.001, {0.01: "NaN in 'A'."})
    ] * 2
    assert "FedDTL (one) diverged at 0.01: NaN in 'A'." in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ClientError("NaN.", ""), "At every rate of the grid, a run diverged"),
        (DataError("No images.", ""), "No images."),
    ],
)
def test_a_method_without_a_choice_fails_and_the_others_go_on(
    runs: StandIn, tmp_path: Path, error: FeddtlError, message: str
) -> None:
    runs.score = lambda method, rate, images: error if method == "fedlora" and images == "held-back" else 30.0
    found = compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1), tune=TUNING)
    assert [(failure.name, failure.seed) for failure in found.failures] == [("two", 0), ("two", 1)]
    assert message in found.failures[0].message
    assert {result.name for result in found.outcomes} == {"one", "zero"}
    runs.score = lambda method, rate, images: 30.0
    assert compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1), tune=TUNING).failures == ()


def test_a_folder_with_chosen_rates_and_one_without_are_not_mixed(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "tuned", tune=TUNING)
    compare(EXPERIMENTS, tmp_path / "plain")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="this command has no --tune") as caught:
        compare(EXPERIMENTS, tmp_path / "tuned")
    assert "Add --tune" in caught.value.hint
    with pytest.raises(RunError, match="at the learning rates of its files, and this command has --tune"):
        compare(EXPERIMENTS, tmp_path / "plain", tune=TUNING)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_larger_grid_keeps_what_was_run_and_names_runs_at_another_rate(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    runs.started.clear()
    files = [tmp_path / "out" / name for name in ("tuning.json", "comparison.json", "table.md")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(RunError, match=r"one-seed0 has 0\.01, and 0\.1 is chosen now") as caught:
        compare(EXPERIMENTS, tmp_path / "out", tune=Tuning((0.001, 0.01, 0.1)))
    assert "two-seed0" not in caught.value.message
    assert "keep the earlier choice" in caught.value.message
    assert [file.read_bytes() for file in files] == before
    assert "Delete these folders" in caught.value.hint
    assert runs.started == ["one-rate0.1-seed0", "two-rate0.1-seed0"]
    for file in (tmp_path / "out/runs/one-seed0").iterdir():
        file.unlink()
    found = compare(EXPERIMENTS, tmp_path / "out", tune=Tuning((0.001, 0.01, 0.1)))
    assert found.rates is not None
    assert [choice.rate for choice in found.rates.choices] == [0.1, 0.001]
    assert runs.started[2:] == ["one-seed0"]
    assert tuning(tmp_path / "out") == {"feddtl": feddtl.__version__, **found.as_dict()["tuning"]}


def test_an_experiment_that_is_no_longer_named_leaves_the_files_with_a_note(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    heard = Heard()
    found = compare({"two": EXPERIMENTS["two"]}, tmp_path / "out", tune=TUNING, observer=heard)
    assert heard.events[1].startswith("tuning.json and the tables no longer contain one, which this command does not")
    assert tuning(tmp_path / "out") == {"feddtl": feddtl.__version__, **found.as_dict()["tuning"]}
    assert compare(EXPERIMENTS, tmp_path / "out", tune=TUNING, observer=(again := Heard())).failures == ()
    assert not any(isinstance(event, str) for event in again.events)


def test_a_bad_command_leaves_no_folder(runs: StandIn, tmp_path: Path) -> None:
    twins = {"a": Experiment(), "b": replace(Experiment(), local=replace(Experiment().local, learning_rate=0.5))}
    with pytest.raises(ConfigError, match="differ only in"):
        compare(twins, tmp_path / "out", tune=TUNING)
    with pytest.raises(ConfigError, match="seeds"):
        compare(EXPERIMENTS, tmp_path / "out", tune=replace(TUNING, seeds=(1, 1)))
    assert not (tmp_path / "out").exists()
