"""TensorBoard as a tracker: event files are read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli.small_runs import ROUNDS, Bench
from trackers.written import assert_the_same, expected

from feddtl import trackers
from feddtl.cli import main
from feddtl.errors import ClientError
from feddtl.records import RoundRecord
from feddtl.runtimes import context

reader = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra [tensorboard]"
)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the event files: its steps and values, duplicates included."""
    events = reader.EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_as_in_the_files(run: Path) -> None:
    assert_the_same(scalars(run), expected(run))


@pytest.mark.parametrize("more", [(), ("--system.mode", "async", "--method", "fedlora")])
def test_scalars_are_those_of_metrics_jsonl(bench: Bench, tmp_path: Path, more: tuple[str, ...]) -> None:
    run = bench.run(tmp_path / "run", "--track", "tensorboard", *more)
    assert_as_in_the_files(run)
    found = scalars(run)
    assert {"base", "novel", "train/loss", "bytes_up", "seconds/steps"} <= found.keys()
    assert ("server/client_drift" in found) == (not more)  # an asynchronous step has one update
    assert [step for step, _ in found["train/loss"]] == list(range(1, ROUNDS + 1))


def test_it_is_off_by_default(finished: Path) -> None:
    assert not (finished / "tensorboard").exists()


@pytest.mark.parametrize("first", [(), ("--track", "tensorboard")], ids=["tracked later", "tracked from the start"])
def test_a_resumed_run_has_each_step_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[str, ...]
) -> None:
    """The run goes wrong in round 3, after the events of its beginning, and loses its last checkpoint as well."""
    before = context.require_finite_tensors

    def fail(tensors: Any, owner: str, remedy: str) -> None:
        if "round 3" in owner:
            raise ClientError(f"{owner} is bad.")
        before(tensors, owner, remedy)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(context, "require_finite_tensors", fail)
        assert main(["run", *bench.flags("--quiet", "--output", run, *first)]) == 1
    for file in (run / "checkpoints" / "round-0002").iterdir():
        file.unlink()
    (run / "checkpoints" / "round-0002").rmdir()
    assert main(["run", "--resume", str(run), "--quiet", "--track", "tensorboard"]) == 0
    assert_as_in_the_files(run)


def test_each_run_of_a_comparison_is_tracked(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("rounds = 1\n")
    words = ["compare", str(tmp_path / "one.toml"), *bench.flags("--rounds", 1, "--seeds", 0, 1, "--quiet")]
    assert main([*words, "--output", str(tmp_path / "out"), "--track", "tensorboard"]) == 0
    for seed in (0, 1):
        assert_as_in_the_files(tmp_path / "out" / "runs" / f"one-seed{seed}")


@pytest.mark.parametrize("command", ["run", "compare"])
def test_an_unknown_tracker_is_refused_before_anything_is_written(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "one.toml").write_text("rounds = 1\n")
    words = [command, str(tmp_path / "one.toml"), "--output", str(tmp_path / "out"), "--track", "tensorbord"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "error: There is no tracker 'tensorbord'." in error
    assert "Did you mean 'tensorboard'?" in error
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "feddtl.trackers.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["run", "--output", str(tmp_path / "out"), "--track", "tensorboard"]) == 1
    error = capsys.readouterr().err
    assert "error: The tracker 'tensorboard' cannot be imported" in error
    assert "pip install 'feddtl[tensorboard]'" in error
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_cannot_write_stops_the_run(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is that of the run, which goes on without it from where it stood."""

    class Full(trackers.RunObserver):
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def round_finished(self, record: RoundRecord) -> None:
            if record.round == 2:
                raise ClientError(f"The disk of {self.folder} is full.", "Free some space.")

    monkeypatch.setattr(trackers, "_class_of", lambda name: Full)
    run = tmp_path / "run"
    assert main(["run", *bench.flags("--quiet", "--output", run, "--track", "tensorboard")]) == 1
    assert "is full" in capsys.readouterr().err
    assert main(["run", "--resume", str(run), "--quiet"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == ROUNDS
