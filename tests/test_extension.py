"""A run that gets more rounds ends in exactly the state of one that was asked for all of them at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from cli.small_runs import Bench, contents, outcome

from feddtl.cli import main
from feddtl.runs import RunFolder

SCHEDULES = {
    # Scored in rounds 2 and 4 of four, so the last round of a run of three is one that is otherwise not scored.
    "sft": ("--schedule.stages", "sft", "--evaluation.every", "2"),
    "sft-then-rl": ("--schedule.sft-rounds", "1", "--participation", "0.5"),
    "fedppo": ("--schedule.stages", "sft", "--participation", "0.5", "--system.selection", "fedppo"),
    "async": ("--schedule.sft-rounds", "2", "--participation", "0.5", "--system.mode", "async"),
}


class Runs(NamedTuple):
    """Two runs that differ in their number of rounds; shared by all tests, so none may change them."""

    whole: Path
    short: Path


@pytest.fixture(scope="module")
def derived(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three rounds, of which half, two, are SFT because three are asked for."""
    return bench.run(tmp_path_factory.mktemp("derived") / "run", "--rounds", 3)


@pytest.fixture(scope="module")
def runs_of(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runs]:
    """Runs by schedule: of four rounds, and of three when only three were asked for."""

    @cache
    def make(schedule: str) -> Runs:
        folder, flags = tmp_path_factory.mktemp(schedule), SCHEDULES[schedule]
        return Runs(*(bench.run(folder / str(rounds), *flags, "--rounds", rounds) for rounds in (4, 3)))

    return make


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_extended_run_is_the_one_that_was_asked_for_at_once(
    schedule: str, runs_of: Callable[[str], Runs], tmp_path: Path
) -> None:
    whole, short = runs_of(schedule)
    shutil.copytree(short, short := tmp_path / "run")
    assert main(["run", "--resume", str(short), "--rounds", "4", "--quiet"]) == 0
    assert outcome(short) == outcome(whole)
    folder = RunFolder.open(short)
    assert folder.experiment.rounds == 4
    assert folder.summary is not None
    assert folder.summary.rounds == 4
    assert main(["run", "--resume", str(short), "--quiet"]) == 0


@pytest.mark.parametrize("killed_in", ["drop_checkpoint", "write_sealed", "add_checkpoint"])
def test_a_run_killed_while_it_is_extended_can_be_resumed(
    killed_in: str, runs_of: Callable[[str], Runs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = runs_of("sft")
    shutil.copytree(short, short := tmp_path / "run")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"feddtl.runs.{killed_in}", killed)
        assert main(["run", "--resume", str(short), "--rounds", "4", "--quiet"]) == 130
    assert main(["run", "--resume", str(short), "--rounds", "4", "--quiet"]) == 0
    assert outcome(short) == outcome(whole)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (2, "has finished 3 of 3 rounds, so it cannot become a run of 2"),
        (8, "round 3 belongs to the RL stage there, and to the SFT stage with the other number"),
        (8, "With --init-from "),
    ],
)
def test_a_run_that_cannot_be_extended_says_why(
    rounds: int, said: str, derived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(derived)
    assert main(["run", "--resume", str(derived), "--rounds", str(rounds)]) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert contents(derived) == before


def test_a_finished_run_whose_data_changed_is_not_touched(bench: Bench, tmp_path: Path) -> None:
    """The checks of every resumed run come before the summary is removed."""
    photos = shutil.copytree(bench.photos, tmp_path / "photos")
    run = bench.run(tmp_path / "run", "--schedule.stages", "sft", "--rounds", 1, "--data.source", photos)
    next(photos.rglob("*.png")).unlink()
    before = (run / "summary.json").read_bytes()
    assert main(["run", "--resume", str(run), "--rounds", "2", "--quiet"]) == 1
    assert (run / "summary.json").read_bytes() == before
