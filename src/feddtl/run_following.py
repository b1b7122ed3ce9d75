"""Following a run from another terminal, and asking it to stop; imports neither numpy nor torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from feddtl.errors import RunError
from feddtl.run_files import STOP, has_run, require_run, resuming
from feddtl.run_log import Event
from feddtl.run_status import command, live_session, run_status, runs_below, status_lines
from feddtl.storage import write_text_atomic

SECONDS_BETWEEN_LOOKS = 0.5
NOW = "now"  # content of a request: not at the end of the round, but as soon as possible


def chosen_run(folder: Path, *, running: bool = False) -> Path:
    """The run in a folder or, in a folder of several, the one that is running.

    Args:
        folder: A run's, or one above it.
        running: Whether it must be running.

    Raises:
        RunError: There is none, or several are running; or it is not running, but must be.
    """
    if has_run(folder):
        if running and not (found := run_status(folder)).live:
            ended = {"finished": "it is finished", "unknown": "no process has it"}.get(
                found.state, f"it has ended ({found.state})"
            )
            hint = "" if found.finished else f"It can be resumed: {resuming(folder)}."
            raise RunError(f"The run in {folder} is not running: {ended}.", hint or f"See {command('status', folder)}.")
        return folder
    runs = list(runs_below(folder))
    if not runs:
        require_run(folder)
    live = [run for run in runs if live_session(run)[0]]
    if len(live) == 1:
        return live[0]
    what = f"{len(live)} runs are running" if live else "No run is running"
    names = ": " + ", ".join(map(str, live)) if live else ""
    raise RunError(f"{what} in {folder}{names}.", f"Name a run folder; {command('status', folder)} lists them.")


def followed_lines(folder: Path, look: Callable[[Sequence[Event]], None] | None = None) -> Iterator[str]:
    """The lines of a run's last session, those that it will print too, until the run ends.

    Args:
        folder: The run's.
        look: Called again and again with all events of the session, after the lines of the new ones.
    """
    shown, begun = 0, None
    while True:
        live, events = _session(folder)
        # A process that resumed the run in the meantime has begun a new session.
        if events and events[0]["time"] != begun:
            shown, begun = 0, events[0]["time"]
        for event in events[shown:]:
            # Without seconds, so that a round fits 80 columns.
            clock = time.strftime("%H:%M", time.localtime(event["time"]))
            yield from (f"{clock} {line}" for line in _lines(event))
        shown = len(events)
        if look is not None:
            look(events)
        if not live:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def final_lines(folder: Path) -> list[str]:
    """The status of a run that has ended; one that ended before it began has removed its folder."""
    if not has_run(folder):
        return [f"{folder}: ended before it began, and left nothing"]
    return status_lines(run_status(folder))


def _session(folder: Path) -> tuple[bool, tuple[Event, ...]]:
    """See `live_session`; a run whose folder is gone is not live."""
    try:
        return live_session(folder)
    except RunError:
        if has_run(folder):
            raise
        return False, ()  # it was removed in this moment


def _lines(event: Event) -> list[str]:
    """What an event printed in the terminal of the run."""
    kind, text = event["event"], str(event.get("text", ""))
    if kind == "begun":
        return [str(line) for line in event.get("lines", ())]
    if kind in ("note", "warning", "line"):
        return [text if kind == "line" else f"{kind}: {text}"]
    return []


def ask_to_stop(folder: Path, *, now: bool = False) -> str:
    """Leave a request to stop for the process that runs the run; what will happen, in words."""
    write_text_atomic(folder / STOP, f"{NOW}\n" if now else "\n")
    found = run_status(folder)
    when = "as soon as it looks" if now else f"after round {found.latest('round').get('round', 0)}"
    if not found.latest("begun"):
        when = "before its first round"
    return f"{folder} stops {when}. Ctrl-C ends this waiting, and not the stop."


def wait_for_end(folder: Path) -> None:
    """Return when no process runs the run any more; a request that nobody read is taken back."""
    while _session(folder)[0]:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    (folder / STOP).unlink(missing_ok=True)
