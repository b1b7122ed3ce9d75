"""A deployed federation of this measurement: `feddtl server`, `feddtl client` and `feddtl submit`, each a party."""

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
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_START = 180.0
READY = "The server listens on"  # what `feddtl server` says


@dataclass
class Federation:
    """RunContext are processes of this machine; each has its own state, keys and log below `root`.

    Attributes:
        root: New folder for everything.
        clients: How many there are.
        processes: What is started.
        host: Address of the server.
        port: Its port.
        within: Words before the commands of a party, as `ip netns exec NAME`.
    """

    root: Path
    clients: int
    processes: Processes
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    within: Callable[[str], Sequence[str]] = lambda party: ()

    def write_keys(self) -> None:
        """Authority, certificate and keys."""
        command = [*FEDDTL, "keys", str(self.root / "keys"), "--hosts", self.host, "--clients", str(self.clients)]
        subprocess.run(command, check=True, capture_output=True)

    def start_server(self) -> None:
        """`feddtl server`; returns when clients and runs are let in."""
        said = len(self.said(SERVER))
        flags = ["--keys", self.root / "keys" / "server", "--host", self.host, "--port", self.port]
        server = self._start(SERVER, "server", *flags)
        wait_for("the server", lambda: READY in self.said(SERVER)[said:] or server.poll(), SECONDS_TO_START)
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start:\n{self.said(SERVER)[-1500:]}")

    def start_client(self, client: int) -> None:
        """`feddtl client`, as a service manager starts it anew after it died."""
        party = client_name(client)
        flags = ["--id", client, "--server", f"{self.host}:{self.port}", "--keys", self.root / "keys" / party]
        self._start(party, "client", *flags)

    def submit(self, experiment: Experiment, output: Path, *, resume: bool = False) -> subprocess.Popen[bytes]:
        """`feddtl submit`, or with `resume` on with a run."""
        path = self.root / "experiment.toml"
        path.write_text(as_toml(experiment), encoding="utf-8")
        flags = ["--resume", output] if resume else [path, "--output", output]
        return self._start(SUBMIT, "submit", *flags, state=SERVER)

    def said(self, party: str) -> str:
        """What a party's processes printed so far."""
        path = self._log(party)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _log(self, party: str) -> Path:
        return self.root / f"{party}.log"

    def trains(self, client: int, round_number: int) -> bool:
        """Whether a client took the broadcast of a round, and a process of it works.

        A process alone may be that of the round before, and a broadcast that a killed client did not take is the one
        that it takes when it is back: nothing is lost then.
        """
        if f"round {round_number}: training" not in self.said(client_name(client)):
            return False
        return any(program(pid) == "flwr-clientapp" for pid in self.processes.members(client_name(client)))

    def _start(self, party: str, command: str, *flags: object, state: str = "") -> subprocess.Popen[bytes]:
        state_folder = self.root / "state" / (state or party)
        # A cache of activations for each party, as on machines of their own.
        environment = {"FEDDTL_STATE": str(state_folder), "FEDDTL_CACHE": str(self.root / "cache" / (state or party))}
        words = [*self.within(state or party), *FEDDTL, command, *map(str, flags)]
        return self.processes.start(words, self._log(party), environment, party)


def as_toml(experiment: Experiment) -> str:
    """An experiment file."""
    values = experiment_to_dict(experiment)
    plain = toml_text({key: value for key, value in values.items() if not isinstance(value, dict)})
    tables = [f"[{key}]\n{toml_text(value)}" for key, value in values.items() if isinstance(value, dict)]
    return plain + "".join(tables)


def records_of(run: Path) -> list[dict[str, Any]]:
    """Rounds that a run has done so far."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def wait_for(what: str, condition: Callable[[], object], seconds: float) -> float:
    """Seconds until a condition holds. Raises TimeoutError naming it."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} seconds")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return time.monotonic() - begun


def require_root() -> None:
    """Raise SystemExit for a user who may not make network namespaces."""
    if os.geteuid() != 0:
        raise SystemExit("Network namespaces need root.")
