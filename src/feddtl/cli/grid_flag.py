"""`--grid 'rl.noise_std=0.05,0.1' 'seed=0,1,2'`: every combination of some values, over every experiment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

from feddtl.checks import words_of
from feddtl.config import Experiment
from feddtl.dotted import flatten
from feddtl.errors import ConfigError
from feddtl.experiment_file import setting_type, with_settings
from feddtl.experiment_grid import GRID, MOST_EXPERIMENTS, expand
from feddtl.parsing import parse_toml
from feddtl.units import counted

FORM = "Write KEY=VALUE,VALUE, or KEY=[VALUE, VALUE] as in a file."


@dataclass(frozen=True)
class Grid:
    """Values by dotted key, and the seeds; empty without the flag."""

    values: Mapping[str, Sequence[Any]]
    seeds: tuple[Any, ...]

    def require_no_flags(self, flags: Iterable[str]) -> None:
        """Raise ConfigError for a key, or the seeds, given as a flag (its key is among `flags`) and in the grid."""
        both = sorted({*self.values, *(("seeds",) if self.seeds else ())} & set(flags))
        if both:
            flag = f"--{both[0].replace('_', '-')}"
            key = "seed" if both[0] == "seeds" else both[0]
            raise ConfigError(f"{flag} and --grid {key}=… were both given.", "Omit one of the two.")

    def over(self, experiments: Mapping[str, Experiment]) -> dict[str, Experiment]:
        """Every experiment with every combination, by its name and the values behind it: `quickstart-0.05`.

        Raises:
            ConfigError: An unknown key, a value that the key does not allow, or a value that is named twice.
        """
        if not self.values:
            return dict(experiments)
        combinations = expand({GRID: {key: list(values) for key, values in self.values.items()}})
        return {
            f"{name}-{label}": _changed(f"{name} with {_words(changes)}", experiment, changes)
            for name, experiment in experiments.items()
            for label, changes in ((label, flatten(tables)) for label, tables in combinations.items())
        }


def parse_grid(words: Sequence[str], methods: Iterable[str]) -> Grid:
    """The grid that the words behind `--grid` describe, as `values_by_key`; 'seed' is apart."""
    found = values_by_key("--grid", words, methods)
    return Grid(found, tuple(found.pop("seed", ())))


def values_by_key(flag: str, words: Sequence[str], methods: Iterable[str]) -> dict[str, list[Any]]:
    """The values by dotted key that the words behind a flag describe.

    Args:
        flag: For errors.
        words: KEY=VALUE,VALUE each, or KEY=[VALUE, VALUE] with values as in a file.
        methods: Of the experiments; one outside the catalogue adds keys.

    Raises:
        ConfigError: A word of another form, or a key that is given twice.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if not key or not equals:
            raise ConfigError(f"{flag} '{word}' is not of the form KEY=VALUE,VALUE.", FORM)
        if key in found:
            raise ConfigError(f"{flag} has {key} twice.", f"Write all of its values in one place: {key}=VALUE,VALUE.")
        kind = setting_type(key, methods)
        found[key] = (
            _listed(flag, text) if text.strip().startswith("[") else [_typed(kind, v.strip()) for v in text.split(",")]
        )
    return found


def require_few_cells(experiments: int, grid: Grid, seeds: int) -> str:
    """How many cells there are, factor by factor: '24 cells: 4 experiments x 2 (rl.noise_std) x 3 seeds'.

    Raises:
        ConfigError: There are more than a comparison may have.
    """
    factors = [experiments, *map(len, grid.values.values()), seeds]
    names = [counted(experiments, "experiment"), *(f"{len(values)} ({key})" for key, values in grid.values.items())]
    text = f"{counted(math.prod(factors), 'cell')}: {' x '.join([*names, counted(seeds, 'seed')])}"
    if math.prod(factors) > MOST_EXPERIMENTS:
        raise ConfigError(
            f"The comparison has {text}.", f"At most {MOST_EXPERIMENTS:,} are allowed; remove values or seeds."
        )
    return text


def _listed(flag: str, text: str) -> list[Any]:
    """The values of a list as a file has it."""
    try:
        values = parse_toml(f"values = {text}".encode()).get("values")
    except ValueError as error:
        raise ConfigError(f"{flag}: {text} is not a list as in a file: {error}.", FORM) from None
    return values if isinstance(values, list) else [values]


def _typed(kind: Any, text: str) -> Any:
    """The value that a text stands for; the text itself where it is none of this type, which is refused later."""
    if words := words_of(kind):
        return text if text in words else _typed(get_args(kind)[0], text)
    # A whole number stays one where any number is allowed, so that labels have it as it was written.
    for number in {int: (int,), float: (int, float)}.get(kind, ()):
        with suppress(ValueError):
            return number(text)
    return text


def _changed(title: str, experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    try:
        changed = with_settings(experiment, changes)
        return replace(changed, data=changed.data.with_files_read())
    except ConfigError as error:
        raise ConfigError(f"{title}: {error.message}", error.hint) from None


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())
