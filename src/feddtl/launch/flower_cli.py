"""Flower's own command line, `flwr`, as functions: nodes, runs and their logs at one server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddtl.errors import ConfigError, DeploymentError
from feddtl.launch.connection import Address, unreachable
from feddtl.launch.processes import flower_environment, flower_program
from feddtl.launch.toml_text import toml_text
from feddtl.storage import write_text_atomic

CONNECTION = "feddtl"
SECONDS_TO_WAIT, SECONDS_BETWEEN_LOOKS = 15.0, 0.5  # a server that was started a moment ago
# What the server answers to a key that is registered, a run that it does not have, and a run that is to stop and did.
KNOWN, NO_SUCH_RUN, ENDED = "already in use", "run id not found", "already finished"
OWN_DOING = re.compile(r"^Using SuperLink:|\.\.\.$")
COMPLETED = "finished:completed"


class UnknownRunError(DeploymentError):
    """The server does not have a run that it was asked about."""


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        status: In Flower's words: pending, starting, running, finished:completed, finished:failed, finished:stopped.
        details: Why it failed.
    """

    status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether nothing more comes of it."""
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
        """Name a server, and the authority that signed its certificate, in the home folder."""
        default = "[superlink]\n" + toml_text({"default": CONNECTION})
        server = toml_text({"address": str(address), "root-certificates": str(authority)})
        write_text_atomic(self.home / "config.toml", f"{default}[superlink.{CONNECTION}]\n{server}")

    def wait_for_server(self, tell: Callable[[str], None]) -> None:
        """Return when the server answers. Raises DeploymentError where it does not within a quarter of a minute."""
        address, authority = self._server()
        deadline, told = time.monotonic() + SECONDS_TO_WAIT, False
        while reason := unreachable(address, authority):
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"No server answers at {address}: {reason}; nothing was submitted.", "Start `feddtl server`."
                )
            if not told:
                tell(f"waiting for the server at {address}")
                told = True
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _server(self) -> tuple[Address, Path]:
        """What `connect_to` wrote. Raises DeploymentError where something else did."""
        file = self.home / "config.toml"
        try:
            named = tomllib.loads(file.read_text(encoding="utf-8"))["superlink"][CONNECTION]
            return Address.parse(named["address"]), Path(named["root-certificates"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise DeploymentError(
                f"{file} does not say where the server is ({type(error).__name__}); nothing was submitted.",
                "`feddtl server` writes it when it starts: start it again with this --state.",
            ) from None

    def register(self, public_key: Path) -> None:
        """Let the client with this key connect, if it may not already. Raises DeploymentError."""
        answer = self._ask("supernode", "register", str(public_key), CONNECTION, "--name", public_key.stem)
        if not answer.get("success") and not _says(answer, KNOWN):
            raise DeploymentError(
                f"The server does not accept the key {public_key}: {_reason(answer)}",
                "It is to be a client's .pub file that `feddtl keys` wrote.",
            )

    def start(self, app: Path, run_config: Path) -> int:
        """Id of a new run of an app folder with the values of a TOML file. Raises DeploymentError."""
        answer = self._ask("run", str(app), CONNECTION, "--run-config", str(run_config))
        if not answer.get("run-id"):
            raise DeploymentError(f"The server did not take the run: {_reason(answer)}", "Is `feddtl server` running?")
        return int(answer["run-id"])

    def status(self, run: int) -> RunStatus:
        """Where a run stands.

        Raises:
            UnknownRunError: The server does not have this run.
            DeploymentError: The server does not answer.
        """
        answer = self._ask("ls", CONNECTION, "--run-id", str(run))
        runs = answer.get("runs") or []
        if not runs:
            if _says(answer, NO_SUCH_RUN):
                raise UnknownRunError(
                    f"The server does not know run {run}: it was started again meanwhile, and the run ended with it.",
                    "feddtl submit --resume DIR goes on from the run's last checkpoint, if it had one.",
                )
            raise DeploymentError(
                f"The server does not say how run {run} stands: {_reason(answer)}", "Is `feddtl server` running?"
            )
        return RunStatus(str(runs[0]["status"]), str(runs[0].get("status-details") or ""))

    def stop(self, run: int) -> None:
        """Ask the server to end a run; one that ended already stays as it is. Raises DeploymentError."""
        answer = self._ask("stop", str(run), CONNECTION)
        if not answer.get("success") and not _says(answer, ENDED) and not _says(answer, NO_SUCH_RUN):
            raise DeploymentError(
                f"Run {run} may still be going on, as the server was not told to stop it: {_reason(answer)}",
                self.by_hand(run),
            )

    def by_hand(self, run: int) -> str:
        """How a user looks after a run that is no longer followed."""
        home = shlex.quote(str(self.home))
        flwr = f"FLWR_HOME={home} FLWR_TELEMETRY_ENABLED=0 {shlex.quote(flower_program('flwr'))}"
        return f"Look: {flwr} ls {CONNECTION} --run-id {run}. Stop it: {flwr} stop {run} {CONNECTION}"

    def log_command(self, run: int) -> list[str]:
        """The command that prints a run's log until the run ends."""
        return [flower_program("flwr"), "log", str(run), CONNECTION, "--stream"]

    def _ask(self, *words: str) -> dict[str, Any]:
        """What `flwr` answers in JSON; in a session of its own it does not get the terminal's Ctrl-C."""
        command: Sequence[str] = [flower_program("flwr"), *words, "--format", "json"]
        environment = flower_environment(self.home)
        done = subprocess.run(
            command,
            env=environment,
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
            answer = {"success": False, "error-message": (done.stderr or done.stdout).strip()}
        return answer if isinstance(answer, dict) else {}


def _says(answer: dict[str, Any], words: str) -> bool:
    """Whether the error in an answer has these words."""
    return words in str(answer.get("error-message", "")).lower()


def _reason(answer: dict[str, Any]) -> str:
    """The error in an answer, without what `flwr` says of its own doing before it."""
    lines = str(answer.get("error-message", "no reason was given")).splitlines()
    said = [line.strip() for line in lines if line.strip() and not OWN_DOING.search(line)]
    return " ".join(said)
