"""Progress of a comparison: one line per cell, and bars in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from feddtl.cli.progress import Bars, error_console, print_line
from feddtl.cli.scores import scores_line
from feddtl.comparison.files import Failure
from feddtl.comparison.grid import Cell, ComparisonObserver
from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord
from feddtl.results.run import RunResult
from feddtl.units import counted, duration


@contextmanager
def comparison_progress(*, quiet: bool, terminal: bool) -> Iterator[ComparisonObserver]:
    """An observer that draws bars on a terminal, prints lines elsewhere, and does nothing when quiet."""
    if quiet:
        yield ComparisonObserver()
    elif terminal:
        with Bars(error_console()) as bars:
            yield BarComparison(bars)
    else:
        yield LineComparison(error_console())


class LineComparison(ComparisonObserver):
    """A line for each cell, on standard error; what runs have to say is said once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._notes: set[str] = set()
        self._begun = False

    def run_observer(self, cell: Cell) -> RunObserver:
        return _Notes(self)

    def note(self, text: str) -> None:
        """Shown unless it was shown before."""
        if text not in self._notes:
            self._notes.add(text)
            self._print(f"note: {text}")

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        # The first cell's own line may be hours away.
        if not self._begun:
            self._print(f"{counted(cells, 'cell')}, {cells - done} to run; one line is printed for each")
        self._begun = True

    def cell_kept(self, cell: Cell, outcome: RunResult, done: int, cells: int) -> None:
        self._print(f"{position(done, cells)} {cell_title(cell)}  {scores_line(outcome.finished.final)}  kept")

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        left = f"  about {duration(seconds_left)} left" if seconds_left else ""
        scores, seconds = scores_line(outcome.finished.final), duration(outcome.finished.seconds)
        self._print(f"{position(done, cells)} {cell_title(cell)}  {scores}  {seconds}{left}")

    def cell_failed(self, cell: Cell, failure: Failure, done: int, cells: int) -> None:
        self._print(f"{position(done, cells)} {cell_title(cell)}  failed: {failure.message}")

    def _print(self, line: str) -> None:
        print_line(self._console, line)


class BarComparison(LineComparison):
    """Draws a bar for the cells and one for the rounds of the active cell, below the lines.

    Args:
        bars: Where they are drawn.
    """

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars.console)
        self._bars = bars

    def run_observer(self, cell: Cell) -> RunObserver:
        return _RoundBar(self, self._bars, cell)

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        self._bars.draw("cells", "cells", done, cells)
        self._bars.draw("rounds", f"loading {cell.name}, seed {cell.seed}")

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        super().cell_finished(cell, outcome, done, cells, seconds_left)
        self._bars.draw("cells", "cells", done, cells)


class _Notes(RunObserver):
    """Passes the notes of a run on."""

    def __init__(self, comparison: LineComparison) -> None:
        self._comparison = comparison

    def note(self, text: str) -> None:
        self._comparison.note(text)


class _RoundBar(_Notes):
    """Draws the rounds of a run as well."""

    def __init__(self, comparison: LineComparison, bars: Bars, cell: Cell) -> None:
        super().__init__(comparison)
        self._bars, self._cell = bars, cell

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._draw(len(records))

    def round_finished(self, record: RoundRecord) -> None:
        self._draw(record.round)

    def _draw(self, done: int) -> None:
        title = f"{self._cell.name}, seed {self._cell.seed}"
        self._bars.draw("rounds", title, done, self._cell.experiment.rounds)


def position(done: int, cells: int) -> str:
    """'[ 3/12]'."""
    return f"[{done:>{len(str(cells))}}/{cells}]"


def cell_title(cell: Cell) -> str:
    """Method, experiment and seed."""
    return f"{cell.experiment.title} ({cell.name}), seed {cell.seed}"
