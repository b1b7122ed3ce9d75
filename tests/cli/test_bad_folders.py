"""Folders in use, damage and full disks: one clear error, and what was there stays as it was."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from cli.small_runs import Bench, Command, contents, records, refused

from feddtl.messages import Update
from feddtl.methods.feddtl.method import FedDTL

# --- output folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["run", "file", "file/run", "full", "model"])
def test_output_that_is_taken(bench: Bench, feddtl: Command, finished: Path, place: str) -> None:
    shutil.copytree(finished, "run")
    shutil.copytree(bench.clip, "full")
    Path("file").write_text("mine")
    Path("model").mkdir()
    shutil.copy(bench.clip / "config.json", "model")
    before = contents(Path())
    answer = feddtl("run", *bench.flags("--output", place))
    refused(answer, place, "--output" if place != "file/run" else "Check the path")
    assert contents(Path()) == before


def test_output_with_a_run_says_how_to_go_on(bench: Bench, feddtl: Command, finished: Path) -> None:
    answer = feddtl("run", *bench.flags("--output", finished))
    refused(answer, f"{finished} already contains a run", f"feddtl run --resume {finished}")


def test_an_empty_folder_may_be_used_and_stays_if_the_run_cannot_begin(bench: Bench, feddtl: Command) -> None:
    Path("run").mkdir()
    refused(feddtl("run", *bench.flags("--model", "./nowhere", "--output", "run", "--quiet")))
    assert list(Path("run").iterdir()) == []
    assert feddtl("run", *bench.flags("--output", "run", "--rounds", 1)).code == 0


def test_resume_without_a_run(feddtl: Command, tmp_path: Path) -> None:
    Path("empty").mkdir()
    for name in ("missing", "empty"):
        refused(feddtl("run", "--resume", name), f"There is no run in {name}", "--output")
        assert not list(tmp_path.glob(f"{name}/*"))


def test_resume_and_output_together(feddtl: Command, finished: Path) -> None:
    refused(feddtl("run", "--resume", finished, "--output", "other"), "both")


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"rond": 3}', '{"rounds": '])
def test_resume_with_a_damaged_config(feddtl: Command, finished: Path, text: str) -> None:
    shutil.copytree(finished, "run")
    Path("run/config.json").write_text(text)
    before = contents(Path("run"))
    refused(feddtl("run", "--resume", "run"), "run/config.json", "--output")
    refused(feddtl("evaluate", "run"), "run/config.json")
    assert contents(Path("run")) == before


def test_a_run_of_another_version_is_called_that(feddtl: Command, finished: Path) -> None:
    shutil.copytree(finished, "run")
    Path("run/config.json").write_text('{"momentum": 0.9}')
    for words in (("run", "--resume", "run"), ("evaluate", "run")):
        refused(feddtl(*words), "run/config.json was written by another version, or is damaged: Unknown key 'momentum'")


def test_evaluate_and_export_without_a_run(feddtl: Command) -> None:
    refused(feddtl("evaluate", "nowhere"), "There is no run in nowhere")
    refused(feddtl("export", "nowhere", "model"), "There is no run in nowhere")
    assert not Path("model").exists()


def test_evaluate_and_export_before_the_first_round(feddtl: Command, finished: Path) -> None:
    shutil.copytree(finished, "run")
    shutil.rmtree("run/checkpoints")
    for words in (("evaluate", "run"), ("export", "run", "model")):
        refused(feddtl(*words), "run has no finished round", "feddtl run --resume run")
    assert not Path("model").exists()


def test_export_to_a_folder_in_use(feddtl: Command, finished: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    refused(feddtl("export", finished, "mine"), "mine is not empty", "new folder")
    refused(feddtl("export", finished, "file"), "file is not empty")
    assert contents(Path("mine")) == {"notes.txt": b"mine"}


def test_evaluate_without_a_class_list(feddtl: Command, finished: Path) -> None:
    refused(feddtl("evaluate", finished, "--classes"), "no class list", "base, novel, all")


def test_plot_with_an_ending_that_cannot_be_drawn(bench: Bench, feddtl: Command) -> None:
    refused(feddtl("partition", *bench.flags("--plot", "map.gif")), "map.gif", ".svg, .png, .pdf")


# --- during the run ----------------------------------------------------------------------------------


def test_update_with_nan_names_client_and_round(bench: Bench, feddtl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = FedDTL.client_update

    def spoil(self: FedDTL, payload: object, data: object, *rest: object) -> Update:
        update = healthy(self, payload, data, *rest)  # type: ignore[arg-type]
        if (update.client, payload.round) == (1, 3):  # type: ignore[attr-defined]
            next(iter(update.weights.values()))[0, 0] = float("nan")
        return update

    with monkeypatch.context() as patch:
        patch.setattr(FedDTL, "client_update", spoil)
        answer = feddtl("run", *bench.flags("--output", "run", "--quiet"))
    refused(answer, "The update of client 1 in round 3 holds NaN", "the last checkpoint is intact")
    assert [record["round"] for record in records(Path("run"))] == [1, 2]
    assert feddtl("run", "--resume", "run").code == 0
    assert len(records(Path("run"))) == 4


def test_a_learning_rate_that_would_explode(bench: Bench, feddtl: Command) -> None:
    answer = feddtl("run", *bench.flags("--local.learning-rate", 1e30, "--output", "run", "--quiet"))
    refused(answer, "local.learning_rate = 1e+30 is out of range", "above 0, up to 1")


def no_space(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["os.fsync", "feddtl.checkpoints.save_file", "tempfile.mkdtemp"])
def test_disk_full_in_round_three(
    bench: Bench, feddtl: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """The checkpoint before stays, no half of a new one does, and the run goes on when there is space."""
    healthy = FedDTL.client_update
    with monkeypatch.context() as patch:

        def fill(self: FedDTL, payload: object, *rest: object) -> Update:
            if payload.round == 3:  # type: ignore[attr-defined]
                patch.setattr(function, no_space)
            return healthy(self, payload, *rest)  # type: ignore[arg-type]

        patch.setattr(FedDTL, "client_update", fill)
        answer = feddtl("run", *bench.flags("--output", "run", "--quiet"))
    refused(answer, "The disk of run", "is full", "Free some disk space")
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["round-0001", "round-0002"]
    assert feddtl("run", "--resume", "run", "--quiet").code == 0
    assert records(Path("run")) == records(finished)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many kB, where this machine permits it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a small disk")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_really_full(bench: Bench, feddtl: Command, finished: Path, small_disk: Callable[[int], Path]) -> None:
    """70 kB hold the first checkpoints but not the run; with more space it ends as if nothing had been."""
    disk = small_disk(70)
    answer = feddtl("run", *bench.flags("--output", disk / "run", "--quiet"))
    refused(answer, f"The disk of {disk / 'run'}", "is full")
    assert not list((disk / "run").rglob("*.draft"))
    assert list((disk / "run" / "checkpoints").iterdir())
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert feddtl("run", "--resume", disk / "run", "--quiet").code == 0
    assert records(disk / "run") == records(finished)


def test_disk_full_from_the_start(bench: Bench, feddtl: Command, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(4)
    refused(feddtl("run", *bench.flags("--output", disk / "run", "--quiet")), "is full")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not write into; root may write anywhere, so it becomes nobody for a while."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    if user == 0:
        os.seteuid(0)
    folder.chmod(0o700)


def test_folder_without_rights(bench: Bench, feddtl: Command, locked: Path) -> None:
    for output in (locked, locked / "run"):
        refused(feddtl("run", *bench.flags("--output", output)), str(output), "Permission denied", "your permissions")
    refused(feddtl("run", "--resume", locked / "run"))
    refused(feddtl("evaluate", locked / "run"))
    refused(feddtl("export", locked / "run", locked / "model"))
