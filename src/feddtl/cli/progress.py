"""Progress of a run on standard error: a line for each round, and bars on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from feddtl.cli.bars import Bars, error_console
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
from feddtl.units import NUMBERED, ClientNames


@contextmanager
def run_progress(*, quiet: bool) -> Iterator[RunObserver]:
    """An observer that prints lines on standard error, above bars on a terminal; warnings alone if quiet."""
    if quiet:
        yield WarningObserver()
    else:
        with Bars(error_console()) as bars:
            yield ProgressObserver(bars)


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
