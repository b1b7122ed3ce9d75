"""A deployed federation: the processes of `feddtl server`, `feddtl client` and `feddtl submit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.federation.processes import Processes, program
from feddtl.config import Experiment
from feddtl.experiment_file import experiment_to_dict
from feddtl.launch.connection import client_name, toml_text
from feddtl.launch.processes import free_port

FEDDTL = (sys.executable, "-m", "feddtl")
SERVER, SUBMIT = "server", "submit"
SECONDS_BETWEEN_CHECKS = 0.2
SECONDS_TO_START = 180.0
READY = "The server listens on"  # printed by `feddtl server`


@dataclass
class Federation:
    """A server, its clients and the submitting command on this machine, each with its own state, keys and log.

    Attributes:
        root: New folder for all files.
        clients: Number of clients.
        processes: Starts and ends the commands.
        host: Address of the server.
        port: Its port.
        prefix: Words before the commands of a role, for instance `ip netns exec NAME`.
    """

    root: Path
    clients: int
    processes: Processes
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    prefix: Callable[[str], Sequence[str]] = lambda role: ()

    def write_keys(self) -> None:
        """Write the keys of the server and its clients."""
        command = [*FEDDTL, "keys", str(self.root / "keys"), "--hosts", self.host, "--clients", str(self.clients)]
        subprocess.run(command, check=True, capture_output=True)

    def start_server(self) -> None:
        """Start `feddtl server`; returns when it accepts clients and runs."""
        printed = len(self.output(SERVER))
        flags = ["--keys", self.root / "keys" / "server", "--host", self.host, "--port", self.port]
        server = self._start(SERVER, "server", *flags)
        wait_for("the server", lambda: READY in self.output(SERVER)[printed:] or server.poll(), SECONDS_TO_START)
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start:\n{self.output(SERVER)[-1500:]}")

    def start_client(self, client: int) -> None:
        """Start `feddtl client`; also again after it was killed, as a service manager does."""
        role = client_name(client)
        flags = ["--id", client, "--server", f"{self.host}:{self.port}", "--keys", self.root / "keys" / role]
        self._start(role, "client", *flags)

    def submit(self, experiment: Experiment, output: Path, *, resume: bool = False) -> subprocess.Popen[bytes]:
        """Start `feddtl submit` of a new run, or with `resume` of an existing one."""
        path = self.root / "experiment.toml"
        path.write_text(as_toml(experiment), encoding="utf-8")
        flags = ["--resume", output] if resume else [path, "--output", output]
        return self._start(SUBMIT, "submit", *flags, state=SERVER)

    def output(self, role: str) -> str:
        """The text that the processes of a role have printed so far."""
        path = self._log(role)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _log(self, role: str) -> Path:
        return self.root / f"{role}.log"

    def trains(self, client: int, round_number: int) -> bool:
        """Whether a client has received the broadcast of a round and has a process that works on it.

        The process alone could belong to the round before. A client that is killed before it has received the
        broadcast receives it after its restart, and then no update is lost.
        """
        if f"round {round_number}: training" not in self.output(client_name(client)):
            return False
        return any(program(pid) == "flwr-clientapp" for pid in self.processes.members(client_name(client)))

    def _start(self, role: str, command: str, *flags: object, state: str = "") -> subprocess.Popen[bytes]:
        state_folder = self.root / "state" / (state or role)
        # Each role has its own cache of activations, as on separate machines.
        environment = {"FEDDTL_STATE": str(state_folder), "FEDDTL_CACHE": str(self.root / "cache" / (state or role))}
        words = [*self.prefix(state or role), *FEDDTL, command, *map(str, flags)]
        return self.processes.start(words, self._log(role), environment, role)


def as_toml(experiment: Experiment) -> str:
    """The content of an experiment file."""
    values = experiment_to_dict(experiment)
    plain = toml_text({key: value for key, value in values.items() if not isinstance(value, dict)})
    tables = [f"[{key}]\n{toml_text(value)}" for key, value in values.items() if isinstance(value, dict)]
    return plain + "".join(tables)


def records_of(run: Path) -> list[dict[str, Any]]:
    """Records of the rounds that a run has finished."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def wait_for(what: str, condition: Callable[[], object], seconds: float) -> float:
    """Wait for a condition; the seconds that it took. Raises TimeoutError, which names the condition."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} seconds")
        time.sleep(SECONDS_BETWEEN_CHECKS)
    return time.monotonic() - begun


def require_root() -> None:
    """Raise SystemExit for a user who is not allowed to create network namespaces."""
    if os.geteuid() != 0:
        raise SystemExit("Network namespaces need root.")
