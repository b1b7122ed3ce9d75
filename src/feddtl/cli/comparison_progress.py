"""Progress of a comparison on standard error: a line for each cell, and bars on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from feddtl.cli.bars import Bars, error_console, time_left
from feddtl.cli.printing import print_line
from feddtl.cli.progress import WarningObserver
from feddtl.comparison.cells import Cell
from feddtl.comparison.choices import Tuned, words_of_values
from feddtl.comparison.chosen_table import choice_line
from feddtl.comparison.files import Failure
from feddtl.comparison.grid import ComparisonObserver
from feddtl.comparison.trials import criterion_of
from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.evaluate import Scores
from feddtl.notes import noted, prefixed
from feddtl.observers import RunObserver
from feddtl.records import RoundRecord
from feddtl.results.run import RunResult
from feddtl.units import counted, duration, percent, scores_line


@contextmanager
def comparison_progress(*, quiet: bool) -> Iterator[ComparisonObserver]:
    """An observer that prints lines on standard error, above bars on a terminal; warnings alone if quiet."""
    if quiet:
        yield ComparisonWarnings()
    else:
        with Bars(error_console()) as bars:
            yield ComparisonProgress(bars)


class ComparisonWarnings(ComparisonObserver):
    """Prints warnings alone, those of all cells, each once."""

    def __init__(self) -> None:
        self._warnings = WarningObserver()

    def note(self, text: str) -> None:
        self._warnings.note(text)

    def run_observer(self, cell: Cell) -> RunObserver:
        return self._warnings


class ComparisonProgress(ComparisonObserver):
    """Prints a line for each cell, above bars for the cells and for the rounds of the active cell.

    Args:
        bars: Where they are drawn.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._notes: set[str] = set()
        self._begun = self._estimated = False

    def run_observer(self, cell: Cell) -> RunObserver:
        return _CellObserver(self, self._bars, cell)

    def note(self, text: str) -> None:
        # Runs of one comparison have many notes in common.
        if text not in self._notes:
            self._notes.add(text)
            self._print(noted(text))

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        # The first cell's own line may be hours away.
        if not self._begun:
            self._print(f"{counted(cells, 'cell')}, {cells - done} to run; one line is printed for each")
        self._begun = True
        self._bars.draw("cells", "cells", done, cells)
        self._bars.draw("rounds", f"loading {cell.name}, seed {cell.seed}")

    def cell_kept(self, cell: Cell, outcome: RunResult, done: int, cells: int) -> None:
        self._print(f"{position(done, cells)} {cell_title(cell)}  {_scores(cell, outcome)}  kept")

    def time_estimated(self, cell: Cell, seconds_left: float) -> None:
        # Every round changes the bar; a file gets one line until the cells' own lines say it.
        if not self._estimated:
            self._print(f"{time_left(seconds_left)} for all cells, from the first round of {cell_title(cell)}")
        self._estimated = True
        self._bars.say_left("cells", seconds_left)

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        scores, seconds = _scores(cell, outcome), duration(outcome.finished.seconds)
        parts = [f"{position(done, cells)} {cell_title(cell)}", scores, seconds, time_left(seconds_left)]
        self._print("  ".join(filter(None, parts)))
        self._estimated = True
        self._bars.draw("cells", "cells", done, cells)
        self._bars.say_left("cells", seconds_left)

    def cell_failed(self, cell: Cell, failure: Failure, done: int, cells: int) -> None:
        self._print(f"{position(done, cells)} {cell_title(cell)}  failed: {failure.message}")

    def settings_chosen(self, tuned: Tuned) -> None:
        for choice in tuned.choices:
            self._print(choice_line(choice, tuned))

    def _print(self, line: str) -> None:
        print_line(self._bars.console, line)


class _CellObserver(RunObserver):
    """Passes the notes of a cell's run on and draws its rounds."""

    def __init__(self, comparison: ComparisonProgress, bars: Bars, cell: Cell) -> None:
        self._comparison, self._bars, self._cell = comparison, bars, cell
        self._started = False

    def note(self, text: str) -> None:
        # Before the first round, runs of one data set and model say the same; what follows is of this run alone.
        self._comparison.note(prefixed(f"{self._title}: ", text) if self._started else text)

    def run_started(
        self, experiment: Experiment, data: FederatedData, zero_shot: Scores, records: Sequence[RoundRecord]
    ) -> None:
        self._started = True
        self._draw(len(records))

    def round_finished(self, record: RoundRecord) -> None:
        self._draw(record.round)

    def _draw(self, done: int) -> None:
        self._bars.draw("rounds", self._title, done, self._cell.experiment.rounds)

    @property
    def _title(self) -> str:
        return f"{self._cell.name}, seed {self._cell.seed}"


def _scores(cell: Cell, outcome: RunResult) -> str:
    """The final scores; of a run that tries settings, the one by which they are chosen."""
    if not cell.tried:
        return scores_line(outcome.finished.final)
    criterion = criterion_of(outcome.finished)
    return f"{criterion} {percent(outcome.finished.final[criterion]):>5}"


def position(done: int, cells: int) -> str:
    """'[ 3/12]'."""
    return f"[{done:>{len(str(cells))}}/{cells}]"


def cell_title(cell: Cell) -> str:
    """Method, experiment, the settings that are tried, what is scored if it is no test image, and seed."""
    parts = [f"{cell.experiment.title} ({cell.name})", words_of_values(dict(cell.tried))]
    images = cell.experiment.evaluation.images
    parts += ["" if images == "test" else f"{images} images", f"seed {cell.seed}"]
    return ", ".join(filter(None, parts))
