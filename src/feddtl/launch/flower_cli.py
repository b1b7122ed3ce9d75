"""Flower's own command line, `flwr`, as functions: nodes, runs and their logs at one server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddtl.errors import DeploymentError
from feddtl.launch.connection import Address
from feddtl.launch.processes import flower_environment, flower_program
from feddtl.launch.toml_text import toml_text
from feddtl.storage import write_text_atomic

CONNECTION = "feddtl"
KNOWN = "already in use"  # what registering a key again is answered with
OWN_DOING = re.compile(r"^Using SuperLink:|\.\.\.$")
COMPLETED = "finished:completed"


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

    def register(self, public_key: Path) -> None:
        """Let the client with this key connect, if it may not already. Raises DeploymentError."""
        answer = self._ask("supernode", "register", str(public_key), CONNECTION, "--name", public_key.stem)
        if not answer.get("success") and KNOWN not in str(answer.get("error-message", "")).lower():
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
        """Where a run stands. Raises DeploymentError."""
        answer = self._ask("ls", CONNECTION, "--run-id", str(run))
        runs = answer.get("runs") or []
        if not runs:
            raise DeploymentError(
                f"The server does not say how run {run} stands: {_reason(answer)}", "Is `feddtl server` running?"
            )
        return RunStatus(str(runs[0]["status"]), str(runs[0].get("status-details") or ""))

    def stop(self, run: int) -> None:
        """Ask the server to end a run; one that ended already stays as it is."""
        self._ask("stop", str(run), CONNECTION)

    def log_command(self, run: int) -> list[str]:
        """The command that prints a run's log until the run ends."""
        return [flower_program("flwr"), "log", str(run), CONNECTION, "--stream"]

    def _ask(self, *words: str) -> dict[str, Any]:
        """What `flwr` answers in JSON."""
        command: Sequence[str] = [flower_program("flwr"), *words, "--format", "json"]
        environment = flower_environment(self.home)
        done = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, errors="replace", check=False
        )
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"success": False, "error-message": (done.stderr or done.stdout).strip()}
        return answer if isinstance(answer, dict) else {}


def _reason(answer: dict[str, Any]) -> str:
    """The error in an answer, without what `flwr` says of its own doing before it."""
    lines = str(answer.get("error-message", "no reason was given")).splitlines()
    said = [line.strip() for line in lines if line.strip() and not OWN_DOING.search(line)]
    return " ".join(said)
