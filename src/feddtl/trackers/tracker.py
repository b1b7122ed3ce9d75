"""What every tracker does: settings and zero-shot first, the numbers of each round, plots at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.errors import FeddtlError, RunError
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord, Summary, headline, scalars_in

PROJECT = "feddtl"
"""The project, or the experiment of MLflow, that runs belong to."""


class Tracker(RunObserver, ABC):
    """Passes a scalar for every number of a round on; the step is the round, 0 before training.

    A resumed run is written again from its beginning: a round that was written and then lost with its process would
    appear twice otherwise.

    Args:
        folder: The run's.
    """

    name: str

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._on_clients = self._is_open = False

    @abstractmethod
    def open(self, experiment: Experiment) -> None:
        """Begin a run, with its settings."""

    @abstractmethod
    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Numbers of a round, all finite; a round may have several such calls."""

    @abstractmethod
    def picture(self, title: str, path: Path) -> None:
        """A plot, as a PNG that is removed afterwards."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Write what is left; the run is finished, or ended before its last round."""

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._on_clients = data.on_clients
        with self._errors():
            self.open(experiment)
        self._is_open = True
        self._write(0, headline(zero_shot.as_dict()))
        for record in records:
            self._write(record.round, record.scalars)

    def clients_counted(self, round_number: int, federated: FederatedAccuracy) -> None:
        if round_number:
            self._write(round_number, scalars_in({"federated": federated.to_dict()}))
        if self._on_clients:
            self._write(round_number, federated.scores)

    def round_finished(self, record: RoundRecord) -> None:
        self._write(record.round, record.scalars)

    def plots_drawn(self, draw: Callable[[Path], None]) -> None:
        with self._errors(), TemporaryDirectory() as folder:
            draw(Path(folder))
            for path in sorted(Path(folder).glob("*.png")):
                self.picture(path.stem, path)

    def run_finished(self, summary: Summary) -> None:
        self._close(finished=True)

    def run_failed(self) -> None:
        self._close(finished=False)

    def _close(self, *, finished: bool) -> None:
        if self._is_open:
            self._is_open = False
            with self._errors():
                self.close(finished=finished)

    def _write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in scalars.items() if value is not None and math.isfinite(value)}
        if known:
            with self._errors():
                self.write(step, known)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What goes wrong in another program as an error of the run."""
        try:
            yield
        except FeddtlError:
            raise
        except Exception as error:
            raise RunError(
                f"The tracker '{self.name}' failed: {type(error).__name__}: {error}",
                "Correct this and resume the run with the same --track, or resume it without.",
            ) from error
