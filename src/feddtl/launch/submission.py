"""`feddtl submit`: starts a run on a server and follows it to its end."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NamedTuple

from feddtl.config import Experiment
from feddtl.errors import DeploymentError
from feddtl.experiment_file import experiment_to_dict
from feddtl.launch.connection import CONNECTION, Address, failed_attempts, read_connection, toml_text
from feddtl.launch.processes import FlowerCli, flower_environment, flower_program, running
from feddtl.marked_lines import MARK, unmarked

SECONDS_TO_REACH, SECONDS_BETWEEN_ATTEMPTS = 15.0, 0.5  # a server that has just been started
SECONDS_BETWEEN_CHECKS = 1.0
SECONDS_TO_FINISH = 60.0  # from the end of a log to the end of its run, before the log is requested again
SECONDS_WITHOUT_ANSWER = 60.0  # that a server may be too busy to report the status of a run
COMPLETED = "finished:completed"
HUNG_UP = 128 + signal.SIGHUP  # exit code of a command whose terminal was closed
NO_SUCH_RUN, ALREADY_FINISHED = "[code: 16]", "[code: 18]"  # from flwr.supercore.error.ApiErrorCode
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


class RunStatus(NamedTuple):
    """The status of a run in Flower's words (running, finished:completed, finished:failed, …), and why it failed."""

    status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether the run has ended, for whatever reason."""
        return self.status.startswith("finished")


def submit(
    state: Path,
    experiment: Experiment,
    output: Path,
    *,
    resume: bool,
    show: Callable[[str], None],
    track: Sequence[str] = (),
) -> None:
    """Run an experiment on the server of this machine, and wait for its end.

    KeyboardInterrupt and SystemExit stop the run, except that of SIGHUP.

    Args:
        state: Folder of the server's state.
        experiment: What to run. Its paths are absolute, because the server has a different working directory.
        output: Folder of the run on the server's machine.
        resume: Resume from the last checkpoint in `output`.
        show: Called with each line of progress.
        track: Trackers of the run, on the server.

    Raises:
        ConfigError: The experiment has hostile clients.
        DeploymentError: There is no server, the run did not finish, or the server could not be told to stop it.
    """
    experiment.attack.require_off()
    address, authority = read_connection(state / "flower")
    values: dict[str, str | float | bool] = {
        "settings": json.dumps(experiment_to_dict(experiment)),
        "output": str(output.absolute()),
        "resume": resume,
        "track": ",".join(track),
    }
    with TemporaryDirectory(prefix="feddtl-submit-") as scratch:
        run_config, app, empty = (Path(scratch) / name for name in ("run.toml", "feddtl", "empty"))
        app.mkdir()
        empty.mkdir()
        (app / "pyproject.toml").write_text(APP.format(version=version("feddtl")), encoding="utf-8")
        run_config.write_text(toml_text(values), encoding="utf-8")
        _wait_for_server(address, authority, show)
        status = _run(FlowerCli(state / "flower", empty), app, run_config, show)
    if status.status != COMPLETED:
        raise _not_completed(status)


def _wait_for_server(address: Address, authority: Path, show: Callable[[str], None]) -> None:
    """Return when the server answers. Raises DeploymentError if it does not within SECONDS_TO_REACH."""
    deadline = time.monotonic() + SECONDS_TO_REACH
    for attempt, reason in enumerate(failed_attempts(address, authority, SECONDS_BETWEEN_ATTEMPTS)):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"No server answers at {address}: {reason}; nothing was submitted.", "Start `feddtl server`."
            )
        if attempt == 0:
            show(f"waiting for the server at {address}")


def _run(cli: FlowerCli, app: Path, run_config: Path, show: Callable[[str], None]) -> RunStatus:
    """Start a run and follow it; its status at the end. An interruption stops the run."""
    run: int | None = None
    try:
        with signals_deferred():  # an interrupted `flwr run` could leave a run whose id nobody knows
            run = start_run(cli, app, run_config)
        show(f"run {run} was accepted; it starts when the clients, which may be busy with another run, have answered")
        return _follow(cli, run, show)
    except (KeyboardInterrupt, SystemExit) as ending:
        # A run goes on without the terminal that it was started from.
        if run is not None and getattr(ending, "code", None) != HUNG_UP:
            with signals_deferred():
                stop_run(cli, run)
        raise


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP have no effect; the first of them takes effect after the block.

    A block that fails ends with its own error, and the signals are dropped.
    """
    received: list[int] = []

    def defer(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def start_run(cli: FlowerCli, app: Path, run_config: Path) -> int:
    """Start a run of an app folder with the values of a TOML file; the run's id. Raises DeploymentError."""
    answer, error = cli.call("run", str(app), CONNECTION, "--run-config", str(run_config))
    if not answer.get("run-id"):
        raise DeploymentError(f"The server did not accept the run: {error}", "Check that `feddtl server` is running.")
    return int(answer["run-id"])


def run_status(cli: FlowerCli, run: int) -> RunStatus:
    """The status of a run, from a server that may be too busy to answer at once.

    Raises:
        DeploymentError: The server has no such run, or does not answer for SECONDS_WITHOUT_ANSWER.
    """
    deadline = time.monotonic() + SECONDS_WITHOUT_ANSWER
    while True:
        answer, error = cli.call("ls", CONNECTION, "--run-id", str(run))
        if runs := answer.get("runs"):
            return RunStatus(str(runs[0]["status"]), str(runs[0].get("status-details") or ""))
        if NO_SUCH_RUN in error:
            raise DeploymentError(
                f"The server does not know run {run}: it has restarted since, which ended the run.",
                "If the run wrote a checkpoint, resume it with `feddtl submit --resume DIR`.",
            )
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"Run {run} is no longer followed, but may still be running. "
                f"The server does not report the status of run {run}: {error}",
                _manual_commands(cli, run),
            )
        time.sleep(SECONDS_BETWEEN_CHECKS)


def stop_run(cli: FlowerCli, run: int) -> None:
    """Stop a run, unless it has ended already. Raises DeploymentError."""
    answer, error = cli.call("stop", str(run), CONNECTION)
    if not answer.get("success") and not any(code in error for code in (ALREADY_FINISHED, NO_SUCH_RUN)):
        raise DeploymentError(
            f"Run {run} may still be running, because the server could not be told to stop it: {error}",
            _manual_commands(cli, run),
        )


def _manual_commands(cli: FlowerCli, run: int) -> str:
    """Commands that show and stop a run that is no longer followed."""
    home = shlex.quote(str(cli.home))
    flwr = f"FLWR_HOME={home} FLWR_TELEMETRY_ENABLED=0 {shlex.quote(flower_program('flwr'))}"
    return f"Status: `{flwr} ls {CONNECTION} --run-id {run}`. Stop: `{flwr} stop {run} {CONNECTION}`"


def _follow(cli: FlowerCli, run: int, show: Callable[[str], None]) -> RunStatus:
    """Pass on a run's lines until the run ends; its status then.

    The log of a busy server may end before the run. A new log then starts again from the first line.
    """
    shown = 0
    while True:
        count = 0
        for count, line in enumerate(_own_lines(cli, run), start=1):
            if count > shown:
                show(line)
        shown = max(shown, count)
        deadline = time.monotonic() + SECONDS_TO_FINISH
        while not (status := run_status(cli, run)).finished and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_CHECKS)
        if status.finished:
            return status


def _own_lines(cli: FlowerCli, run: int) -> Iterator[str]:
    """The lines in a run's log that feddtl printed, without Flower's."""
    command = [flower_program("flwr"), "log", str(run), CONNECTION, "--stream"]
    with running(command, flower_environment(cli.home), cli.folder, errors=subprocess.DEVNULL) as log:
        assert log.stdout is not None
        for line in log.stdout:
            if (text := unmarked(line)) is not None:
                yield text


def _not_completed(status: RunStatus) -> DeploymentError:
    """How a run ended: with the error of its server, which feddtl marks, or with Flower's details."""
    message, _, hint = status.details.rpartition(MARK)[2].partition("\n")
    return DeploymentError(
        f"The run ended as {status.status}{f': {message}' if message else '.'}",
        hint or "If the run wrote a checkpoint, resume it with `feddtl submit --resume DIR`.",
    )
