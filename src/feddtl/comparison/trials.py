"""The runs on held-back training images by which learning rates are chosen, and the cells at the chosen rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from feddtl.comparison.cells import RUNS, Cell, Results, cells_of
from feddtl.comparison.files import TUNING
from feddtl.comparison.tuning import ChosenRates, Trials, Tuning, choose_rate, require_tunable, with_rate
from feddtl.config import Experiment
from feddtl.errors import RunError
from feddtl.parsing import parse_table
from feddtl.results.run import RunResult
from feddtl.run_files import has_run
from feddtl.runs import RunFolder
from feddtl.units import listed

TRIALS = "tuning"


def trials_of(
    experiments: Mapping[str, Experiment], tune: Tuning, seeds: Sequence[int], output: Path
) -> tuple[Cell, ...]:
    """The cells by which the rates are chosen: every experiment that trains, at every rate, with every tuning seed.

    Raises:
        ConfigError: The rate of an experiment cannot be chosen, or a seed is named twice or out of range.
    """
    require_tunable(experiments)
    trained = {name: experiment for name, experiment in experiments.items() if experiment.trains}
    return tuple(
        Cell(
            cell.name,
            replace(trial, seed=cell.seed),
            output / TRIALS / f"{cell.name}-rate{rate:g}-seed{cell.seed}",
            rate,
        )
        for cell in cells_of(trained, tune.seeds or seeds[:1], output)
        for rate, trial in tune.trials(cell.experiment).items()
    )


def chosen_rates(
    experiments: Mapping[str, Experiment], tune: Tuning, trials: Sequence[Cell], results: Results
) -> ChosenRates:
    """The choice for each experiment from the results so far; an experiment whose runs are not all done has none."""
    choices = tuple(
        choose_rate(_trials_by_rate(name, [cell for cell in trials if cell.name == name], results))
        for name, experiment in experiments.items()
        if experiment.trains
    )
    seeds = tuple(dict.fromkeys(cell.seed for cell in trials))
    untrained = tuple(name for name, experiment in experiments.items() if not experiment.trains)
    return ChosenRates(tuple(sorted(tune.rates)), seeds, choices, untrained)


def _trials_by_rate(name: str, cells: Sequence[Cell], results: Results) -> Trials:
    """The results of one experiment's cells: finished, diverged, failed for another reason, or missing."""
    finished: dict[float, list[RunResult]] = {}
    diverged: dict[float, str] = {}
    errors: list[str] = []
    for cell in cells:
        rate, result = cell.experiment.local.learning_rate, results.get(cell)
        if isinstance(result, RunResult):
            finished.setdefault(rate, []).append(result)
        elif result is not None and result.diverged:
            diverged.setdefault(rate, result.message)
        elif result is not None:
            errors.append(result.message)
    missing = sum(cell not in results for cell in cells)
    return Trials(name, cells[0].experiment.title, finished, diverged, errors, missing)


def at_chosen_rates(cells: Sequence[Cell], found: ChosenRates) -> tuple[Cell, ...]:
    """The cells of the comparison, each with the rate that was chosen for its experiment.

    Raises:
        RunError: Some were run at another rate, which was chosen from another grid or from other seeds.
    """
    rates = {name: choice.rate for name, choice in found.by_name.items() if choice.rate is not None}
    tuned = tuple(
        replace(cell, experiment=with_rate(cell.experiment, rates[cell.name])) if cell.name in rates else cell
        for cell in cells
    )
    stale = []
    for cell in tuned:
        if cell.name in rates and has_run(cell.folder):
            before = RunFolder.find(cell.folder).experiment.local.learning_rate
            if before != rates[cell.name]:
                stale.append(f"{cell.folder} has {before:g}, and {rates[cell.name]:g} is chosen now")
    if stale:
        raise RunError(
            f"Some runs have another rate than the chosen one: {'; '.join(stale)}. The tables and {TUNING} keep the "
            "earlier choice.",
            "Delete these folders to run them again, repeat the earlier --tune-rates and --tune-seeds, or choose "
            "another --output.",
        )
    return tuned


def no_longer_named(output: Path, found: ChosenRates) -> str:
    """Which experiments of an earlier choice this command does not name, so that they leave its files; else ''."""
    try:
        earlier = ChosenRates.from_dict(parse_table((output / TUNING).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # there is none, or nothing in it to keep
    dropped = [name for name in earlier.by_name if name not in found.by_name]
    if not dropped:
        return ""
    return (
        f"{TUNING} and the tables no longer contain {listed(dropped)}, which this command does not name; their runs "
        "are kept, so name them again to have them back"
    )


def require_same_kind(output: Path, tune: Tuning | None) -> None:
    """Raise RunError if the folder has runs at chosen rates and this comparison has none, or the other way round."""
    if tune is None and (output / TUNING).exists():
        raise RunError(
            f"{output} is a comparison at chosen learning rates ({TUNING}), and this command has no --tune.",
            "Add --tune to continue it, or choose another --output for the rates of the files.",
        )
    if tune is not None and not (output / TUNING).exists() and (output / RUNS).exists():
        raise RunError(
            f"{output} is a comparison at the learning rates of its files, and this command has --tune.",
            "Omit --tune to continue it, or choose another --output for chosen rates.",
        )
