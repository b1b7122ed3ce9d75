"""What all trackers have in common, and what MLflow, Weights & Biases and trackio keep, read without their readers."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cli.small_runs import ROUNDS, Bench
from PIL import Image
from trackers.written import Points, assert_the_same, expected

from feddtl import trackers
from feddtl.cli import main
from feddtl.config import Experiment
from feddtl.errors import ClientError
from feddtl.runtimes import context
from feddtl.trackers.tracker import Tracker


class Recorder(Tracker):
    """Keeps what it is given."""

    name = "recorder"
    all: ClassVar[list[Recorder]] = []

    def open(self, experiment: Experiment) -> None:
        self.rounds, self.points, self.pictures, self.closed = experiment.rounds, Points(), [], []
        self.all.append(self)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for tag, value in scalars.items():
            self.points.setdefault(tag, []).append((step, value))

    def picture(self, title: str, path: Path) -> None:
        with Image.open(path) as image:
            self.pictures.append((title, image.format))

    def close(self, *, finished: bool) -> None:
        self.closed.append(finished)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The trackers of a run, whatever their names."""
    monkeypatch.setattr(trackers, "_class_of", lambda name: Recorder)
    monkeypatch.setattr(Recorder, "all", [])
    return Recorder.all


def test_several_names_settings_numbers_plots_and_the_end(
    bench: Bench, tmp_path: Path, recorders: list[Recorder]
) -> None:
    run = bench.run(tmp_path / "run", "--track", "tensorboard, mlflow", "--track", "wandb")
    assert [recorder.rounds for recorder in recorders] == [ROUNDS] * 3
    for recorder in recorders:
        assert_the_same(recorder.points, expected(run))
    assert [recorder.pictures for recorder in recorders] == [[("accuracy", "PNG")]] * 3
    assert [recorder.closed for recorder in recorders] == [[True]] * 3


def test_a_run_that_fails_is_closed_as_one_that_is_not_finished(
    bench: Bench, tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: Any, owner: str, remedy: str) -> None:
        raise ClientError(f"{owner} is bad.")

    monkeypatch.setattr(context, "require_finite_tensors", fail)
    words = bench.flags("--quiet", "--output", tmp_path / "run", "--track", "mlflow")
    assert main(["run", *words]) == 1
    assert [recorder.closed for recorder in recorders] == [[False]]


def test_an_error_of_another_program_names_the_tracker(
    bench: Bench, tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(self: Recorder, step: int, scalars: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(Recorder, "write", fail)
    assert main(["run", *bench.flags("--quiet", "--output", tmp_path / "run", "--track", "mlflow")]) == 1
    error = capsys.readouterr().err
    assert "error: The tracker 'recorder' failed: TimeoutError: no answer" in error
    assert "resume it without" in error


def test_a_name_that_is_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str], recorders: list[Recorder]) -> None:
    assert main(["run", "--output", str(tmp_path / "out"), "--track", "wandb,mlflow,wandb"]) == 1
    assert "error: The tracker 'wandb' is named twice." in capsys.readouterr().err


def in_mlflow(place: Path) -> tuple[Points, dict[str, str]]:
    with sqlite3.connect(place / "mlflow.db") as store:
        [[run, status, name]] = store.execute("select run_uuid, status, name from runs").fetchall()
        rows = store.execute("select key, step, value from metrics where run_uuid = ? order by step", [run]).fetchall()
        settings = dict(store.execute("select key, value from params where run_uuid = ?", [run]).fetchall())
    assert (status, name) == ("FINISHED", "one")
    assert len(list(place.glob("mlruns/*/*/artifacts/accuracy.png"))) == 1
    return _points(rows), settings


def in_trackio(place: Path) -> tuple[Points, dict[str, str]]:
    with sqlite3.connect(place / "trackio/feddtl.db") as store:
        rows = store.execute("select step, metrics from metrics where run_name = 'one' order by id").fetchall()
        [[settings]] = store.execute("select config from configs where run_name = 'one'").fetchall()
    assert len(list(place.glob("trackio/media/feddtl/one/**/*.png"))) == 1
    numbers = [(key, step, value) for step, line in rows for key, value in json.loads(line).items()]
    return _points([row for row in numbers if isinstance(row[2], int | float)]), _flat(json.loads(settings))


def in_wandb(place: Path) -> tuple[Points, dict[str, str]]:
    from wandb.proto import wandb_internal_pb2 as messages

    [log] = (place / "one/wandb").glob("offline-run-*/run-*.wandb")
    assert len(list(log.parent.glob("files/media/images/accuracy_*.png"))) == 1
    rows, settings, exit_code = [], {}, None
    for content in _entries(log.read_bytes()):
        record = messages.Record.FromString(content)
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            step = json.loads(items["_step"])
            rows += [(key, step, json.loads(value)) for key, value in items.items() if not key.startswith("_")]
        if record.HasField("run"):
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("exit"):
            exit_code = record.exit.exit_code
    assert exit_code == 0
    return _points([row for row in rows if not row[0].startswith("accuracy")]), _flat(settings)


def _entries(log: bytes) -> Iterator[bytes]:
    """The entries of a log in LevelDB's format: blocks of 32 kB, parts with checksum, length and kind."""
    at, entry, block = 7, b"", 32768
    while at + 7 <= len(log):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        entry += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, last
            yield entry
            entry = b""


def _points(rows: list[tuple[str, int, float]]) -> Points:
    found: Points = {}
    for key, step, value in rows:
        found.setdefault(key, []).append((step, value))
    return found


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    return {f"{key}.{name}": str(value) for key, table in tables.items() for name, value in table.items()}


READERS = {"mlflow": in_mlflow, "trackio": in_trackio, "wandb": in_wandb}


@pytest.mark.parametrize("name", READERS)
def test_what_the_real_program_keeps(bench: Bench, tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the extra [{name}], which is too heavy for every test run")
    words = ["run", *bench.flags("--output", "one", "--track", name, "--json", "--rounds", 2)]
    asked = {"WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"}
    settings = {key: value for key, value in os.environ.items() if key not in asked}
    done = subprocess.run(
        [sys.executable, "-m", "feddtl", *words],
        cwd=tmp_path,
        env={**settings, "TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 2  # nothing else is printed there
    points, kept = READERS[name](tmp_path)
    assert_the_same(points, expected(tmp_path / "one"))
    assert kept["local.learning_rate"] == "0.01"
