"""How long the rest of a comparison takes, from the first round of its first cell on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from feddtl.comparison.cells import Cell
from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord


def expected_seconds(done: Sequence[tuple[Cell, float]], waiting: Sequence[Cell]) -> float | None:
    """Seconds that the waiting cells will take, from the cells that are done and their seconds; None if none is done.

    A cell takes the mean over other seeds and rates of its experiment; an experiment that was not yet run takes the
    mean time of a round, over all cells, for each of its rounds.
    """
    if not done:
        return None
    each = sum(seconds for _, seconds in done) / sum(_rounds(cell) for cell, _ in done)
    total = 0.0
    for cell in waiting:
        own = [seconds for other, seconds in done if other.name == cell.name]
        total += sum(own) / len(own) if own else each * _rounds(cell)
    return total


def _rounds(cell: Cell) -> int:
    """Rounds that take time; a method that trains nothing is done as soon as it is scored."""
    return cell.experiment.rounds if cell.experiment.trains else 1


class RoundClock(RunObserver):
    """Estimates the time of a run after each of its rounds but the last.

    Args:
        tell: Receives the seconds of the whole run and those until its end.
    """

    def __init__(self, tell: Callable[[float, float], None]) -> None:
        self._tell = tell
        self._opened = self._begun = time.monotonic()
        self._rounds = self._resumed = 0

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._rounds, self._resumed = experiment.rounds, len(records)
        self._begun = time.monotonic()

    def round_finished(self, record: RoundRecord) -> None:
        if record.round == self._rounds:
            return
        each = (time.monotonic() - self._begun) / (record.round - self._resumed)
        whole = (self._begun - self._opened) + each * self._rounds
        self._tell(whole, each * (self._rounds - record.round))
