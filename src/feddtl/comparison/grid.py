"""Runs the cells of a comparison, each in a separate run folder, and keeps the files of the comparison up to date."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from feddtl.comparison.files import COMPARISON, Comparison, Failure, write_comparison
from feddtl.config import Experiment
from feddtl.errors import ConfigError, FeddtlError, RunError
from feddtl.experiment import run_experiment
from feddtl.observers import Observers, RunObserver
from feddtl.results.run import RunResult
from feddtl.run_files import has_run
from feddtl.runs import RunFolder
from feddtl.storage import DRAFT, only_writer, remove_drafts, storage_errors
from feddtl.trackers import open_trackers, require_trackers

RUNS = "runs"


@dataclass(frozen=True)
class Cell:
    """An experiment with its seed, the experiment's name and the run folder."""

    name: str
    experiment: Experiment
    folder: Path

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.experiment.seed


class ComparisonObserver:
    """Receives the events of a comparison; the default ignores them."""

    def run_observer(self, cell: Cell) -> RunObserver:
        """The observer of a cell's run."""
        return RunObserver()

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        """A cell starts, or resumes; `done` cells are finished or failed."""

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        """A cell is finished; `seconds_left` is None until it can be estimated."""

    def cell_kept(self, cell: Cell, outcome: RunResult, done: int, cells: int) -> None:
        """A cell was already finished."""

    def cell_failed(self, cell: Cell, failure: Failure, done: int, cells: int) -> None:
        """A cell cannot be run."""


def compare(
    experiments: Mapping[str, Experiment],
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    observer: ComparisonObserver | None = None,
    track: Sequence[str] = (),
) -> Comparison:
    """Run every experiment with every seed, and write tables of them; finished cells are only read.

    Args:
        experiments: By name, which is that of the run folder; the seed in them does not count.
        output: Folder of the comparison, new or of an earlier one: `runs/<name>-seed<seed>/`, table.md, table.tex,
            table.csv and comparison.json.
        seeds: Each experiment runs with each of them.
        observer: Receives progress.
        track: Trackers of each run, see `feddtl.trackers`.

    Returns:
        The results, including failures.

    Raises:
        FeddtlError: Nothing could be started. What goes wrong within a cell is one of `Comparison.failures`.
    """
    require_trackers(track)
    cells = cells_of(experiments, seeds, output)
    with comparison_folder(output):
        return _Grid(cells, output, observer or ComparisonObserver(), track).run()


def cells_of(experiments: Mapping[str, Experiment], seeds: Sequence[int], output: Path) -> tuple[Cell, ...]:
    """All cells, seed by seed, so that an unfinished comparison already compares every experiment.

    Raises:
        ConfigError: There are none, a seed is named twice or out of range.
    """
    if not experiments:
        raise ConfigError("There is no experiment to compare.", "Pass one or more experiment files.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {tuple(seeds)!r} is out of range.", "Allowed: one or more, each once.")
    return tuple(
        Cell(name, replace(experiment, seed=seed), output / RUNS / f"{name}-seed{seed}")
        for seed in seeds
        for name, experiment in experiments.items()
    )


@contextmanager
def comparison_folder(output: Path) -> Iterator[None]:
    """Create the folder where there is none, and lock it for this process.

    Raises:
        RunError: It contains something else, or another process has locked it.
    """
    with storage_errors(output):
        if output.exists() and not output.is_dir():
            raise RunError(f"{output} is a file; nothing was changed.", "Choose another --output.")
        output.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in output.iterdir() if not entry.name.endswith(DRAFT)}
    if names and COMPARISON not in names:
        raise RunError(
            f"{output} contains something other than a comparison; nothing was changed.", "Choose another --output."
        )
    with only_writer(output):
        remove_drafts(output)
        yield


class _Grid:
    """Runs the cells. Finished cells are read first, so that the files never lose a result."""

    def __init__(self, cells: Sequence[Cell], output: Path, observer: ComparisonObserver, track: Sequence[str]) -> None:
        self._cells, self._output, self._observer, self._track = cells, output, observer, track
        self._results: dict[Cell, RunResult | Failure] = {}

    def run(self) -> Comparison:
        for cell in self._cells:
            self._keep_if_finished(cell)
        self._write()
        for cell in [cell for cell in self._cells if cell not in self._results]:
            self._observer.cell_started(cell, len(self._results), len(self._cells))
            self._run_cell(cell)
            self._write()
        return self._comparison()

    def _keep_if_finished(self, cell: Cell) -> None:
        try:
            outcome = finished_outcome(cell)
        except FeddtlError as error:
            self._fail(cell, error)
            return
        if outcome is not None:
            self._results[cell] = outcome
            self._observer.cell_kept(cell, outcome, len(self._results), len(self._cells))

    def _run_cell(self, cell: Cell) -> None:
        try:
            observers = Observers(self._observer.run_observer(cell), *open_trackers(self._track, cell.folder))
            run_experiment(cell.experiment, cell.folder, resume=has_run(cell.folder), observer=observers)
            outcome = finished_outcome(cell)
        except FeddtlError as error:
            self._fail(cell, error)
            return
        assert outcome is not None
        self._results[cell] = outcome
        self._observer.cell_finished(cell, outcome, len(self._results), len(self._cells), self._seconds_left())

    def _fail(self, cell: Cell, error: FeddtlError) -> None:
        self._results[cell] = failure = Failure(cell.name, cell.seed, error.message, error.hint)
        self._observer.cell_failed(cell, failure, len(self._results), len(self._cells))

    def _seconds_left(self) -> float | None:
        results = self._results.items()
        done = [(cell.name, result.finished.seconds) for cell, result in results if isinstance(result, RunResult)]
        return expected_seconds(done, [cell.name for cell in self._cells if cell not in self._results])

    def _comparison(self) -> Comparison:
        """In the order of the cells, not in that of finishing."""
        results = [self._results[cell] for cell in self._cells if cell in self._results]
        outcomes = tuple(result for result in results if isinstance(result, RunResult))
        return Comparison(outcomes, tuple(result for result in results if isinstance(result, Failure)))

    def _write(self) -> None:
        write_comparison(self._output, self._comparison())


def finished_outcome(cell: Cell) -> RunResult | None:
    """The outcome of a cell; None if it is not finished. Raises RunError if its folder is of another experiment."""
    if not has_run(cell.folder):
        return None
    folder = RunFolder.find(cell.folder)
    folder.require_same(cell.experiment)
    summary = folder.summary
    return None if summary is None else RunResult(cell.name, cell.experiment, summary, folder.environment)


def expected_seconds(done: Sequence[tuple[str, float]], waiting: Sequence[str]) -> float | None:
    """Seconds that the waiting cells will take; None if none is done.

    A cell takes the mean over other seeds of its experiment, else over all cells; cells are given by experiment.
    """
    if not done:
        return None
    overall = statistics.mean(seconds for _, seconds in done)
    return sum(statistics.mean([seconds for other, seconds in done if other == name] or [overall]) for name in waiting)
