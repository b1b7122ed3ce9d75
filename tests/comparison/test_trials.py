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
from feddtl.comparison.choices import Tuned
from feddtl.comparison.files import load_comparison
from feddtl.comparison.grid import ComparisonObserver, compare
from feddtl.comparison.tuning import Tuning
from feddtl.config import Experiment
from feddtl.errors import ClientError, ConfigError, DataError, FeddtlError, RunError
from feddtl.experiment_file import experiment_to_dict

EXPERIMENTS = {
    "one": Experiment(method="fedclip"),
    "two": Experiment(method="fedlora"),
    "zero": Experiment(method="zero-shot"),
}
TUNING = Tuning((0.001, 0.01))
LOCAL, SERVER = "local.learning_rate", "server.learning_rate"
TRIALS = ["one-rate0.001-seed0", "one-rate0.01-seed0", "two-rate0.001-seed0", "two-rate0.01-seed0"]
CELLS = ["one-seed0", "two-seed0", "zero-seed0"]
# (method, rate, images) -> base accuracy, or why the run stops
Score = Callable[[str, float, str], float | BaseException]
# With a server rate: (rate, server's) -> base accuracy.
BY_RATES = {(0.001, 0.001): 50, (0.01, 0.001): 60, (0.001, 0.01): 90, (0.01, 0.01): 80}
TWO = {"one": Experiment(), "two": Experiment(method="fedlora")}


class StandIn:
    """Runs that train nothing: FedCLIP is best at 0.01, FedLoRA at 0.001."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.score: Score = lambda method, rate, images: 100 * rate if method == "fedclip" else 50 - 100 * rate

    def __call__(
        self, experiment: Experiment, output: Path, *, resume: bool, observer: object, kernels: object, **more: object
    ) -> None:
        self.started.append(output.name)
        found = self.score(experiment.method, experiment.local.learning_rate, experiment.evaluation.images)
        if experiment.method == "feddtl" and isinstance(found, float):
            found = BY_RATES[experiment.local.learning_rate, experiment.server.learning_rate]
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
        self.events.append((cell.folder.name, dict(cell.tried), done, cells, seconds_left))

    def note(self, text: str) -> None:
        self.events.append(text)

    def settings_chosen(self, tuned: Tuned) -> None:
        self.events.append({choice.name: choice.chosen for choice in tuned.choices})


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
    assert heard.events[:2] == [
        (TRIALS[0], {LOCAL: 0.001}, 1, 7, 50.5),
        (TRIALS[1], {LOCAL: 0.01}, 2, 7, 40.5),
    ]
    assert heard.events[4] == {"one": {LOCAL: 0.01}, "two": {LOCAL: 0.001}}
    assert heard.events[-1] == ("zero-seed0", {}, 7, 7, 0)
    assert load_comparison(tmp_path / "out") == found
    assert tuning(tmp_path / "out") == {"feddtl": feddtl.__version__, **found.as_dict()["tuning"]}
    assert found.tuned is not None
    assert (found.tuned.seeds, found.tuned.without) == ((0,), ("zero",))


ONE = ["one-rate0.001-server-rate0.001-seed0", "one-rate0.01-server-rate0.001-seed0"]
AGAIN = ["one-rate0.01-server-rate0.01-seed0", "one-rate0.001-server-rate0.01-seed0"]


def test_both_rates_of_a_method_are_chosen_one_after_the_other(runs: StandIn, tmp_path: Path) -> None:
    """From the file's 0.001 on the server: 0.01 is better there, then 0.01 on the server, then 0.001 on the clients."""
    heard = Heard()
    found = compare(TWO, tmp_path / "out", tune=TUNING, observer=heard)
    assert runs.started == [*ONE, *TRIALS[2:], *AGAIN, "one-seed0", "two-seed0"]
    assert found.tuned is not None
    [one, two] = found.tuned.choices
    assert (one.chosen, two.chosen) == ({LOCAL: 0.001, SERVER: 0.01}, {LOCAL: 0.001})
    assert [(tried.values[LOCAL], tried.values[SERVER], tried.mean) for tried in one.tried] == [
        *((0.001, 0.001, 50), (0.01, 0.001, 60), (0.01, 0.01, 80), (0.001, 0.01, 90))
    ]
    config = json.loads((tmp_path / "out/runs/one-seed0/config.json").read_text())
    assert (config["local"]["learning_rate"], config["server"]["learning_rate"]) == (0.001, 0.01)
    # Seven cells are certain at first: 2 + 1 points, 2 points, 2 cells; the eighth follows from the third.
    assert [event[2:4] for event in heard.events if isinstance(event, tuple)] == [
        *((1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (6, 8), (7, 8), (8, 8))
    ]
    notes = [event for event in heard.events if isinstance(event, str)]
    assert notes[:2] == [
        "FedDTL (one): best so far with rate 0.01, server rate 0.001; 1 point around it next",
        "FedDTL (one): best so far with rate 0.01, server rate 0.01; 1 point around it next",
    ]
    table = (tmp_path / "out/table.md").read_text()
    assert "Rate: local.learning\\_rate, Server rate: server.learning\\_rate, chosen on held-back" in table
    assert "Points tried: 4 for FedDTL; 2 for FedLoRA + two-stage." in table
    assert (tmp_path / "out/table.csv").read_text().splitlines()[0].endswith(f"{LOCAL},{SERVER}")
    assert [line.rpartition(",")[2] for line in (tmp_path / "out/table.csv").read_text().splitlines()[1:]] == [
        "0.01",
        "",
    ]


@pytest.mark.parametrize("killed", range(8))
def test_a_search_that_was_killed_goes_on_wherever_it_was(runs: StandIn, tmp_path: Path, killed: int) -> None:
    score, runs.score = runs.score, lambda *cell: KeyboardInterrupt() if len(runs.started) > killed else score(*cell)
    with pytest.raises(KeyboardInterrupt):
        compare(TWO, tmp_path / "out", tune=TUNING)
    runs.score = score
    found = compare(TWO, tmp_path / "out", tune=TUNING)
    order = [*ONE, *TRIALS[2:], *AGAIN, "one-seed0", "two-seed0"]
    assert runs.started == [*order[: killed + 1], *order[killed:]]
    assert tuning(tmp_path / "out") == {"feddtl": feddtl.__version__, **found.as_dict()["tuning"]}
    assert tuning(tmp_path / "out")["experiments"]["one"]["chosen"] == {LOCAL: 0.001, SERVER: 0.01}


def test_together_gives_every_method_as_many_points(runs: StandIn, tmp_path: Path) -> None:
    found = compare(TWO, tmp_path / "out", tune=replace(TUNING, search="together"))
    assert runs.started == [ONE[0], AGAIN[0], *TRIALS[2:], "one-seed0", "two-seed0"]
    assert "Points tried: 2 for each method." in (tmp_path / "out/table.md").read_text()
    assert found.tuned is not None
    assert found.tuned.by_name["one"].chosen == {LOCAL: 0.01, SERVER: 0.01}


def test_other_settings_are_chosen_for_the_methods_that_have_them(runs: StandIn, tmp_path: Path) -> None:
    """The stand-in does not see the rank, so the smaller one wins; FedCLIP has none, and keeps its file's rate."""
    tune = Tuning(grid={"lora.rank": (4, 2)})
    found = compare(EXPERIMENTS, tmp_path / "out", tune=tune)
    assert runs.started == ["two-lora.rank2-seed0", "two-lora.rank4-seed0", *CELLS]
    assert found.tuned is not None
    assert ([choice.chosen for choice in found.tuned.choices], found.tuned.without) == (
        [{"lora.rank": 2}],
        ("one", "zero"),
    )
    [head, *rows] = [
        line.strip("| ").split(" | ")
        for line in (tmp_path / "out/table.md").read_text().split("## ")[1].splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert {row[0]: row[head.index("lora.rank") + (len(row) - len(head))] for row in rows} == {
        "Zero-shot": "–",
        "FedCLIP": "–",
        "FedLoRA + two-stage": "2",
    }


def test_tables_show_the_chosen_rates(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    table = (tmp_path / "out/table.md").read_text()
    assert "| FedCLIP | 0.01 | base | 2 | 0.1 | **1.0** |" in table
    [head] = [line.split(" | ") for line in table.splitlines() if "| Rate |" in line]
    shown = {
        line.split(" | ")[0]: line.split(" | ")[head.index("Rate")] for line in table.split("## ")[1].splitlines()[4:7]
    }
    assert shown == {"| Zero-shot": "–", "| FedCLIP": "0.01", "| FedLoRA + two-stage": "0.001"}
    assert r"Chosen settings" in (tmp_path / "out/table.tex").read_text()
    assert "local.learning_rate" in (tmp_path / "out/table.csv").read_text().splitlines()[0]


def test_without_tuning_there_is_no_rate_in_the_tables(runs: StandIn, tmp_path: Path) -> None:
    found = compare(EXPERIMENTS, tmp_path / "out")
    assert "Rate" not in (tmp_path / "out/table.md").read_text()
    assert "tuning" not in found.as_dict()
    assert not (tmp_path / "out/tuning.json").exists()


def test_every_rate_runs_with_every_tuning_seed(runs: StandIn, tmp_path: Path) -> None:
    compare({"one": EXPERIMENTS["one"]}, tmp_path / "out", seeds=(5, 6), tune=replace(TUNING, seeds=(8, 9)))
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
    assert found.tuned is not None
    assert [(choice.chosen, choice.tried[1].diverged) for choice in found.tuned.choices] == [
        ({LOCAL: 0.001}, "NaN in 'A'.")
    ] * 2
    assert "FedCLIP (one) diverged at rate 0.01: NaN in 'A'." in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ClientError("NaN.", ""), "At every point that was tried, a run diverged"),
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
    with pytest.raises(RunError, match="with the settings of its files, and this command has --tune"):
        compare(EXPERIMENTS, tmp_path / "plain", tune=TUNING)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_larger_grid_keeps_what_was_run_and_names_runs_at_another_rate(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    runs.started.clear()
    files = [tmp_path / "out" / name for name in ("tuning.json", "comparison.json", "table.md")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(RunError, match=r"one-seed0 has rate 0\.01, and rate 0\.1 is chosen now") as caught:
        compare(EXPERIMENTS, tmp_path / "out", tune=Tuning((0.001, 0.01, 0.1)))
    assert "two-seed0" not in caught.value.message
    assert "keep the earlier choice" in caught.value.message
    assert [file.read_bytes() for file in files] == before
    assert "Delete these folders" in caught.value.hint
    assert runs.started == ["one-rate0.1-seed0", "two-rate0.1-seed0"]
    for file in (tmp_path / "out/runs/one-seed0").iterdir():
        file.unlink()
    found = compare(EXPERIMENTS, tmp_path / "out", tune=Tuning((0.001, 0.01, 0.1)))
    assert found.tuned is not None
    assert [choice.chosen for choice in found.tuned.choices] == [{LOCAL: 0.1}, {LOCAL: 0.001}]
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
    with pytest.raises(ConfigError, match=r"a with tune_grid: lora\.rank = 0 is out of range"):
        compare({"a": Experiment()}, tmp_path / "out", tune=Tuning(grid={"lora.rank": (0, 4)}))
    with pytest.raises(ConfigError, match=r"server\.learning_rate has no effect on any"):
        compare({"a": EXPERIMENTS["one"]}, tmp_path / "out", tune=Tuning(grid={SERVER: (0.1, 0.2)}))
    assert not (tmp_path / "out").exists()


def test_a_choice_of_a_later_version_is_refused_and_kept(runs: StandIn, tmp_path: Path) -> None:
    compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    file = tmp_path / "out/tuning.json"
    file.write_text(json.dumps({**tuning(tmp_path / "out"), "format": 9}))
    before = file.read_bytes()
    with pytest.raises(RunError, match="format 9, and this version reads up to 2"):
        compare(EXPERIMENTS, tmp_path / "out", tune=TUNING)
    assert file.read_bytes() == before
