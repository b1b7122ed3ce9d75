"""Runs the cells of a comparison, each in a separate run folder, and keeps the files of the comparison up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from feddtl.comparison.base_models import require_one_model, with_the_same_model
from feddtl.comparison.cells import RUNS, Cell, Results, cells_of
from feddtl.comparison.choices import Tuned
from feddtl.comparison.files import COMPARISON, TUNING, Comparison, Failure, write_comparison
from feddtl.comparison.kernels import different_kernels, shared_kernels
from feddtl.comparison.remaining import RoundClock, expected_seconds
from feddtl.comparison.trials import Trials, no_longer_named, require_same_kind, with_choices
from feddtl.comparison.tuning import Tuning
from feddtl.config import Experiment
from feddtl.environment import package_versions
from feddtl.errors import ClientError, FeddtlError, RunError, StoppedError
from feddtl.experiment import run_experiment, with_client_count
from feddtl.observers import Observers, RunObserver
from feddtl.results.hits import RunHits, run_hits
from feddtl.results.run import RunResult
from feddtl.run_files import has_run
from feddtl.runs import RunFolder
from feddtl.state_folder import AnyPath, expanded
from feddtl.storage import DRAFT, make_folder, only_writer, remove_drafts, storage_errors, write_json_atomic
from feddtl.trackers import open_trackers, require_trackers
from feddtl.units import listed


class ComparisonObserver:
    """Receives the events of a comparison; the default ignores them."""

    def note(self, text: str) -> None:
        """A note for the user."""

    def run_observer(self, cell: Cell) -> RunObserver:
        """The observer of a cell's run."""
        return RunObserver()

    def cell_started(self, cell: Cell, done: int, cells: int) -> None:
        """A cell starts, or resumes; `done` cells are finished or failed."""

    def time_estimated(self, cell: Cell, seconds_left: float) -> None:
        """A round of a cell is finished, and others of it follow; the cell and all others will take so long."""

    def cell_finished(self, cell: Cell, outcome: RunResult, done: int, cells: int, seconds_left: float | None) -> None:
        """A cell is finished; `seconds_left` is None until it can be estimated."""

    def cell_kept(self, cell: Cell, outcome: RunResult, done: int, cells: int) -> None:
        """A cell was already finished."""

    def cell_failed(self, cell: Cell, failure: Failure, done: int, cells: int) -> None:
        """A cell cannot be run."""

    def settings_chosen(self, tuned: Tuned) -> None:
        """Settings are chosen; the cells of the comparison follow."""


def compare(
    experiments: Mapping[str, Experiment],
    output: AnyPath,
    *,
    seeds: Sequence[int] = (0,),
    observer: ComparisonObserver | None = None,
    track: Sequence[str] = (),
    tune: Tuning | None = None,
) -> Comparison:
    """Run every experiment with every seed, and write tables of them; finished cells are only read.

    Args:
        experiments: By name, which is that of the run folder; the seed in them does not count.
        output: Folder of the comparison, new or of an earlier one: `runs/<name>-seed<seed>/`, table.md, table.tex,
            table.csv and comparison.json.
        seeds: Each experiment runs with each of them.
        observer: Receives progress.
        track: Trackers of each run, see `feddtl.trackers`.
        tune: Choose the rates of each experiment, or other settings, first, on held-back training images, with run
            folders in `tuning/` and the choice in tuning.json; None: each has its own.

    Returns:
        The results, including failures.

    Raises:
        FeddtlError: Nothing could be started. What goes wrong within a cell is one of `Comparison.failures`.
    """
    require_trackers(track)
    output = expanded(output)
    observer = observer or ComparisonObserver()
    for note in dict.fromkeys(filter(None, (experiment.model_note for experiment in experiments.values()))):
        observer.note(note)
    # A cell is recognised by the settings in its folder, which has both values in place of 'auto'.
    experiments = {name: with_client_count(experiment.with_model()) for name, experiment in experiments.items()}
    cells = cells_of(experiments, seeds, output)
    trials = None if tune is None else Trials(experiments, tune, seeds, output)
    with comparison_folder(output):
        require_same_kind(output, tune)
        if trials is None:
            return _run_cells(cells, output, observer, track)
        if not (output / COMPARISON).exists():
            write_comparison(output, Comparison(()))  # so that the folder is known as a comparison's from now on
        results = _run_trials(trials, cells, output, observer, track)
        found = trials.tuned(results)
        observer.settings_chosen(found)
        tuned = with_choices(cells, found)
        if dropped := no_longer_named(output, found):
            observer.note(dropped)
        _write_choices(output, found)
        return _run_cells(tuned, output, observer, track, found, results)


@contextmanager
def comparison_folder(output: Path) -> Iterator[None]:
    """Create the folder where there is none, and lock it for this process.

    Raises:
        RunError: It contains something else, or another process has locked it.
    """
    with storage_errors(output):
        if output.exists() and not output.is_dir():
            raise RunError(f"{output} is a file; nothing was changed.", "Choose another --output.")
        make_folder(output)
        names = {entry.name for entry in output.iterdir() if not entry.name.endswith(DRAFT)}
    if names and COMPARISON not in names:
        raise RunError(
            f"{output} contains something other than a comparison; nothing was changed.", "Choose another --output."
        )
    with only_writer(output):
        remove_drafts(output)
        yield


def _run_trials(
    trials: Trials, cells: Sequence[Cell], output: Path, observer: ComparisonObserver, track: Sequence[str]
) -> Results:
    """Run what the choices need, step by step; `cells` are those of the comparison, which follow."""

    def write(own: Results) -> None:
        # Where cells were run, the choice changes with their tables, after a check that they have these settings.
        if not (output / RUNS).exists():
            _write_choices(output, trials.tuned({**results, **own}))

    results: Results = {}
    while (step := trials.step(results)).cells:
        for note in step.notes:
            observer.note(note)
        grid = _Grid(step.cells, observer, track, write, results, after=[*step.later, *cells])
        results = {**results, **grid.run()}
    return results


def _write_choices(output: Path, found: Tuned) -> None:
    write_json_atomic(output / TUNING, {"feddtl": package_versions()["feddtl"], **found.to_dict()})


def _run_cells(
    cells: Sequence[Cell],
    output: Path,
    observer: ComparisonObserver,
    track: Sequence[str],
    tuned: Tuned | None = None,
    earlier: Results | None = None,
) -> Comparison:
    """Run the cells of a comparison, whose files are up to date after each.

    Args:
        cells: With their own settings, or with chosen ones.
        output: Folder of the comparison.
        observer: Receives progress.
        track: Trackers of each run.
        tuned: What was chosen; experiments without a choice fail.
        earlier: The results that it was chosen by.
    """

    def comparison(results: Results) -> Comparison:
        """In the order of the cells, not in that of finishing."""
        found = [results[cell] for cell in cells if cell in results]
        outcomes = tuple(result for result in found if isinstance(result, RunResult))
        return Comparison(outcomes, tuple(result for result in found if isinstance(result, Failure)), tuned)

    grid = _Grid(cells, observer, track, lambda results: write_comparison(output, comparison(results)), earlier or {})
    for name, choice in (tuned.by_name if tuned else {}).items():
        if choice.chosen is None:
            what = listed(choice.settings)
            grid.refuse(
                name,
                RunError(f"Nothing was chosen for {what}. {choice.error}", "Correct this, or try other values."),
            )
    return comparison(grid.run())


class _Grid:
    """Runs cells. Finished cells are read first, so that the files never lose a result.

    Args:
        cells: What to run.
        observer: Receives progress.
        track: Trackers of each run.
        write: Receives the results so far: those of finished cells, and then all after each cell.
        earlier: Results of cells that were run before these, for the position and the remaining time.
        after: Cells that will be run after these.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        observer: ComparisonObserver,
        track: Sequence[str],
        write: Callable[[Results], object],
        earlier: Results | None = None,
        after: Sequence[Cell] = (),
    ) -> None:
        self._cells, self._observer, self._track, self._write = cells, observer, track, write
        self._earlier, self._after = earlier or {}, after
        self._results: dict[Cell, RunResult | Failure] = {}

    def refuse(self, name: str, error: FeddtlError) -> None:
        """The cells of an experiment fail without being run."""
        for cell in self._cells:
            if cell.name == name:
                self._fail(cell, error)

    def run(self) -> Results:
        for cell in [cell for cell in self._cells if cell not in self._results]:
            self._keep_if_finished(cell)
        self._write(self._results)
        for cell in [cell for cell in self._cells if cell not in self._results]:
            self._observer.cell_started(cell, *self._position)
            self._run_cell(cell)
            self._write(self._results)
        if text := different_kernels((*self._earlier, *self._cells)):
            self._observer.note(text)
        return self._results

    def _keep_if_finished(self, cell: Cell) -> None:
        try:
            outcome = finished_outcome(cell)
            if outcome is not None:
                require_one_model(cell, (*self._earlier, *self._results))
        except FeddtlError as error:
            self._fail(cell, error)
            return
        if outcome is not None:
            self._results[cell] = outcome
            self._observer.cell_kept(cell, outcome, *self._position)

    def _run_cell(self, cell: Cell) -> None:
        try:
            clock = RoundClock(lambda whole, left: self._estimate(cell, whole, left))
            observers = Observers(self._observer.run_observer(cell), clock, *open_trackers(self._track, cell.folder))
            kernels = shared_kernels(cell, (*self._earlier, *self._cells))
            resume = has_run(cell.folder)
            run_experiment(
                cell.experiment,
                cell.folder,
                resume=resume,
                observer=observers,
                kernels=kernels,
                same_model_as=with_the_same_model(cell, (*self._earlier, *self._cells)),
            )
            outcome = finished_outcome(cell)
        except StoppedError:
            raise
        except FeddtlError as error:
            self._fail(cell, error)
            return
        assert outcome is not None
        self._results[cell] = outcome
        self._observer.cell_finished(cell, outcome, *self._position, expected_seconds(self._seconds, self._waiting))

    def _fail(self, cell: Cell, error: FeddtlError) -> None:
        diverged = isinstance(error, ClientError)
        self._results[cell] = failure = Failure(cell.name, cell.seed, error.message, error.hint, diverged)
        self._observer.cell_failed(cell, failure, *self._position)

    @property
    def _position(self) -> tuple[int, int]:
        """Cells that are done, and all cells."""
        done = len(self._earlier) + len(self._results)
        return done, len(self._earlier) + len(self._cells) + len(self._after)

    def _estimate(self, cell: Cell, whole: float, left: float) -> None:
        """Tell the remaining time while a cell runs.

        Args:
            cell: It.
            whole: Seconds that it takes from its start to its end.
            left: Seconds until its end.
        """
        others = expected_seconds([*self._seconds, (cell, whole)], [other for other in self._waiting if other != cell])
        assert others is not None
        self._observer.time_estimated(cell, left + others)

    @property
    def _seconds(self) -> list[tuple[Cell, float]]:
        results = {**self._earlier, **self._results}.items()
        return [(cell, result.finished.seconds) for cell, result in results if isinstance(result, RunResult)]

    @property
    def _waiting(self) -> list[Cell]:
        return [*(cell for cell in self._cells if cell not in self._results), *self._after]


def finished_outcome(cell: Cell) -> RunResult | None:
    """The outcome of a cell; None if it is not finished. Raises RunError if its folder is of another experiment."""
    if not has_run(cell.folder):
        return None
    folder = RunFolder.find(cell.folder)
    folder.require_same(cell.experiment)
    summary = folder.summary
    if summary is None:
        return None
    return RunResult(cell.name, cell.experiment, summary, folder.environment, hits=_hits(folder, cell.experiment))


def _hits(folder: RunFolder, experiment: Experiment) -> RunHits | None:
    """Which test images were right; None for a run without test images here, or of a version that kept none."""
    predictions = folder.predictions
    if predictions is None:
        return None
    return run_hits(predictions, len(folder.data["base_classes"]), trains=experiment.trains)
