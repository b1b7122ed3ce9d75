"""Progress of a run on standard error: a line for each round, and bars on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from feddtl.cli.printing import print_line, print_note
from feddtl.config import Experiment, SystemConfig
from feddtl.config.running import SCORED_IMAGES
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.notes import Warned, noted
from feddtl.observers import RunObserver
from feddtl.progress_lines import counted_line, round_line, start_lines
from feddtl.records import RoundRecord
from feddtl.units import NUMBERED, ClientNames, duration, harmless


@contextmanager
def run_progress(*, quiet: bool) -> Iterator[RunObserver]:
    """An observer that prints lines on standard error, above bars on a terminal; warnings alone if quiet."""
    if quiet:
        yield WarningObserver()
    else:
        with Bars(error_console()) as bars:
            yield ProgressObserver(bars)


def error_console() -> Console:
    """Standard error; only a terminal gets bars, even if FORCE_COLOR is set."""
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


class Bars(Progress):
    """Progress bars by name, each drawn at its first use; they disappear at the end. A file gets none.

    Args:
        console: Where they are drawn, below the lines that are printed on it.
        disable: Whether there are none on a terminal either.
    """

    def __init__(self, console: Console, *, disable: bool = False) -> None:
        columns = (TextColumn("{task.fields[count]:>11}"), TextColumn("{task.fields[left]}"))
        title, bar = TextColumn("{task.description:<20}", markup=False), BarColumn(bar_width=30)
        super().__init__(
            title, bar, *columns, console=console, transient=True, disable=disable or not console.is_terminal
        )
        self._named: dict[str, TaskID] = {}

    def draw(self, name: str, title: str, done: int = 0, total: int | None = None, *, estimate: bool = False) -> None:
        """Draw a bar, which pulses without a total. With an estimate, its remaining time stands behind it."""
        if self.disable:
            return
        count = "" if total is None else f"{done}/{total}"
        if name not in self._named:
            self._named[name] = self.add_task(harmless(title), total=total, completed=done, count=count, left="")
        task = self._named[name]
        self.update(task, description=harmless(title), completed=done, total=total, count=count)
        if estimate:
            # From the progress since the first drawing; there is none before the first step.
            self.say_left(name, next(found for found in self.tasks if found.id == task).time_remaining)

    def say_left(self, name: str, seconds: float | None) -> None:
        """Write the remaining time behind a bar, if it was drawn."""
        if name in self._named:
            self.update(self._named[name], left=time_left(seconds))

    def remove(self, name: str) -> None:
        """Remove a bar, if it was drawn."""
        if name in self._named:
            self.remove_task(self._named.pop(name))


def time_left(seconds: float | None) -> str:
    """'about 5 min 3 s left'; nothing if it is not known, or if none is left."""
    return f"about {duration(seconds)} left" if seconds else ""


class WarningObserver(RunObserver):
    """Prints warnings on standard error, each once, and nothing else."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def note(self, text: str) -> None:
        if isinstance(text, Warned) and text not in self._told:
            self._told.add(text)
            print_note(text)


class ProgressObserver(RunObserver):
    """Prints notes, the start and a line for each round, above bars for images, rounds, clients and epochs.

    Args:
        bars: Where they are drawn.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._rounds = self._clients = self._arrived = 0
        self._clock = self._on_clients = False
        self._names = NUMBERED
        self._scored = SCORED_IMAGES["test"]
        bars.draw("loading", "data and model")

    def show(self, line: str) -> None:
        """Print a line."""
        print_line(self._bars.console, line)

    def note(self, text: str) -> None:
        self.show(noted(text))

    def images_encoded(self, what: str, done: int, total: int) -> None:
        self._bars.draw("loading", what, done, total)

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._bars.remove("loading")
        self._rounds = experiment.rounds
        self._clock = experiment.system != SystemConfig()
        self._on_clients = data.on_clients
        self._names = ClientNames(data.sites)
        self._scored = SCORED_IMAGES[data.scored]
        for line in start_lines(experiment, data, zero_shot, len(records)):
            self.show(line)
        self._bars.draw("rounds", "rounds", len(records), experiment.rounds)

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        self._clients, self._arrived = len(clients), 0
        self._bars.draw("clients", f"{self._names.noun}s", 0, len(clients))
        self._bars.draw("epochs", f"{self._names.one(clients[0])}, {stage}")

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        self._bars.draw("epochs", f"epochs of {self._names.one(client)}", epoch, epochs)

    def client_finished(self, client: int) -> None:
        self._arrived += 1
        self._bars.draw("clients", f"{self._names.noun}s", self._arrived, self._clients)
        if self._arrived == self._clients:
            self._bars.draw("epochs", "server and scoring")

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        if self._on_clients:
            self.show(counted_line(round_number, federated, self._rounds, self._scored))

    def round_finished(self, record: RoundRecord) -> None:
        self.show(round_line(record, self._rounds, virtual_time=self._clock))
        self._bars.draw("rounds", "rounds", record.round, self._rounds, estimate=True)
