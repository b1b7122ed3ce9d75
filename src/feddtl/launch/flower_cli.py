"""Flower's command line, `flwr`, as functions for one server: its clients' keys, and its runs."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddtl.errors import ConfigError, DeploymentError
from feddtl.launch.connection import Address
from feddtl.launch.processes import flower_environment, flower_program, toml_text
from feddtl.storage import write_text_atomic

CONNECTION = "feddtl"  # name of the server in Flower's configuration
COMPLETED = "finished:completed"
# Codes of the errors that `flwr` reports, from flwr.supercore.error.ApiErrorCode.
NO_SUCH_RUN, ALREADY_FINISHED, KEY_IN_USE = "[code: 16]", "[code: 18]", "[code: 23]"


class UnknownRunError(DeploymentError):
    """The server has no run with this id."""


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        status: In Flower's words: pending, starting, running, finished:completed, finished:failed, finished:stopped.
        details: Why the run failed.
    """

    status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.status.startswith("finished")


@dataclass(frozen=True)
class FlowerCli:
    """Calls of `flwr` for the server that a home folder names.

    Attributes:
        home: FLWR_HOME.
        folder: Empty working directory.
    """

    home: Path
    folder: Path

    def connect_to(self, address: Address, authority: Path) -> None:
        """Write a server's address and the certificate of its authority into the home folder."""
        default = "[superlink]\n" + toml_text({"default": CONNECTION})
        server = toml_text({"address": str(address), "root-certificates": str(authority)})
        write_text_atomic(self.home / "config.toml", f"{default}[superlink.{CONNECTION}]\n{server}")

    def server(self) -> tuple[Address, Path]:
        """What `connect_to` wrote. Raises DeploymentError if the file holds anything else."""
        file = self.home / "config.toml"
        try:
            server = tomllib.loads(file.read_text(encoding="utf-8"))["superlink"][CONNECTION]
            return Address.parse(server["address"]), Path(server["root-certificates"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise DeploymentError(
                f"{file} does not name the server ({type(error).__name__}); nothing was submitted.",
                "`feddtl server` writes this file when it starts. Restart it with the same --state.",
            ) from None

    def register(self, public_key: Path) -> None:
        """Allow the client with this key to connect, if it may not already. Raises DeploymentError."""
        answer = self._call("supernode", "register", str(public_key), CONNECTION, "--name", public_key.stem)
        if not answer.get("success") and KEY_IN_USE not in _error(answer):
            raise DeploymentError(
                f"The server does not accept the key {public_key}: {_error(answer)}",
                "Use a client's .pub file that `feddtl keys` wrote.",
            )

    def start(self, app: Path, run_config: Path) -> int:
        """Start a run of an app folder with the values of a TOML file; the run's id. Raises DeploymentError."""
        answer = self._call("run", str(app), CONNECTION, "--run-config", str(run_config))
        if not answer.get("run-id"):
            raise DeploymentError(
                f"The server did not accept the run: {_error(answer)}", "Check that `feddtl server` is running."
            )
        return int(answer["run-id"])

    def status(self, run: int) -> RunStatus:
        """The status of a run.

        Raises:
            UnknownRunError: The server has no such run.
            DeploymentError: The server does not answer.
        """
        answer = self._call("ls", CONNECTION, "--run-id", str(run))
        if runs := answer.get("runs"):
            return RunStatus(str(runs[0]["status"]), str(runs[0].get("status-details") or ""))
        if NO_SUCH_RUN in _error(answer):
            raise UnknownRunError(
                f"The server does not know run {run}: it has restarted since, which ended the run.",
                "If the run wrote a checkpoint, resume it with: feddtl submit --resume DIR.",
            )
        raise DeploymentError(
            f"The server does not report the status of run {run}: {_error(answer)}",
            "Check that `feddtl server` is running.",
        )

    def stop(self, run: int) -> None:
        """Stop a run, unless it has ended already. Raises DeploymentError."""
        answer = self._call("stop", str(run), CONNECTION)
        if not answer.get("success") and not any(code in _error(answer) for code in (ALREADY_FINISHED, NO_SUCH_RUN)):
            raise DeploymentError(
                f"Run {run} may still be running, because the server could not be told to stop it: {_error(answer)}",
                self.manual_commands(run),
            )

    def manual_commands(self, run: int) -> str:
        """The commands with which a user inspects and stops a run that is no longer followed."""
        home = shlex.quote(str(self.home))
        flwr = f"FLWR_HOME={home} FLWR_TELEMETRY_ENABLED=0 {shlex.quote(flower_program('flwr'))}"
        return f"Status: {flwr} ls {CONNECTION} --run-id {run}. Stop: {flwr} stop {run} {CONNECTION}"

    def log_command(self, run: int) -> list[str]:
        """The command that prints a run's log until the run ends."""
        return [flower_program("flwr"), "log", str(run), CONNECTION, "--stream"]

    def _call(self, *words: str) -> dict[str, Any]:
        """The JSON answer of a `flwr` command, which runs in its own session so that it ignores Ctrl-C."""
        done = subprocess.run(
            [flower_program("flwr"), *words, "--format", "json"],
            env=flower_environment(self.home),
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
        )
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"error-message": " ".join((done.stderr or done.stdout).split())}
        return answer if isinstance(answer, dict) else {}


def _error(answer: dict[str, Any]) -> str:
    """The error in an answer, on one line: what `flwr` printed before it ends with an empty line."""
    said = str(answer.get("error-message", "Flower gave no reason."))
    return " ".join(said.strip().split("\n\n")[-1].split())
