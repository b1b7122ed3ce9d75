"""The numbers of a run as event files of TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord, Summary, headline, scalars_in
from feddtl.storage import storage_errors

FOLDER = "tensorboard"


class TensorBoard(RunObserver):
    """Writes a scalar for every number of a round; the step is the round, 0 before training.

    A resumed run rewrites the finished rounds and replaces the files of the earlier process. Otherwise, a round that
    was written and then lost with its process would appear twice. The event files are in `tensorboard`, a subfolder of
    the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._writer: SummaryWriter | None = None
        self._on_clients = False

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._on_clients = data.on_clients
        with storage_errors(self._folder):
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(self._folder))
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

    def run_finished(self, summary: Summary) -> None:
        if self._writer is not None:
            with storage_errors(self._folder):
                self._writer.close()

    def _write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        assert self._writer is not None
        with storage_errors(self._folder):
            for tag, value in scalars.items():
                if value is not None and not math.isnan(value):
                    self._writer.add_scalar(tag, value, step)
            self._writer.flush()
