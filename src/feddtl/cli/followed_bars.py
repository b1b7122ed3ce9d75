"""Bars for a run that another process runs, from its log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from feddtl.cli.bars import Bars
from feddtl.errors import RunError
from feddtl.run_files import DATA, read_data
from feddtl.run_log import Event, last_session, latest
from feddtl.units import NUMBERED, ClientNames

SECONDS_BETWEEN_LOOKS = 0.5
LATEST = 5  # rounds that the remaining time is estimated from


class FollowedBars:
    """Draws what a run does: images or clients that it waits for, then its rounds and the clients of the current one.

    Args:
        bars: Where it is drawn.
        folder: The run's.
        rounds: Of the experiment.
    """

    def __init__(self, bars: Bars, folder: Path, rounds: int) -> None:
        self._bars, self._folder, self._rounds = bars, folder, rounds
        self._names: ClientNames | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block, what a process that has begun since then writes into the log is drawn as it comes."""
        since, over = time.time(), threading.Event()

        def watch() -> None:
            while not over.wait(SECONDS_BETWEEN_LOOKS):
                with suppress(RunError):  # the log cannot be read; the end of the run says why
                    events = last_session(self._folder)
                    if events and events[0]["time"] >= since:
                        self.draw(events)

        watching = threading.Thread(target=watch, daemon=True)
        if not self._bars.disable:
            watching.start()
        try:
            yield
        finally:
            over.set()
            if watching.is_alive():
                watching.join()

    def draw(self, events: Sequence[Event]) -> None:
        """Draw what the events of a session say."""
        if not events or latest(events, "ended"):
            for name in ("loading", "rounds", "clients", "server"):
                self._bars.remove(name)
        elif latest(events, "begun"):
            self._draw_round(events)
        else:
            self._draw_loading(latest(events, "images", "connected"))

    def _draw_loading(self, event: Event) -> None:
        if event.get("event") == "connected":
            self._bars.draw("loading", "clients connected", len(event["clients"]), event["of"])
        elif event:
            self._bars.draw("loading", str(event["what"]), event["done"], event["total"])
        else:
            self._bars.draw("loading", "data and model")

    def _draw_round(self, events: Sequence[Event]) -> None:
        started = [event for event in events if event["event"] == "round"][-1 - LATEST :]
        self._bars.remove("loading")
        if not started:
            self._bars.draw("rounds", "rounds", 0, self._rounds)
            return
        current, arrived = started[-1], latest(events, "round", "arrived")
        there = arrived["clients"] if arrived["event"] == "arrived" else ()
        self._bars.draw("rounds", "rounds", current["round"] - 1, self._rounds)
        self._bars.draw("clients", f"{self._noun()}s", len(there), len(current["clients"]))
        if len(started) > 1:
            each = (current["time"] - started[0]["time"]) / (len(started) - 1)
            left = each * (self._rounds - current["round"] + 1) - (time.time() - current["time"])
            self._bars.say_left("rounds", max(left, 0.0))
        if len(there) < len(current["clients"]):
            self._bars.remove("server")
        else:
            self._bars.draw("server", "server and scoring")

    def _noun(self) -> str:
        """'client' or 'site', which is known when the run has begun."""
        if self._names is None:
            with suppress(RunError):
                self._names = ClientNames(tuple(read_data(self._folder / DATA).get("sites", ())))
        return (self._names or NUMBERED).noun
