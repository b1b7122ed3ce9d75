"""`feddtl submit`: a run at a server, followed to its end."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from feddtl.config import Experiment
from feddtl.errors import DeploymentError
from feddtl.experiment_file import experiment_to_dict
from feddtl.launch.flower_cli import COMPLETED, FlowerCli, RunStatus, UnknownRunError
from feddtl.launch.flower_log import COLOUR
from feddtl.launch.processes import flower_environment, held_back, running
from feddtl.launch.toml_text import toml_text

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_FINISH = 60.0  # from the end of a log to the end of its run, before the log is asked for anew
SECONDS_WITHOUT_ANSWER = 60.0  # that a server may be too busy to say how a run stands
FLOWERS_OWN = re.compile(r"(DEBUG|INFO|WARNING) *:|Using SuperLink:|Successfully installed ")
# Flower's words about an exception in the server's part of a run, in its log and in its status.
RAISED = re.compile(r"ERROR *: *ServerApp raised an exception")
FAILED_WITH = "ServerApp failed with exception: "
EXPECTED = "feddtl.errors."  # how a traceback names a FeddtlError
# Flower loads the modules from the environment in which it runs, so the app is nothing but its description.
APP = """\
[project]
name = "feddtl"
version = "{version}"
description = "A run of feddtl"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "feddtl"

[tool.flwr.app.components]
serverapp = "feddtl.flower_app.server:app"
clientapp = "feddtl.flower_app.client:app"

[tool.flwr.app.config]
experiment = ""
settings = ""
output = ""
resume = false
track = ""
"""


def submit(
    state: Path,
    experiment: Experiment,
    output: Path,
    *,
    resume: bool,
    tell: Callable[[str], None],
    track: Sequence[str] = (),
) -> None:
    """Run an experiment at the server of this machine, and wait for its end.

    An interruption, KeyboardInterrupt or SystemExit, stops the run.

    Args:
        state: Folder of the server's state.
        experiment: What to run; its paths are absolute, as the server has another working directory.
        output: Folder of the run on the server's machine.
        resume: Go on from the last checkpoint in `output`.
        tell: Told each line of the run's log that is not Flower's own.
        track: Trackers of the run, on the server.

    Raises:
        DeploymentError: There is no server, the run did not finish, or the server could not be told to stop it.
    """
    home = state / "flower"
    if not (home / "config.toml").is_file():
        raise DeploymentError(
            f"No `feddtl server` of this machine keeps its state in {state}.",
            "Start it first, on this machine, and give both commands the same --state.",
        )
    with TemporaryDirectory(prefix="feddtl-submit-") as scratch:
        folder = Path(scratch)
        cli = FlowerCli(home, folder / "empty")
        cli.folder.mkdir()
        cli.wait_for_server(tell)
        app, run_config = _write_app(folder / "feddtl"), _write_run_config(folder, experiment, output, resume, track)
        run: int | None = None
        try:
            with held_back():  # or the server might have a run whose number nobody knows
                run = cli.start(app, run_config)
            tell(f"run {run} was accepted: it is loaded, then asks its clients, which may be busy with another run")
            status = _follow(cli, run, tell)
        except (KeyboardInterrupt, SystemExit):
            if run is not None:
                with held_back():
                    cli.stop(run)
            raise
    if status.status != COMPLETED:
        raise _not_completed(status)


def _write_app(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(APP.format(version=version("feddtl")), encoding="utf-8")
    return folder


def _write_run_config(folder: Path, experiment: Experiment, output: Path, resume: bool, track: Sequence[str]) -> Path:
    settings = json.dumps(experiment_to_dict(experiment))
    path = folder / "run.toml"
    values: dict[str, str | bool] = {"settings": settings, "output": str(output.absolute()), "resume": resume}
    values["track"] = ",".join(track)
    path.write_text(toml_text(values), encoding="utf-8")
    return path


def _follow(cli: FlowerCli, run: int, tell: Callable[[str], None]) -> RunStatus:
    """Pass on a run's log until the run ends; the status then.

    A log may end before its run, with a server that fails for a moment. The next one begins at the beginning.
    """
    told = 0
    while True:
        lines = 0
        for lines, line in enumerate(_log_lines(cli, run), start=1):
            if lines > told:
                tell(line)
        told = max(told, lines)
        deadline = time.monotonic() + SECONDS_TO_FINISH
        while not (status := _status(cli, run)).finished and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if status.finished:
            return status


def _status(cli: FlowerCli, run: int) -> RunStatus:
    """Where a run stands, from a server that may be too busy to answer at once."""
    deadline = time.monotonic() + SECONDS_WITHOUT_ANSWER
    while True:
        try:
            return cli.status(run)
        except UnknownRunError:
            raise
        except DeploymentError as error:
            if time.monotonic() > deadline:
                message = f"Run {run} is no longer followed, but may still be going on. {error.message}"
                raise DeploymentError(message, cli.by_hand(run)) from None
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _log_lines(cli: FlowerCli, run: int) -> Iterator[str]:
    """What a run says, without what Flower says."""
    environment = flower_environment(cli.home)
    with running(cli.log_command(run), environment, cli.folder, subprocess.PIPE, subprocess.DEVNULL) as log:
        assert log.stdout is not None
        yield from _without_flowers_own(COLOUR.sub("", line).rstrip("\n") for line in log.stdout)


def _without_flowers_own(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a run; a traceback only of an error that is not for the user, whose text is in the status."""
    rest = iter(lines)
    for line in rest:
        if RAISED.match(line):
            traceback = [line, *rest]
            if not any(line.startswith(EXPECTED) for line in traceback):
                yield from traceback
        elif line and not FLOWERS_OWN.match(line):
            yield line


def _not_completed(status: RunStatus) -> DeploymentError:
    """What the server's error said, or else how the run ended."""
    message, _, hint = status.details.removeprefix(FAILED_WITH).partition("\n")
    return DeploymentError(
        f"The run ended as {status.status}{f': {message}' if message else '.'}",
        hint or "Its last checkpoint, if it had one, is intact: feddtl submit --resume DIR goes on from there.",
    )
