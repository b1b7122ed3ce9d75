"""All cells of a comparison compute with the kernels that the first one chose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comparison.made_up import outcome

from feddtl.comparison import grid
from feddtl.comparison.files import load_comparison
from feddtl.comparison.grid import ComparisonObserver, compare
from feddtl.config import ComputeConfig, Experiment
from feddtl.experiment_file import experiment_to_dict
from feddtl.models.kernels import Kernels, as_kernels, names_of

EXPERIMENTS = {
    "zero-shot": Experiment(method="zero-shot"),
    "one": Experiment(),
    "two": Experiment(method="fedlora"),
    "float": Experiment(compute=ComputeConfig(precision="float32")),
    "other": Experiment(model="/another/clip"),
}
GIVEN = dict[str, Kernels | None]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> GIVEN:
    """The kernels that each run was given; a run without any measures bfloat16 to be the fastest."""
    found: GIVEN = {}

    def run(
        experiment: Experiment, output: Path, *, resume: bool, observer: object, kernels: Kernels | None, **more: object
    ) -> None:
        found[output.name] = kernels
        write(experiment, output, kernels or as_kernels("bfloat16", "eager"))

    monkeypatch.setattr(grid, "run_experiment", run)
    return found


def write(experiment: Experiment, output: Path, kernels: Kernels) -> None:
    output.mkdir(parents=True, exist_ok=True)
    summary = outcome("x", experiment.seed, 60, 50, method=experiment.method).summary
    assert summary is not None
    for name, content in (
        ("config.json", experiment_to_dict(experiment)),
        ("environment.json", {"kernels": {**names_of(kernels), "chosen": "measured"}}),
        ("data.json", {}),
        ("summary.json", summary.to_dict()),
    ):
        (output / name).write_text(json.dumps(content))


class Notes(ComparisonObserver):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_first_cell_decides_for_those_with_its_settings(tmp_path: Path, given: GIVEN) -> None:
    """A cell that trains nothing decides nothing; another precision or model is another choice."""
    notes = Notes()
    compare(EXPERIMENTS, tmp_path, seeds=(0, 1), observer=notes)
    chosen = as_kernels("bfloat16", "eager")
    assert [given[f"{name}-seed0"] for name in EXPERIMENTS] == [None, None, chosen, None, None]
    assert all(given[f"{name}-seed1"] == chosen for name in EXPERIMENTS if name != "zero-shot")
    assert notes.texts == []
    assert [each.environment["kernels"]["chosen"] for each in load_comparison(tmp_path).outcomes] == ["measured"] * 10


def test_choice_stays_when_the_comparison_is_continued(tmp_path: Path, given: GIVEN) -> None:
    experiments = {name: EXPERIMENTS[name] for name in ("one", "two")}
    write(EXPERIMENTS["one"], tmp_path / "runs" / "one-seed0", as_kernels("float32", "eager"))
    (tmp_path / "comparison.json").write_text('{"environment": {}, "runs": []}')
    notes = Notes()
    compare(experiments, tmp_path, observer=notes)
    assert given == {"two-seed0": as_kernels("float32", "eager")}
    assert notes.texts == []


@pytest.mark.parametrize("damage", [None, lambda folder: (folder / "environment.json").write_text("{}")])
def test_cells_that_differ_are_named(tmp_path: Path, given: GIVEN, damage: Callable[[Path], object] | None) -> None:
    """Two finished cells of different machines; a cell that does not say how it computes is not compared."""
    experiments = {name: EXPERIMENTS[name] for name in ("one", "two")}
    for name, attention in (("one", "sdpa"), ("two", "eager")):
        write(experiments[name], tmp_path / "runs" / f"{name}-seed0", as_kernels("float32", attention))
    (tmp_path / "comparison.json").write_text('{"environment": {}, "runs": []}')
    if damage:
        damage(tmp_path / "runs" / "one-seed0")
    notes = Notes()
    compare(experiments, tmp_path, observer=notes)
    assert given == {}
    if damage:
        assert notes.texts == []
    else:
        [text] = notes.texts
        assert text.startswith("two-seed0 computes in float32/eager, one-seed0 in float32/sdpa")
