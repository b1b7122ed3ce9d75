"""A run that is killed and resumed ends in exactly the state of one that was not."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.killable import KillableRuns
from cli.small_runs import Bench, contents, outcome, records

from feddtl.cli import main
from feddtl.errors import ClientError, StoppedError
from feddtl.experiment import run_experiment
from feddtl.observers import RunObserver
from feddtl.run_following import ask_to_stop
from feddtl.runs import RunFolder
from feddtl.runtimes import context
from feddtl.storage import only_writer

ROUNDS = 6


@pytest.fixture(scope="module")
def uninterrupted(bench: Bench, processes: KillableRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert processes.run(first_words(bench, folder)) == 0
    assert len(records(folder)) == ROUNDS
    assert (folder / "accuracy.svg").read_text().endswith("</svg>\n")
    return outcome(folder)


def first_words(bench: Bench, folder: Path) -> list[str]:
    return ["run", *bench.flags("--rounds", ROUNDS, "--output", folder)]


def next_words(bench: Bench, folder: Path) -> list[str]:
    """Resume, or start where the process was killed before it could write what is to be run."""
    return ["run", "--resume", str(folder)] if (folder / "config.json").exists() else first_words(bench, folder)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/round-*"))


def drafts(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.draft"))


def later(seconds: float, moment: Callable[[], bool]) -> Callable[[], bool]:
    """True some seconds after a moment came."""

    def has_come() -> bool:
        come = moment()
        if come:
            time.sleep(seconds)
        return come

    return has_come


def test_killed_while_loading_mid_round_and_at_the_checkpoint(
    bench: Bench, processes: KillableRuns, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def between_metrics_and_checkpoint() -> bool:
        file = folder / "metrics.jsonl"
        lines = file.read_text().count("\n") if file.exists() else 0
        return checkpoints(folder)[-1] > last[-1] and lines == int(checkpoints(folder)[-1][-4:]) + 1

    assert processes.kill_when(first_words(bench, folder), (folder / "config.json").exists)
    assert not (folder / "data.json").exists()  # it was still loading

    resume = ["run", "--resume", str(folder)]
    assert processes.kill_when(resume, later(0.04, lambda: checkpoints(folder) == ["round-0001"]))
    assert checkpoints(folder)[-1] < f"round-{ROUNDS:04d}"  # it was in round 2, or 3 on a fast machine
    assert processes.kill_when(resume, lambda: bool(drafts(folder / "checkpoints")), slow=0.05)
    assert drafts(folder / "checkpoints")  # it was writing the checkpoint
    last = checkpoints(folder)
    assert processes.kill_when(resume, between_metrics_and_checkpoint, slow=0.05)
    assert processes.kill_when(resume, (folder / "adapter").exists, slow=0.05)
    assert not (folder / "summary.json").exists()  # it was writing what came out
    assert processes.run(resume) == 0
    assert outcome(folder) == uninterrupted
    assert drafts(folder) == []


@pytest.mark.slow
def test_killed_at_random_moments(
    bench: Bench, processes: KillableRuns, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    """Each process gets a checkpoint further, so that the test ends, and dies some time after it."""
    folder, chance, kills = tmp_path / "run", random.Random(0), 0
    while not (folder / "summary.json").exists():
        before = checkpoints(folder)
        moment = later(chance.uniform(0, 0.2), lambda before=before: checkpoints(folder) != before)
        kills += processes.kill_when(next_words(bench, folder), moment, slow=0.01)
    assert kills >= 2
    assert processes.run(["run", "--resume", folder]) == 0
    assert outcome(folder) == uninterrupted


@pytest.mark.slow
def test_killed_before_every_kind_of_storage_operation(
    bench: Bench, processes: KillableRuns, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    """The n-th process dies before its 3n-th operation, so that each gets a little further than the one before."""
    folder, number = tmp_path / "run", 1
    while (code := processes.run(next_words(bench, folder), die_before=number)) == -signal.SIGKILL:
        number += 3
    assert code == 0
    assert number > 30
    assert outcome(folder) == uninterrupted
    assert drafts(folder) == []


def test_killed_between_metrics_and_checkpoint(
    bench: Bench, processes: KillableRuns, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    """A record without its checkpoint is written anew, not twice."""
    folder = tmp_path / "run"
    assert processes.run(first_words(bench, folder)) == 0
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints" / f"round-{ROUNDS:04d}")
    assert len(records(folder)) == ROUNDS
    assert processes.run(["run", "--resume", folder]) == 0
    assert outcome(folder) == uninterrupted


@pytest.mark.slow
def test_kill_minus_nine_of_the_command_itself(bench: Bench, uninterrupted: dict[str, object], tmp_path: Path) -> None:
    """The plain command: `python -m feddtl` in a shell's environment, killed in the middle, and resumed."""
    folder = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "feddtl"]
    process = subprocess.Popen([*command, *first_words(bench, folder)], env=environment, stderr=subprocess.PIPE)
    limit = time.monotonic() + 120
    while not checkpoints(folder) and time.monotonic() < limit:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    resumed = subprocess.run([*command, "run", "--resume", folder], env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after round" in resumed.stderr
    assert outcome(folder) == uninterrupted


# --- what resume refuses, and what it does not mind --------------------------------------------------


@pytest.fixture(scope="module")
def stopped_run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went wrong in round 3, with checkpoints of rounds 1 and 2."""
    folder, before = tmp_path_factory.mktemp("stopped") / "run", context.require_finite_tensors

    def fail(tensors: object, owner: str, remedy: str) -> None:
        if "round 3" in owner:
            raise ClientError(f"{owner} is bad.")
        before(tensors, owner, remedy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "require_finite_tensors", fail)
        assert main(["run", *bench.flags("--quiet", "--output", folder)]) == 1
    assert checkpoints(folder) == ["round-0001", "round-0002"]
    return folder


@pytest.fixture
def stopped(stopped_run: Path, tmp_path: Path) -> Path:
    """A copy, to go on with."""
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(finished: Path) -> dict[str, object]:
    """What the run is when it is not stopped."""
    return outcome(finished)


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json"])
def test_checkpoint_cut_in_half(
    stopped: Path, whole: dict[str, object], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run refuses it and changes nothing; what the message says to do works."""
    damaged = stopped / "checkpoints" / "round-0002" / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    before = contents(stopped)
    capsys.readouterr()
    assert main(["run", "--resume", str(stopped)]) == 1
    error = capsys.readouterr().err
    assert f"error: The checkpoint {damaged.parent} is damaged" in error
    assert contents(stopped) == before
    remedy = re.search(r"`(rm -r .*?)`", error)
    assert remedy is not None
    subprocess.run(remedy[1], shell=True, check=True)
    assert checkpoints(stopped) == ["round-0001"]
    assert main(["run", "--resume", str(stopped), "--quiet"]) == 0
    assert outcome(stopped) == whole


def test_every_checkpoint_lost(stopped: Path, whole: dict[str, object]) -> None:
    shutil.rmtree(stopped / "checkpoints")
    assert main(["run", "--resume", str(stopped), "--quiet"]) == 0
    assert outcome(stopped) == whole


def test_resuming_a_finished_run_changes_nothing(finished: Path, whole: dict[str, object], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    assert main(["run", "--resume", str(folder), "--quiet"]) == 0
    assert outcome(folder) == whole


def test_half_written_drafts_are_removed(stopped: Path, whole: dict[str, object]) -> None:
    for folder in (stopped / "checkpoints" / ".round-0003.x1y2z3.draft", stopped / ".adapter.abc.draft"):
        folder.mkdir()
        (folder / "state.safetensors").write_bytes(b"half")
    (stopped / ".summary.json.abc.draft").write_text("{")
    (stopped / ".notes.mine").write_text("not ours")
    assert main(["run", "--resume", str(stopped), "--quiet"]) == 0
    assert drafts(stopped) == []
    assert (stopped / ".notes.mine").exists()
    assert outcome(stopped) == whole


def test_a_run_that_was_asked_to_stop_ends_after_its_round_and_goes_on_as_if_nothing_had_been(
    bench: Bench, whole: dict[str, object], tmp_path: Path
) -> None:
    class Stop(RunObserver):
        def client_finished(self, client: int) -> None:
            ask_to_stop(tmp_path / "run")

    with pytest.raises(StoppedError, match="stopped after round 1 of 4"):
        run_experiment(bench.experiment(), tmp_path / "run", observer=Stop())
    assert checkpoints(tmp_path / "run") == ["round-0001"]
    assert main(["run", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert outcome(tmp_path / "run") == whole


def test_two_processes_do_not_write_into_one_folder(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(stopped)
    with only_writer(stopped):
        assert main(["run", "--resume", str(stopped)]) == 1
    assert f"error: The run in {stopped} is still running: process " in capsys.readouterr().err
    assert contents(stopped) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--rounds", "9", "--seed", "1"], "rounds is 4 there, 9 here"),
        (["--seed", "1"], "seed is 0 there, 1 here"),
        (["--local.learning-rate", "0.5", "--data.shots", "2"], "local.learning_rate is 0.01 there, 0.5 here"),
    ],
)
def test_a_run_of_another_experiment(
    stopped: Path, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(stopped)
    assert main(["run", "--resume", str(stopped), *flags]) == 1
    error = capsys.readouterr().err
    assert f"error: {stopped} is the run of another experiment" in error
    assert named in error
    assert contents(stopped) == before


def test_an_experiment_file_beside_resume_must_be_the_same(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is not quietly ignored."""
    file = stopped.parent / "other.toml"
    file.write_text("rounds = 7\n")
    assert main(["run", str(file), "--resume", str(stopped)]) == 1
    assert "rounds is 4 there, 7 here" in capsys.readouterr().err


def test_device_and_threads_may_change(stopped: Path, whole: dict[str, object]) -> None:
    flags = ["--compute.device", "cpu", "--compute.loading-threads", "3"]
    assert main(["run", f"--resume={stopped}", "--quiet", *flags]) == 0
    assert outcome(stopped) == whole


def test_evaluating_a_run_that_was_killed_while_loading(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder.announced(tmp_path / "run", bench.experiment()):
        raise KeyboardInterrupt
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "was stopped before its first round" in error
    assert f"feddtl run --resume {tmp_path / 'run'}" in error
