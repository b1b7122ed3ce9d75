"""Observers of a run: a base class with all events, and several observers combined into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.records import RoundRecord, Summary


class RunObserver:
    """Receives the events of a run, in the order of these methods; the default ignores them.

    An error that a method raises ends the run, as any other error does; the last checkpoint is intact.
    """

    def note(self, text: str) -> None:
        """A note for the user; at any time."""

    def images_encoded(self, what: str, done: int, total: int) -> None:
        """Images through the frozen blocks."""

    def clients_connected(self, clients: Sequence[int], of: int) -> None:
        """These clients elsewhere are connected, of so many; when that has changed."""

    def waiting(self) -> None:
        """The server waits for clients elsewhere; every few seconds."""

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        """Everything is ready, and zero-shot is scored. A resumed run has the records of its finished rounds."""

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        """A round begins with these clients; in asynchronous runs, the clients that are training when it begins."""

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        """A client finished a local epoch."""

    def client_finished(self, client: int) -> None:
        """A client's update arrived."""

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        """Clients scored the global model after a round (0: before training) on their own images."""

    def round_finished(self, record: RoundRecord) -> None:
        """The round is aggregated and scored; its checkpoint is not yet written."""

    def plots_drawn(self, draw: Callable[[Path], None]) -> None:
        """The plots of the finished run are in its folder, as SVG; `draw` draws them into another folder, as PNG."""

    def run_finished(self, summary: Summary) -> None:
        """The summary is written."""

    def run_failed(self) -> None:
        """The run ends before its last round, by an error, a request to stop, or Ctrl-C; it can be resumed."""


class Observers(RunObserver):
    """Several observers as one: each receives every event in turn, and an error of one is not caught.

    Args:
        observers: In the order in which they receive events.
    """

    def __init__(self, *observers: RunObserver) -> None:
        self._observers = observers

    def note(self, text: str) -> None:
        for observer in self._observers:
            observer.note(text)

    def images_encoded(self, what: str, done: int, total: int) -> None:
        for observer in self._observers:
            observer.images_encoded(what, done, total)

    def clients_connected(self, clients: Sequence[int], of: int) -> None:
        for observer in self._observers:
            observer.clients_connected(clients, of)

    def waiting(self) -> None:
        for observer in self._observers:
            observer.waiting()

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        for observer in self._observers:
            observer.run_started(experiment, data, zero_shot, records)

    def round_started(self, round_number: int, stage: str, clients: Sequence[int]) -> None:
        for observer in self._observers:
            observer.round_started(round_number, stage, clients)

    def epoch_finished(self, client: int, epoch: int, epochs: int) -> None:
        for observer in self._observers:
            observer.epoch_finished(client, epoch, epochs)

    def client_finished(self, client: int) -> None:
        for observer in self._observers:
            observer.client_finished(client)

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        for observer in self._observers:
            observer.clients_counted(round_number, federated)

    def round_finished(self, record: RoundRecord) -> None:
        for observer in self._observers:
            observer.round_finished(record)

    def run_finished(self, summary: Summary) -> None:
        for observer in self._observers:
            observer.run_finished(summary)

    def plots_drawn(self, draw: Callable[[Path], None]) -> None:
        for observer in self._observers:
            observer.plots_drawn(draw)

    def run_failed(self) -> None:
        for observer in self._observers:
            observer.run_failed()
