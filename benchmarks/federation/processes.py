"""Processes of a measurement: their memory, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from feddtl.launch.processes import ended_by_sigterm

SECONDS_TO_END = 10.0
VARIABLE = "FEDDTL_MEASUREMENT"


@dataclass
class Processes:
    """Every process that was started here, and its descendants, known by a variable that they inherit.

    Flower starts helpers in sessions of their own, which outlive a parent that is killed: no parent leads to them.
    """

    mark: str = field(default_factory=lambda: uuid4().hex)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, party: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a command of a party in a session of its own; what it prints is appended to a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {}), VARIABLE: f"{self.mark}/{party}"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def members(self, party: str | None = None) -> list[int]:
        """All that run, or those of a party, by process id."""
        wanted = f"{VARIABLE}={self.mark}/" + ("" if party is None else f"{party}\0")
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return sorted(pid for pid in pids if wanted in read(pid, "environ") and alive(pid))

    def kill(self, party: str, name: str = "") -> None:
        """What a power cut does: SIGKILL to all processes of a party, or to those of a program."""
        while pids := [pid for pid in self.members(party) if name in ("", program(pid))]:
            for pid in pids:
                send(pid, signal.SIGKILL)

    def end(self) -> None:
        """Ask, wait, insist."""
        for pid in self.members():
            send(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_END
        while self.members() and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in self.members():
            send(pid, signal.SIGKILL)
        for process in self.running:
            process.wait()


@contextmanager
def processes() -> Iterator[Processes]:
    """Processes that end with the block, also when it fails or this process is told to end."""

    started = Processes()
    with ended_by_sigterm(128 + signal.SIGTERM):
        try:
            yield started
        finally:
            started.end()


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    return (status := read(pid, "stat")) != "" and status.rpartition(")")[2].split()[0] != "Z"


def read(pid: int, name: str) -> str:
    """A file of /proc/PID; '' where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def program(pid: int) -> str:
    """Name of the program that a process runs: of a Python program its own, not Python's."""
    words = [Path(word).name for word in read(pid, "cmdline").split("\0")]
    known = [word for word in words if word.startswith(("flower-", "flwr", "feddtl", "ray::", "raylet", "gcs_server"))]
    return known[0].split(" ")[0] if known else (words[0] or "ended")


def memory(pids: Sequence[int]) -> int:
    """Bytes of main memory that these processes take, pages that several share counted once."""
    lines = [line for pid in pids for line in read(pid, "smaps_rollup").splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) * 1024


def peak(pid: int) -> int:
    """Largest resident bytes of a process so far."""
    lines = [line for line in read(pid, "status").splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


class Watch(threading.Thread):
    """Looks once a second at the memory of processes.

    Attributes:
        most: Largest sum, in bytes.
        peaks: Largest resident bytes of a process, by party and program.
        seen: Processes that were there.
    """

    def __init__(self, watched: Processes, parties: Sequence[str] = ("",)) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.peaks: dict[str, int] = {}
        self.seen: set[int] = set()
        self._watched = watched
        self._context = parties
        self._stopped = threading.Event()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        while not self._stopped.wait(1.0):
            self.most = max(self.most, memory(self._watched.members()))
            for party in self._context:
                for pid in self._watched.members(party):
                    self.seen.add(pid)
                    name = f"{party} {program(pid)}".strip()
                    self.peaks[name] = max(self.peaks.get(name, 0), peak(pid))

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()
        self.join()
