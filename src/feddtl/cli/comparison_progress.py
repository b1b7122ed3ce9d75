"""Progress of a comparison: one line per cell, and bars in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from feddtl.cli.terminal import scores_line
from feddtl.comparison.files import Failure
from feddtl.comparison.grid import Cell, ComparisonObserver
from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord
from feddtl.results.run import RunResult
from feddtl.units import counted, duration


class QuietComparison(ComparisonObserver):
    """Shows nothing."""

    def __enter__(self) -> QuietComparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LineComparison(QuietComparison):
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
        # A terminal has a long line broken between words, a file gets it whole.
        self._console.print(line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)


class BarComparison(LineComparison):
    """Below the lines a bar for the cells, and one for the rounds of the cell that runs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            console=console,
            transient=True,
        )
        self._cells: TaskID | None = None
        self._rounds: TaskID | None = None

    def __enter__(self) -> BarComparison:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def run_observer(self, cell: Cell) -> RunObserver:
        return _RoundBar(self, cell)

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        self._cells = self._draw(self._cells, "cells", done, cells)
        self.show_rounds(cell, 0, None)

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        super().cell_finished(cell, outcome, done, cells, seconds_left)
        self._cells = self._draw(self._cells, "cells", done, cells)

    def show_rounds(self, cell: Cell, done: int, rounds: int | None) -> None:
        """Rounds of the cell that runs; None while it is loading."""
        self._rounds = self._draw(self._rounds, f"{cell.name}, seed {cell.seed}", done, rounds)

    def _draw(self, task: TaskID | None, title: str, done: int, total: int | None) -> TaskID:
        """A bar, made at its first use; without a total it pulses."""
        count = "loading" if total is None else f"{done}/{total}"
        if task is None:
            return self._progress.add_task(title, total=total, completed=done, count=count)
        self._progress.update(task, description=title, completed=done, total=total, count=count)
        return task


class _Notes(RunObserver):
    """Passes the notes of a run on."""

    def __init__(self, comparison: LineComparison) -> None:
        self._comparison = comparison

    def note(self, text: str) -> None:
        self._comparison.note(text)


class _RoundBar(_Notes):
    """Draws the rounds of a run as well."""

    def __init__(self, comparison: BarComparison, cell: Cell) -> None:
        super().__init__(comparison)
        self._bars, self._cell = comparison, cell

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._bars.show_rounds(self._cell, len(records), experiment.rounds)

    def round_finished(self, record: RoundRecord) -> None:
        self._bars.show_rounds(self._cell, record.round, self._cell.experiment.rounds)


def choose_comparison_observer(*, quiet: bool, terminal: bool) -> QuietComparison:
    """Bars on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return QuietComparison()
    console = Console(stderr=True)
    return BarComparison(console) if terminal else LineComparison(console)


def position(done: int, cells: int) -> str:
    """'[ 3/12]'."""
    return f"[{done:>{len(str(cells))}}/{cells}]"


def cell_title(cell: Cell) -> str:
    """Method, experiment and seed."""
    return f"{cell.experiment.title} ({cell.name}), seed {cell.seed}"
