"""Processes of a measurement: started, watched for their memory, and ended."""

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
    """All processes that were started here and their descendants, found by an environment variable that they inherit.

    Flower starts helpers in new sessions. They outlive a killed parent, so they cannot be found through it.
    """

    mark: str = field(default_factory=lambda: uuid4().hex)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, role: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a command of a role in a new session; its output is appended to a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {}), VARIABLE: f"{self.mark}/{role}"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def members(self, role: str | None = None) -> list[int]:
        """Ids of all running processes, or of those of a role."""
        wanted = f"{VARIABLE}={self.mark}/" + ("" if role is None else f"{role}\0")
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return sorted(pid for pid in pids if wanted in read(pid, "environ") and alive(pid))

    def kill(self, role: str, name: str = "") -> None:
        """SIGKILL for all processes of a role, as in a power failure, or for those of one program."""
        while pids := [pid for pid in self.members(role) if name in ("", program(pid))]:
            for pid in pids:
                send(pid, signal.SIGKILL)

    def end(self) -> None:
        """End all processes: by SIGTERM, and after SECONDS_TO_END by SIGKILL."""
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
    """Processes that end with the block, also if it fails or this process receives SIGTERM."""
    started = Processes()
    with ended_by_sigterm(128 + signal.SIGTERM):
        try:
            yield started
        finally:
            started.end()


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    return (status := read(pid, "stat")) != "" and status.rpartition(")")[2].split()[0] != "Z"


def read(pid: int, name: str) -> str:
    """A file of /proc/PID; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def program(pid: int) -> str:
    """Name of the program that a process runs; for a Python program the script's name."""
    words = [Path(word).name for word in read(pid, "cmdline").split("\0")]
    known = [word for word in words if word.startswith(("flower-", "flwr", "feddtl", "ray::", "raylet", "gcs_server"))]
    return known[0].split(" ")[0] if known else (words[0] or "ended")


def memory(pids: Sequence[int]) -> int:
    """Bytes of main memory that these processes use; pages that several share are counted once."""
    lines = [line for pid in pids for line in read(pid, "smaps_rollup").splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) * 1024


def peak(pid: int) -> int:
    """Largest resident bytes of a process so far."""
    lines = [line for line in read(pid, "status").splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


class Watch(threading.Thread):
    """Reads the memory of processes once a second.

    Attributes:
        most: Largest sum over all processes, in bytes.
        peaks: Largest resident bytes of a process, by role and program.
        seen: Ids of all processes that were found.
    """

    def __init__(self, watched: Processes, roles: Sequence[str] = ("",)) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.peaks: dict[str, int] = {}
        self.seen: set[int] = set()
        self._watched = watched
        self._roles = roles
        self._stopped = threading.Event()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        while not self._stopped.wait(1.0):
            self.most = max(self.most, memory(self._watched.members()))
            for role in self._roles:
                for pid in self._watched.members(role):
                    self.seen.add(pid)
                    name = f"{role} {program(pid)}".strip()
                    self.peaks[name] = max(self.peaks.get(name, 0), peak(pid))

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()
