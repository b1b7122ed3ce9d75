"""The log of a run, log.jsonl: an event a line, with its time; a process that runs it appends a session.

| event | its other fields |
|---|---|
| `started` | `pid`, `host`, `boot` and `born` of the process, `remote`: whether the clients are elsewhere |
| `images` | `what`, `done`, `total`: images through the frozen blocks |
| `connected` | `clients`, `of`: clients elsewhere that are connected |
| `begun` | `lines`: what is about to run |
| `round` | `round`, `stage`, `clients` |
| `arrived` | `clients` whose updates have arrived in this round |
| `note`, `line` | `text` |
| `ended` | `how`: finished, stopped, failed or interrupted; `text`, `hint` |
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddtl.parsing import parse_table
from feddtl.run_files import LOG
from feddtl.storage import storage_errors

Event = Mapping[str, Any]
BOOT = Path("/proc/sys/kernel/random/boot_id")
STARTED = 21  # place of the start time among the fields of /proc/PID/stat, counted from 0


def append_event(folder: Path, event: str, **fields: Any) -> None:
    """Append an event to the log of a run, in one write. Raises RunError."""
    path = folder / LOG
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n"
    with storage_errors(path), path.open("ab", buffering=0) as file:
        file.write(line.encode())


def begin_session(folder: Path, *, remote: bool) -> None:
    """Append that this process runs the run. Raises RunError."""
    path = folder / LOG
    with storage_errors(path), path.open("a+b") as file:
        # A process that was killed, or a full disk, may have left a part of a line.
        file.seek(max(file.tell() - 1, 0))
        if file.read() not in (b"", b"\n"):
            file.write(b"\n")
    append_event(folder, "started", **this_process(), remote=remote)


def last_session(folder: Path) -> tuple[Event, ...]:
    """The events of the last process, `started` first; none if there is no log. Lines that are no event are ignored."""
    path, found = folder / LOG, list[Event]()
    with storage_errors(path):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    for line in lines:
        if (event := _event(line)) is None:
            continue
        if event["event"] == "started":
            found.clear()
        found.append(event)
    return tuple(found)


def latest(events: Sequence[Event], *names: str) -> Event:
    """The last event of these names; empty if there is none."""
    return next((event for event in reversed(events) if event["event"] in names), {})


def _event(line: str) -> Event | None:
    try:
        event = parse_table(line)
        return event if isinstance(event["event"], str) and isinstance(event["time"], float | int) else None
    except (ValueError, KeyError):
        return None


def this_process() -> dict[str, Any]:
    """What distinguishes this process from any other: a number alone is used again, after a reboot at the latest."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "born": _born(os.getpid())}


def still_runs(process: Event) -> bool:
    """Whether a process that `this_process` described runs on this machine, as far as can be known here."""
    pid = process.get("pid")
    here = (process.get("host"), process.get("boot")) == (socket.gethostname(), _boot())
    if not here or not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return process.get("born") == _born(pid)


def _boot() -> str:
    """Identity of the machine's current uptime; empty where the system has none."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _born(pid: int) -> str:
    """Start of a process in ticks since the machine's start; empty where that is not known."""
    try:
        # The second field is the program's name, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[STARTED - 2]
    except (OSError, IndexError):
        return ""
