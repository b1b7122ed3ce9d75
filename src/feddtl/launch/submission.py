"""`feddtl submit`: starts a run on a server and follows it to its end."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from feddtl.config import Experiment
from feddtl.errors import DeploymentError
from feddtl.experiment_file import experiment_to_dict
from feddtl.launch.connection import failed_attempts
from feddtl.launch.flower_cli import COMPLETED, FlowerCli, RunStatus, UnknownRunError
from feddtl.launch.processes import flower_environment, running, signals_deferred, toml_text
from feddtl.marked_lines import MARK, unmarked

SECONDS_TO_REACH, SECONDS_BETWEEN_ATTEMPTS = 15.0, 0.5  # a server that has just been started
SECONDS_BETWEEN_CHECKS = 1.0
SECONDS_TO_FINISH = 60.0  # from the end of a log to the end of its run, before the log is requested again
SECONDS_WITHOUT_ANSWER = 60.0  # that a server may be too busy to report the status of a run
# Flower loads the modules from the environment in which it runs, so the app consists of this description alone.
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
    """Run an experiment on the server of this machine, and wait for its end.

    KeyboardInterrupt and SystemExit stop the run.

    Args:
        state: Folder of the server's state.
        experiment: What to run. Its paths are absolute, because the server has a different working directory.
        output: Folder of the run on the server's machine.
        resume: Resume from the last checkpoint in `output`.
        tell: Called with each line of progress.
        track: Trackers of the run, on the server.

    Raises:
        DeploymentError: There is no server, the run did not finish, or the server could not be told to stop it.
    """
    home = state / "flower"
    if not (home / "config.toml").is_file():
        raise DeploymentError(
            f"No `feddtl server` on this machine keeps its state in {state}.",
            "Start the server on this machine first, and give both commands the same --state.",
        )
    with TemporaryDirectory(prefix="feddtl-submit-") as scratch:
        folder = Path(scratch)
        cli = FlowerCli(home, folder / "empty")
        cli.folder.mkdir()
        _wait_for_server(cli, tell)
        run_config = _write_run_config(folder, experiment, output, resume, track)
        status = _run(cli, _write_app(folder / "feddtl"), run_config, tell)
    if status.status != COMPLETED:
        raise _not_completed(status)


def _run(cli: FlowerCli, app: Path, run_config: Path, tell: Callable[[str], None]) -> RunStatus:
    """Start a run and follow it; its status at the end. An interruption stops the run."""
    run: int | None = None
    try:
        with signals_deferred():  # an interrupted `flwr run` could leave a run whose id nobody knows
            run = cli.start(app, run_config)
        tell(f"run {run} was accepted; it starts when the clients, which may be busy with another run, have answered")
        return _follow(cli, run, tell)
    except (KeyboardInterrupt, SystemExit):
        if run is not None:
            with signals_deferred():
                cli.stop(run)
        raise


def _wait_for_server(cli: FlowerCli, tell: Callable[[str], None]) -> None:
    """Return when the server answers. Raises DeploymentError if it does not within SECONDS_TO_REACH."""
    address, authority = cli.server()
    deadline, told = time.monotonic() + SECONDS_TO_REACH, False
    for reason in failed_attempts(address, authority, SECONDS_BETWEEN_ATTEMPTS):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"No server answers at {address}: {reason}; nothing was submitted.", "Start `feddtl server`."
            )
        if not told:
            tell(f"waiting for the server at {address}")
            told = True


def _write_app(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(APP.format(version=version("feddtl")), encoding="utf-8")
    return folder


def _write_run_config(folder: Path, experiment: Experiment, output: Path, resume: bool, track: Sequence[str]) -> Path:
    path = folder / "run.toml"
    values: dict[str, str | float | bool] = {
        "settings": json.dumps(experiment_to_dict(experiment)),
        "output": str(output.absolute()),
        "resume": resume,
        "track": ",".join(track),
    }
    path.write_text(toml_text(values), encoding="utf-8")
    return path


def _follow(cli: FlowerCli, run: int, tell: Callable[[str], None]) -> RunStatus:
    """Pass on a run's lines until the run ends; its status then.

    The log of a busy server may end before the run. A new log then starts again from the first line.
    """
    told = 0
    while True:
        lines = 0
        for lines, line in enumerate(_own_lines(cli, run), start=1):
            if lines > told:
                tell(line)
        told = max(told, lines)
        deadline = time.monotonic() + SECONDS_TO_FINISH
        while not (status := _status(cli, run)).finished and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_CHECKS)
        if status.finished:
            return status


def _status(cli: FlowerCli, run: int) -> RunStatus:
    """The status of a run, from a server that may be too busy to answer at once."""
    deadline = time.monotonic() + SECONDS_WITHOUT_ANSWER
    while True:
        try:
            return cli.status(run)
        except UnknownRunError:
            raise
        except DeploymentError as error:
            if time.monotonic() > deadline:
                message = f"Run {run} is no longer followed, but may still be running. {error.message}"
                raise DeploymentError(message, cli.manual_commands(run)) from None
        time.sleep(SECONDS_BETWEEN_CHECKS)


def _own_lines(cli: FlowerCli, run: int) -> Iterator[str]:
    """The lines in a run's log that feddtl printed, without Flower's."""
    environment = flower_environment(cli.home)
    with running(cli.log_command(run), environment, cli.folder, subprocess.PIPE, subprocess.DEVNULL) as log:
        assert log.stdout is not None
        for line in log.stdout:
            if (text := unmarked(line)) is not None:
                yield text


def _not_completed(status: RunStatus) -> DeploymentError:
    """How a run ended: with the error of its server, which feddtl marks, or with what Flower says."""
    message, _, hint = status.details.rpartition(MARK)[2].partition("\n")
    return DeploymentError(
        f"The run ended as {status.status}{f': {message}' if message else '.'}",
        hint or "If the run wrote a checkpoint, resume it with: feddtl submit --resume DIR.",
    )
