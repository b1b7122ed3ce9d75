"""`feddtl compare`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from feddtl.checks import check_scalar, field_hints, require_allowed
from feddtl.cli.command import Command
from feddtl.cli.experiment_argument import experiment_path, parse_experiment_flags, positionals
from feddtl.cli.flags import STATED, ExperimentFiles, Flags, TrackFlag, with_config, with_experiment_flags
from feddtl.cli.grid_flag import parse_grid, require_few_cells, values_by_key
from feddtl.cli.help_flags import asks_for_help
from feddtl.cli.printing import print_aside, print_json, print_text
from feddtl.comparison.search import Search
from feddtl.comparison.tuning import DEFAULT_RATES, RATES, Tuning
from feddtl.config import Experiment
from feddtl.errors import ConfigError, StoppedError
from feddtl.experiment_file import load_experiments, settings_by_key, with_settings

if TYPE_CHECKING:
    from feddtl.comparison.files import Comparison

# A name means the experiments of a table first.
TABLES = "tables"


@dataclass(frozen=True)
class Compare(Command):
    """Run experiments over seeds and write tables of them: methods x settings x seeds.

    Flags override every experiment file. Finished runs are kept, and interrupted ones resume; see
    docs/how-to/compare.md.
    """

    experiments: ExperimentFiles = ()
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = (0,)
    """One or more seeds; each experiment runs with every seed."""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE,VALUE [KEY=...]", help_behavior_hint=STATED)] = ()
    """Run each experiment with every combination of these values: 'rl.noise_std=0.05,0.1' 'seed=0,1,2'."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/comparison")
    """Folder of the comparison, new or to continue: tables, and a run folder for each experiment and seed."""
    json: bool = False
    """Print only comparison.json on standard output; no progress."""
    quiet: bool = False
    """No notes and no progress, only warnings and the final tables."""
    tune: bool = False
    """Choose every learning rate of each experiment first, on held-back training images, from the same values."""
    tune_rates: Annotated[tuple[float, ...], tyro.conf.arg(metavar="RATE [RATE ...]")] = DEFAULT_RATES
    """Learning rates to choose from with --tune, on the clients and, for FedDTL, on the server."""
    tune_grid: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE,VALUE [KEY=...]", help_behavior_hint=STATED)
    ] = ()
    """Settings to choose instead, with their values: 'local.learning_rate=0.001,0.01' 'lora.rank=2,4'."""
    tune_search: Search = "coordinates"
    """How several settings are tried: one after the other, in every combination, or each with the same position."""
    tune_seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]", help_behavior_hint=STATED)] = ()
    """Seeds of the runs that settings are chosen by; default: the first seed of the comparison."""
    track: TrackFlag = ()
    config: Flags = field(default_factory=Experiment)
    resolved: tyro.conf.Suppress[dict[str, Experiment]] = field(default_factory=dict)
    """The experiments of the files by name, in their order, with the flags and the grid over them."""
    tuning: tyro.conf.Suppress[Tuning | None] = None
    """What --tune tries."""
    size: tyro.conf.Suppress[str] = ""
    """With --grid: how many cells there are, factor by factor."""

    @classmethod
    def parse(cls, name: str, words: Sequence[str]) -> Compare:
        """The same flags over each experiment of the files, as `run` reads them over one."""
        if any(word.partition("=")[0] == "--seed" for word in words):
            raise ConfigError(
                "--seed is not allowed, because a comparison has several seeds.", "Use --seeds with one or more seeds."
            )
        if asks_for_help(words):
            return _parse(name, words, Experiment())
        experiments = _experiments_of_files(words)
        # Parsed once: a table has hundreds of experiments, and each parse takes a third of a second.
        title, first = next(iter(experiments.items()))
        try:
            command = _parse(name, words, first)
        except ConfigError as error:
            raise ConfigError(f"{title} with these flags: {error.message}", error.hint) from None
        methods = [experiment.method for experiment in experiments.values()]
        tuning = _tuning(command, methods, _flags(words))
        grid = parse_grid(command.grid, methods)
        grid.require_no_flags(_flags(words))
        seeds = grid.seeds or command.seeds
        _check_seeds("--grid seed" if grid.seeds else "--seeds", seeds)
        _check_seeds("--tune-seeds", command.tune_seeds)
        size = require_few_cells(len(experiments), grid, len(seeds))
        resolved = grid.over(_with_flags(experiments, command.config, words))
        _require_different(resolved)
        return replace(command, seeds=seeds, resolved=resolved, tuning=tuning, size=size if command.grid else "")

    def opening(self) -> str:
        return "" if self.quiet or self.json else "loading PyTorch …"

    def execute(self) -> int:
        """Run what is not finished: progress on standard error, the tables on standard output.

        Returns:
            Exit code: 1 if a cell failed.
        """
        from feddtl.cli.comparison_progress import comparison_progress
        from feddtl.comparison.grid import compare

        try:
            with comparison_progress(quiet=self.quiet or self.json) as observer:
                if self.size:
                    observer.note(self.size)
                found = compare(
                    self.resolved, self.output, seeds=self.seeds, observer=observer, track=self.track, tune=self.tuning
                )
        except (KeyboardInterrupt, StoppedError) as end:
            how = "stopped" if isinstance(end, StoppedError) else "interrupted"
            print_aside(f"{how}: run the same command again to resume; {self.output} has tables of the finished runs.")
            return 130
        if self.json:
            print_json(found.as_dict())
        else:
            _print_tables(found, self.output)
        _print_failures(found)
        return 1 if found.failures else 0


def _tuning(command: Compare, methods: Sequence[str], given: Collection[str]) -> Tuning | None:
    """What --tune tries; None without it.

    Raises:
        ConfigError: Flags of --tune without it, two that contradict each other, or a setting that has both a value
            and several to choose from.
    """
    alone = [name for name in ("tune_rates", "tune_grid", "tune_search", "tune_seeds") if name in given]
    if not command.tune:
        if alone:
            raise ConfigError(
                f"--{alone[0].replace('_', '-')} has no effect without --tune.", "Add --tune, or omit it."
            )
        return None
    if {"tune_rates", "tune_grid"} <= set(given):
        raise ConfigError("--tune-rates and --tune-grid were both given.", "Name the rates in --tune-grid too.")
    named = values_by_key("--tune-grid", command.tune_grid, methods)
    if both := [key for key in named or RATES if key in given]:
        raise ConfigError(
            f"--{both[0].replace('_', '-')} and --tune were both given, and --tune chooses {both[0]}.",
            "Omit one of them; --tune-grid names the settings to choose, and their values.",
        )
    return Tuning(command.tune_rates, command.tune_seeds, named, command.tune_search)


def _check_seeds(flag: str, seeds: Sequence[int]) -> None:
    """Raise ConfigError for a seed that no experiment may have."""
    hint, bounds = field_hints(Experiment)["seed"]
    for seed in seeds:
        check_scalar(hint, seed, flag)
        for bound in bounds:
            require_allowed(bound, flag, seed)


def _parse(name: str, words: Sequence[str], experiment: Experiment) -> Compare:
    """The command with the flags over one experiment; there is none for the seed."""
    default = with_config(with_experiment_flags(Compare, experiment.method, seed=False)(), experiment)
    command: Compare = parse_experiment_flags(name, words, default)
    return command


def _experiments_of_files(words: Sequence[str]) -> dict[str, Experiment]:
    """The experiments of all files that the words name, by name, with the values of the files.

    Raises:
        ConfigError: There is no file, one is missing or wrong, or two experiments have one name.
    """
    found: dict[str, tuple[Path, Experiment]] = {}
    for path in (experiment_path(word, TABLES) for word in positionals(words)):
        for name, experiment in load_experiments(path).items():
            if name in found:
                raise ConfigError(
                    f"Two experiments are called '{name}': one of {found[name][0]} and one of {path}.",
                    "Their runs would use the same folder; rename one of the files.",
                )
            found[name] = (path, experiment)
    if not found:
        raise ConfigError("There is no experiment to compare.", "Pass one or more experiment files, then flags.")
    return {name: experiment for name, (_, experiment) in found.items()}


def _flags(words: Sequence[str]) -> set[str]:
    """The names of the flags among the words, as keys: `data.min_images`."""
    return {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def _with_flags(
    experiments: Mapping[str, Experiment], parsed: Experiment, words: Sequence[str]
) -> dict[str, Experiment]:
    """Every experiment with the settings that are flags among the words, which `parsed` has the values of.

    Raises:
        ConfigError: A value does not fit an experiment.
    """
    settings, flags = settings_by_key(parsed), _flags(words)
    changes = {key: value for key, value in settings.items() if key in flags}
    return {name: with_settings(one, changes, f"{name} with these flags") for name, one in experiments.items()}


def _require_different(experiments: Mapping[str, Experiment]) -> None:
    """Raise ConfigError for two experiments that are the same, or that differ only in the seed."""
    names: dict[Experiment, str] = {}
    for name, experiment in experiments.items():
        twin = names.setdefault(replace(experiment, seed=0), name)
        if twin == name:
            continue
        if experiment.seed != experiments[twin].seed:
            raise ConfigError(
                f"{twin} and {name} differ only in the seed, which a comparison takes from its flags.",
                "Remove the seed from the file, and pass --seeds with one or more seeds.",
            )
        raise ConfigError(
            f"{twin} and {name} are the same experiment with these flags.",
            "Omit the flag that makes them equal, or select an experiment with FILE.toml::LABEL.",
        )


def _print_tables(comparison: Comparison, folder: Path) -> None:
    from rich.console import Console

    from feddtl.cli.comparison_tables import print_tables
    from feddtl.comparison.files import FILES, TUNING

    print_tables(Console(), comparison.tables)
    print_text(f"{folder} has {', '.join((*FILES, TUNING) if comparison.tuned else FILES)}")


def _print_failures(comparison: Comparison) -> None:
    """Which cells are missing, why, and how to continue."""
    if not comparison.failures:
        return
    cells = len(comparison.failures) + len(comparison.outcomes)
    print_aside(f"error: {len(comparison.failures)} of {cells} cells failed:")
    for failure in comparison.failures:
        print_aside(f"  {failure.name}, seed {failure.seed}: {failure.message}")
        if failure.hint:
            print_aside(f"    {failure.hint}")
    print_aside(
        "  Correct this and run the same command again: finished cells are kept, and the others are tried again."
    )
