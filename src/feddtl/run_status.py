"""What a run is doing, or how it ended, from its folder alone; imports neither numpy nor torch.

Whether a process runs it is known from the lock of the folder, which ends with the process. Where the file system has
no locks, from the process that the log names.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.records import RoundRecord
from feddtl.run_files import (
    CONFIG,
    DATA,
    STOP,
    has_run,
    is_finished,
    read_data,
    read_experiment,
    read_metrics,
    require_run,
    resuming,
)
from feddtl.run_log import Event, last_session, latest, still_runs
from feddtl.storage import is_locked
from feddtl.units import NUMBERED, ClientNames, counted, duration, percent, scores_line

State = Literal["running", "finished", "stopped", "failed", "interrupted", "killed", "unknown"]
LATEST = 5  # rounds that the remaining time is estimated from
DEPTH = 3  # levels of folders below one that is searched for runs


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        folder: The run's.
        experiment: Its settings.
        records: Of the finished rounds.
        events: The last session of its log.
        live: Whether a process runs it.
        finished: Whether it has a summary.
        stopping: Whether it was asked to stop.
        names: What the clients are called.
    """

    folder: Path
    experiment: Experiment
    records: Sequence[RoundRecord]
    events: Sequence[Event]
    live: bool
    finished: bool
    stopping: bool
    names: ClientNames = NUMBERED

    @property
    def state(self) -> State:
        """`killed` ended without a word; `unknown` is a run of a version that kept no log."""
        if self.live:
            return "running"
        if self.finished:
            return "finished"
        ended = self.latest("ended")
        how: Any = ended["how"] if ended else "killed" if self.events else "unknown"
        return how if how in ("stopped", "failed", "interrupted", "killed") else "unknown"

    @property
    def started(self) -> float:
        """When its last session began, or it was announced, in seconds since 1970."""
        return self.events[0]["time"] if self.events else (self.folder / CONFIG).stat().st_mtime

    @property
    def rounds_done(self) -> int:
        """Number of the last finished round."""
        return self.records[-1].round if self.records else 0

    def latest(self, *names: str) -> Event:
        """The last event of these names; empty if there is none."""
        return latest(self.events, *names)

    @cached_property
    def phase(self) -> str:
        """What a running run does, in words."""
        of, current = self.experiment.rounds, self.latest("round")
        if not self.latest("begun"):
            images = self.latest("images")
            done = f": {images['what']}, {images['done']} of {images['total']}" if images else ""
            return f"loading data and model{done}"
        if current and current["round"] > self.rounds_done:
            return f"round {current['round']} of {of} ({current['stage']})"
        return "the closing evaluation" if self.rounds_done >= of else f"after round {self.rounds_done} of {of}"

    @cached_property
    def clients(self) -> dict[str, list[int]]:
        """The clients of the current round, those whose updates arrived, and those elsewhere that are connected."""
        current, arrived, connected = self.latest("round"), self.latest("round", "arrived"), self.latest("connected")
        there = arrived if arrived and arrived["event"] == "arrived" else {}
        return {
            "selected": list(current.get("clients", [])),
            "arrived": list(there.get("clients", [])),
            "connected": list(connected.get("clients", [])),
        }

    @property
    def scores(self) -> dict[str, float | None]:
        """The headline scores of the last round that has some; empty before."""
        scored = next((record for record in reversed(self.records) if record.is_scored), None)
        return scored.headline if scored else {}

    @property
    def seconds_left(self) -> float | None:
        """Until the last round ends, by the mean of the latest rounds; None where nothing is known."""
        took = [sum(record.seconds.values()) for record in self.records[-LATEST:]]
        if not self.live or not took:
            return None
        current = self.latest("round")
        gone = time.time() - current["time"] if current and current["round"] > self.rounds_done else 0.0
        left = self.experiment.rounds - self.rounds_done
        return max(sum(took) / len(took) * left - gone, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        ended, started = self.latest("ended"), self.events[0] if self.events else {}
        return {
            "folder": str(self.folder),
            "state": self.state,
            "rounds_done": self.rounds_done,
            "rounds": self.experiment.rounds,
            "phase": self.phase if self.live else None,
            "clients": self.clients if self.live else None,
            "accuracy": self.scores,
            "seconds_left": self.seconds_left,
            "stopping": self.live and self.stopping,
            "process": {key: started[key] for key in ("pid", "host", "time", "remote") if key in started} or None,
            "reason": ended.get("text") if not self.live and ended else None,
        }


def run_status(folder: Path) -> RunStatus:
    """The status of the run in a folder. Raises RunError if there is none, or it cannot be read."""
    require_run(folder)
    live, events = live_session(folder)
    return RunStatus(
        folder,
        read_experiment(folder / CONFIG),
        read_metrics(folder),
        events,
        live,
        is_finished(folder),
        (folder / STOP).is_file(),
        ClientNames(tuple(read_data(folder / DATA).get("sites", ()))) if (folder / DATA).is_file() else NUMBERED,
    )


def live_session(folder: Path) -> tuple[bool, tuple[Event, ...]]:
    """Whether a process runs a run, by its lock or, where there are no locks, by its log; and the last session."""
    # The lock first: a process that ends in between has then written all that is read.
    locked, events = is_locked(folder), last_session(folder)
    if locked is None:
        return bool(events) and events[-1]["event"] != "ended" and still_runs(events[0]), events
    return locked, events


def refuse_running(folder: Path) -> None:
    """Raise RunError if a process runs the run in a folder, whose other files may be damaged."""
    if not has_run(folder):
        return
    live, events = live_session(folder)
    if not live:
        return
    who = f": {process_line(events[0])}" if events else ""
    raise RunError(
        f"The run in {folder} is still running{who}; nothing was changed.",
        f"Follow it: {command('follow', folder)}. Stop it: {command('stop', folder)}.",
    )


def runs_below(folder: Path) -> Iterator[Path]:
    """The folder itself if it contains a run, else the runs in its folders up to three levels below, by name."""
    yield from _runs(folder, DEPTH)


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    if has_run(folder):
        yield folder
    elif depth and folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.name.startswith("."):
                yield from _runs(entry, depth - 1)


def command(name: str, folder: Path) -> str:
    """A command for a run, between backticks."""
    return f"`feddtl {name} {shlex.quote(str(folder))}`"


def process_line(started: Event) -> str:
    """'process 4242 on silo-a since 2026-05-01 10:32:10'."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started["time"]))
    return f"process {started.get('pid')} on {started.get('host')} since {since}"


def status_lines(found: RunStatus) -> list[str]:
    """A run for its user: the first line says whether it is running, the others what is known."""
    lines = [f"{found.folder}: {_first(found)}", f"  {_title(found.experiment)}"]
    if found.live:
        lines += [f"  {line}" for line in _live_lines(found)]
    if found.scores:
        number = next(record.round for record in reversed(found.records) if record.is_scored)
        latest = "" if number == found.rounds_done else ", the latest with scores"
        scores = f"local {percent(found.scores['local'])}  {scores_line(found.scores)}"
        lines.append(f"  after round {number}{latest}: {scores}")
    if lost := lost_line(found.records, found.names):
        lines.append(f"  {lost}")
    ended = found.latest("ended")
    if found.state == "failed":
        lines += [f"  {text}" for text in (ended.get("text"), ended.get("hint")) if text]
    elif found.state not in ("running", "finished"):
        lines.append(f"  It can be resumed: {resuming(found.folder)}")
    return lines


def _first(found: RunStatus) -> str:
    done = f"after round {found.rounds_done} of {found.experiment.rounds}"
    if not found.rounds_done:
        done = "before its first round ended"
    return {
        "running": f"is running, {found.phase}",
        "finished": f"finished, {counted(found.rounds_done, 'round')}",
        "stopped": f"stopped {done}, as `feddtl stop` asked",
        "failed": f"ended with an error {done}",
        "interrupted": f"interrupted {done}",
        "killed": f"ended without a word {done}: its process was killed, or the machine went down",
        "unknown": f"is not running, {done}",
    }[found.state]


def _title(experiment: Experiment) -> str:
    source = experiment.data.source
    return f"{experiment.title} on {source}, model {experiment.model_name}, seed {experiment.seed}"


def _live_lines(found: RunStatus) -> Iterator[str]:
    started, who = found.events[0] if found.events else {}, found.clients
    if started:
        yield f"{process_line(started)}, {'clients over Flower' if started.get('remote') else 'all clients in it'}"
    if started.get("remote") and (connected := found.latest("connected")):
        there = found.names.all_of(who["connected"], 20) if who["connected"] else "no client"
        yield f"connected: {there}, {len(who['connected'])} of {connected['of']}"
    if who["selected"] and "round" in found.phase and started.get("remote"):
        missing = [client for client in who["selected"] if client not in who["arrived"]]
        waits = f"; waiting for {found.names.all_of(missing)}" if missing else ""
        yield f"updates: {len(who['arrived'])} of {len(who['selected'])}{waits}"
    if (left := found.seconds_left) is not None:
        yield f"about {duration(left)} left"
    if found.stopping:
        yield "it was asked to stop, and does so after this round"


def lost_line(records: Sequence[RoundRecord], names: ClientNames = NUMBERED) -> str:
    """The latest round in which updates of clients elsewhere were lost, and why; empty if none was."""
    failed = [record for record in records if record.failures]
    if not failed:
        return ""
    last = failed[-1]
    reasons = "; ".join(f"{names.one(client)}: {reason.rstrip('.')}" for client, reason in last.failures.items())
    return f"updates lost in {counted(len(failed), 'round')}, last in round {last.round}: {reasons}"
