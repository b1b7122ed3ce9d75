"""The runs on held-back training images by which settings are chosen, and the cells with the chosen settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from feddtl.comparison.cells import RUNS, Cell, Results, cells_of
from feddtl.comparison.choices import SHORT, Choice, Criterion, Tried, Tuned, words_of_values
from feddtl.comparison.files import TUNING
from feddtl.comparison.search import Progress, progress
from feddtl.comparison.tuning import Tuning, require_tunable, trial_of
from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.experiment_file import settings_by_key, with_settings
from feddtl.experiment_grid import value_label
from feddtl.parsing import parse_table
from feddtl.records import Summary
from feddtl.results.run import RunResult
from feddtl.run_files import has_run
from feddtl.runs import RunFolder
from feddtl.units import counted, listed

TRIALS = "tuning"


class Step(NamedTuple):
    """What a choice needs next: cells to run, as many that will follow at least, and what to tell the user."""

    cells: tuple[Cell, ...]
    later: tuple[Cell, ...]
    notes: tuple[str, ...]


class Trials:
    """The search of every experiment, from the results so far.

    Args:
        experiments: By name.
        tune: What is tried.
        seeds: Of the comparison; the first is that of the trials if `tune` names none.
        output: Folder of the comparison.

    Raises:
        ConfigError: Nothing can be chosen for an experiment, or a seed is named twice or out of range.
    """

    def __init__(self, experiments: Mapping[str, Experiment], tune: Tuning, seeds: Sequence[int], output: Path) -> None:
        require_tunable(experiments, tune)
        self._experiments, self._tune, self._output = experiments, tune, output
        self._grids = {name: grids for name, one in experiments.items() if (grids := tune.grids_of(one))}
        own = {name: experiments[name] for name in self._grids}
        self._cells = cells_of(own, tune.seeds or seeds[:1], output)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs, each once."""
        return tuple(dict.fromkeys(cell.seed for cell in self._cells))

    def step(self, results: Results) -> Step:
        """The next cells, seed by seed; none when every choice is made, or has failed."""
        searches = {name: self._progress(self._trials_of(name, results)) for name in self._grids}
        cells, later = [], []
        for cell in self._cells:
            found = searches[cell.name]
            own = [self._cell(cell, tuple(zip(self._grids[cell.name], point, strict=True))) for point in found.missing]
            cells += own
            later += own[:1] * found.later
        notes = [self._note(name, found) for name, found in searches.items() if found.missing and found.best]
        return Step(tuple(cells), tuple(later), tuple(notes))

    def tuned(self, results: Results) -> Tuned:
        """The choices from the results so far; an experiment whose runs are not all done has none."""
        choices = tuple(self._choice(name, results) for name in self._grids)
        without = tuple(name for name in self._experiments if name not in self._grids)
        return Tuned(self._tune.grids, self._tune.search, self.seeds, choices, without)

    def _cell(self, cell: Cell, tried: tuple[tuple[str, Any], ...]) -> Cell:
        words = [f"{SHORT.get(key, key).replace(' ', '-')}{value_label(value)}" for key, value in tried]
        folder = self._output / TRIALS / "-".join([cell.name, *words, f"seed{cell.seed}"])
        return Cell(cell.name, replace(trial_of(cell.experiment, dict(tried)), seed=cell.seed), folder, tried)

    def _trials_of(self, name: str, results: Results) -> Choice:
        """What is known of an experiment, without a choice."""
        own = {cell: result for cell, result in results.items() if cell.name == name and cell.tried}
        runs = [result for result in own.values() if isinstance(result, RunResult)]
        by_criterion: Criterion = "local" if any(criterion_of(run.finished) == "local" for run in runs) else "base"
        by_point: dict[tuple[tuple[str, Any], ...], Tried] = {}
        errors = []
        for cell, result in own.items():
            before = by_point.get(cell.tried, Tried(dict(cell.tried), {}))
            if not isinstance(result, RunResult):
                errors += [] if result.diverged else [result.message]
                before = replace(before, diverged=before.diverged or (result.message if result.diverged else ""))
            elif (accuracy := result.final.get(by_criterion)) is None:
                where = f"{words_of_values(dict(cell.tried))} and seed {cell.seed}"
                errors.append(f"The run with {where} has no {by_criterion} accuracy.")
            else:
                before = replace(before, by_seed={**before.by_seed, cell.seed: accuracy})
            by_point[cell.tried] = before
        title, settings = self._experiments[name].title, tuple(self._grids[name])
        return Choice(name, title, by_criterion, settings, tuple(by_point.values()), errors[0] if errors else "")

    def _progress(self, found: Choice) -> Progress:
        """Points whose runs are not all done are missing; after an error nothing is."""
        if found.error:
            return Progress((), 0, None)
        done = [one for one in found.tried if one.diverged or len(one.by_seed) == len(self.seeds)]
        known = {tuple(one.values[key] for key in found.settings): one.mean for one in done}
        start = self._tune.start_of(self._experiments[found.name])
        return progress(self._tune.search, list(self._grids[found.name].values()), start, known)

    def _choice(self, name: str, results: Results) -> Choice:
        found = self._trials_of(name, results)
        search = self._progress(found)
        if found.error or search.missing:
            return found
        if search.best is None:
            reason = next(one.diverged for one in found.tried if one.diverged)
            return replace(found, error=f"At every point that was tried, a run diverged. The first: {reason}")
        return replace(found, chosen=dict(zip(found.settings, search.best, strict=True)))

    def _note(self, name: str, found: Progress) -> str:
        """Why the cells are more than before: the search goes on from its best point."""
        assert found.best is not None
        best = words_of_values(dict(zip(self._grids[name], found.best, strict=True)))
        more = counted(len(found.missing), "point")
        return f"{self._experiments[name].title} ({name}): best so far with {best}; {more} around it next"


def criterion_of(summary: Summary) -> Criterion:
    """The accuracy by which the settings of a method are chosen."""
    return "local" if (summary.trainable_parameters or {}).get("personal") else "base"


def with_choices(cells: Sequence[Cell], found: Tuned) -> tuple[Cell, ...]:
    """The cells of the comparison, each with what was chosen for its experiment.

    Raises:
        RunError: Some were run with other values, which were chosen from another grid or from other seeds.
    """
    chosen = {name: choice.chosen for name, choice in found.by_name.items() if choice.chosen}
    tuned = tuple(
        replace(cell, experiment=with_settings(cell.experiment, chosen[cell.name])) if cell.name in chosen else cell
        for cell in cells
    )
    stale = []
    for cell in tuned:
        if cell.name in chosen and has_run(cell.folder):
            own = settings_by_key(RunFolder.find(cell.folder).experiment)
            before = {key: own[key] for key in chosen[cell.name]}
            if before != chosen[cell.name]:
                now = words_of_values(chosen[cell.name])
                stale.append(f"{cell.folder} has {words_of_values(before)}, and {now} is chosen now")
    if stale:
        raise RunError(
            f"Some runs have other values than the chosen ones: {'; '.join(stale)}. The tables and {TUNING} keep the "
            "earlier choice.",
            "Delete these folders to run them again, repeat the earlier flags of --tune, or choose another --output.",
        )
    return tuned


def no_longer_named(output: Path, found: Tuned) -> str:
    """Which experiments of an earlier choice this command does not name, so that they leave its files; else ''."""
    earlier = _earlier_choice(output)
    dropped = [name for name in earlier.by_name if name not in found.by_name] if earlier else []
    if not dropped:
        return ""
    return (
        f"{TUNING} and the tables no longer contain {listed(dropped)}, which this command does not name; their runs "
        "are kept, so name them again to have them back"
    )


def _earlier_choice(output: Path) -> Tuned | None:
    """That of tuning.json; None if there is none, or nothing in it to keep. Raises RunError for a later format."""
    try:
        return Tuned.from_dict(parse_table((output / TUNING).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def require_same_kind(output: Path, tune: Tuning | None) -> None:
    """Raise RunError if the folder has runs with chosen settings and this comparison has none, or the reverse, or if a
    later version chose them."""
    _earlier_choice(output)
    if tune is None and (output / TUNING).exists():
        raise RunError(
            f"{output} is a comparison with chosen settings ({TUNING}), and this command has no --tune.",
            "Add --tune to continue it, or choose another --output for the settings of the files.",
        )
    if tune is not None and not (output / TUNING).exists() and (output / RUNS).exists():
        raise RunError(
            f"{output} is a comparison with the settings of its files, and this command has --tune.",
            "Omit --tune to continue it, or choose another --output for chosen settings.",
        )
