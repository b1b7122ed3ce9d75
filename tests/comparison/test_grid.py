"""Which cells are run in what order, what is kept, and how long the rest will take; runs are stand-ins here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison.made_up import outcome

from feddtl.comparison import grid
from feddtl.comparison.cells import Cell, cells_of
from feddtl.comparison.files import load_comparison
from feddtl.comparison.grid import ComparisonObserver, compare
from feddtl.config import Experiment
from feddtl.errors import ClientError, ConfigError, RunError
from feddtl.experiment_file import experiment_to_dict
from feddtl.storage import only_writer

EXPERIMENTS = {"one": Experiment(), "two": Experiment(method="fedlora")}
Runs = list[tuple[str, bool]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Folder and `resume` of every run; a run writes its files without training anything."""
    started: Runs = []

    def run(
        experiment: Experiment, output: Path, *, resume: bool, observer: object, kernels: object, **more: object
    ) -> None:
        started.append((output.name, resume))
        output.mkdir(parents=True, exist_ok=True)
        done = outcome("x", experiment.seed, 60, 50, method=experiment.method)
        for name, content in (
            ("config.json", experiment_to_dict(experiment)),
            ("environment.json", {}),
            ("summary.json", done.summary.to_dict()),
        ):
            (output / name).write_text(json.dumps(content))

    monkeypatch.setattr(grid, "run_experiment", run)
    return started


class Heard(ComparisonObserver):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        self.events.append(("started", cell.folder.name, done, cells))

    def cell_finished(self, cell: Cell, found: object, done: int, cells: int, seconds_left: float | None) -> None:
        self.events.append(("finished", cell.folder.name, done, cells, seconds_left))

    def cell_kept(self, cell: Cell, found: object, done: int, cells: int) -> None:
        self.events.append(("kept", cell.folder.name, done, cells))

    def cell_failed(self, cell: Cell, failure: object, done: int, cells: int) -> None:
        self.events.append(("failed", cell.folder.name, done, cells))


def test_seed_by_seed() -> None:
    cells = cells_of(EXPERIMENTS, (3, 1), Path("out"))
    assert [str(cell.folder) for cell in cells] == [
        "out/runs/one-seed3",
        "out/runs/two-seed3",
        "out/runs/one-seed1",
        "out/runs/two-seed1",
    ]
    assert [(cell.seed, cell.experiment.method) for cell in cells[2:]] == [(1, "feddtl"), (1, "fedlora")]


@pytest.mark.parametrize("seeds", [(), (0, 0), (-1,), (2**31,)])
def test_bad_seeds(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="seed"):
        cells_of(EXPERIMENTS, seeds, Path("out"))


def test_no_experiment() -> None:
    with pytest.raises(ConfigError, match="no experiment"):
        cells_of({}, (0,), Path("out"))


def test_everything_runs_once_and_is_then_kept(runs: Runs, tmp_path: Path) -> None:
    first = compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1))
    assert runs == [(f"{name}-seed{seed}", False) for seed in (0, 1) for name in ("one", "two")]
    heard = Heard()
    assert compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1), observer=heard) == first
    assert len(runs) == 4
    assert [event[0] for event in heard.events] == ["kept"] * 4
    assert load_comparison(tmp_path / "out") == first


def test_position_and_time_left(runs: Runs, tmp_path: Path) -> None:
    """Every stand-in takes ten seconds."""
    heard = Heard()
    compare(EXPERIMENTS, tmp_path / "out", observer=heard)
    assert heard.events == [
        ("started", "one-seed0", 0, 2),
        ("finished", "one-seed0", 1, 2, 10.0),
        ("started", "two-seed0", 1, 2),
        ("finished", "two-seed0", 2, 2, 0),
    ]


def test_a_run_that_was_interrupted_goes_on_and_the_finished_ones_are_in_the_tables_first(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1))
    (tmp_path / "out/runs/one-seed0/summary.json").unlink()
    run = grid.run_experiment
    seen: list[int] = []

    def look_then_run(*arguments: Any, **named: Any) -> Any:
        seen.append(len(load_comparison(tmp_path / "out").outcomes))
        return run(*arguments, **named)

    monkeypatch.setattr(grid, "run_experiment", look_then_run)
    found = compare(EXPERIMENTS, tmp_path / "out", seeds=(0, 1))
    assert runs[-1] == ("one-seed0", True)
    assert seen == [3]
    assert [(one.name, one.seed) for one in found.outcomes] == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]


def test_a_failed_cell_leaves_the_rest(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Callable[..., Any] = grid.run_experiment

    def fail_sometimes(experiment: Experiment, output: Path, **named: Any) -> Any:
        if output.name == "one-seed0":
            raise ClientError("Client 2 sent NaN in round 3.", "Lower local.learning_rate.")
        return run(experiment, output, **named)

    with monkeypatch.context() as patch:
        patch.setattr(grid, "run_experiment", fail_sometimes)
        heard = Heard()
        found = compare(EXPERIMENTS, tmp_path / "out", observer=heard)
    assert [one.name for one in found.outcomes] == ["two"]
    [failure] = found.failures
    assert (failure.name, failure.seed, failure.hint) == ("one", 0, "Lower local.learning_rate.")
    assert heard.events[1] == ("failed", "one-seed0", 1, 2)
    assert load_comparison(tmp_path / "out") == found
    assert compare(EXPERIMENTS, tmp_path / "out").failures == ()


def test_a_folder_of_another_experiment_is_that_cell_s_failure(runs: Runs, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out")
    found = compare({**EXPERIMENTS, "one": Experiment(rounds=7)}, tmp_path / "out")
    [failure] = found.failures
    assert "rounds is 20 there, 7 here" in failure.message
    assert [one.name for one in found.outcomes] == ["two"]
    assert len(runs) == 2


@pytest.mark.parametrize("name", ["notes.txt", "table.md"])
def test_another_folder_is_left_alone(runs: Runs, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="something other than a comparison"):
        compare(EXPERIMENTS, tmp_path)
    with pytest.raises(RunError, match="is a file"):
        compare(EXPERIMENTS, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert runs == []


def test_one_writer(runs: Runs, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out")
    with only_writer(tmp_path / "out"), pytest.raises(RunError, match="Another process"):
        compare(EXPERIMENTS, tmp_path / "out")
