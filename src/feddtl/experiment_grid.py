"""One file, many experiments: lists of values, and variants whose keys change together.

A file may have two tables beside its settings:

    [grid]                                  # all combinations of the lists
    data.source = ["cifar10", "cifar100"]

    [variants]                              # each with all combinations
    feddtl = { method = "feddtl" }
    fedlora = { method = "fedlora", schedule.stages = "sft" }

An experiment's label joins its values and its variant, `cifar10-fedlora`, and `FILE.toml::cifar10-fedlora` names it.
The settings stay scalars: the tables are resolved before an `Experiment` is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

from feddtl.dotted import flatten, with_values
from feddtl.errors import ConfigError, did_you_mean, shown
from feddtl.units import first_few

GRID, VARIANTS = "grid", "variants"
CHOICE = "::"
MOST_EXPERIMENTS = 10_000
"""In one file; the tables of the paper have a few hundred, and a slip of the pen makes millions."""
# More labels than these make a message unreadable.
MOST_LABELS = 6
MOST_LETTERS = 80  # of one value in a label


def split_choice(path: Path) -> tuple[Path, str]:
    """The file and the label of FILE.toml::LABEL; the label is "" where there is none."""
    file, _, label = str(path).partition(CHOICE)
    return Path(file), label


def experiment_name(path: Path) -> str:
    """A name for folders and tables: the file's stem, and the label behind a hyphen."""
    file, label = split_choice(path)
    return f"{file.stem}-{label}" if label else file.stem


def expand(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Nested tables of every experiment by label, in the order of the file; the label is "" without grid and variants.

    Raises:
        ConfigError: A grid value that is not a list or is empty, a variant that is not a table, a key that is set
            twice, too many experiments, or two with one label.
    """
    settings = {key: value for key, value in values.items() if key not in (GRID, VARIANTS)}
    grid, variants = _grid(values.get(GRID, {})), _variants(values.get(VARIANTS, {}))
    _check_set_once(settings, grid, variants)
    axes = [[({key: value}, value_label(value)) for value in listed] for key, listed in grid.items()]
    axes += [[(changes, name) for name, changes in variants.items()]] if variants else []
    _check_count(grid, variants)
    found: dict[str, dict[str, Any]] = {}
    for chosen in product(*axes):
        label = "-".join(text for _, text in chosen)
        if label in found:
            raise ConfigError(f"Two experiments have the label '{label}'.", "Remove the repeated value.")
        found[label] = with_values(settings, {key: value for changes, _ in chosen for key, value in changes.items()})
    return found


def no_such_label(file: Path, label: str, labels: Iterable[str]) -> ConfigError:
    """The error for a label that a file does not have."""
    known = list(filter(None, labels))
    if not known:
        return ConfigError(
            f"{file} has neither [grid] nor [variants] to choose '{label}' from.", f"Pass {file} without a label."
        )
    hint = did_you_mean(label, known, otherwise=f"It has {first_few(known, MOST_LABELS)}.")
    return ConfigError(f"{file} has no experiment '{label}'.", hint)


def _grid(table: Any) -> dict[str, list[Any]]:
    """Values by dotted key."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{GRID} = {shown(table)} is not a table.", f"Write KEY = [VALUE, …] lines under [{GRID}].")
    grid = flatten(table)
    for key, listed in grid.items():
        if not isinstance(listed, list) or not listed:
            raise ConfigError(
                f"{GRID}.{key} = {shown(listed)} is not a list of values.",
                f"Write {key} = [VALUE, …]; a single value belongs in the settings above [{GRID}].",
            )
    return grid


def _variants(table: Any) -> dict[str, dict[str, Any]]:
    """Changes by dotted key, by the variant's name."""
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"{VARIANTS} = {shown(table)} is not a table.", f"Write NAME = {{ KEY = VALUE }} under [{VARIANTS}]."
        )
    for name, changes in table.items():
        if not isinstance(changes, Mapping):
            raise ConfigError(
                f"{VARIANTS}.{name} = {shown(changes)} is not a table.", f"Write {name} = {{ KEY = VALUE, … }}."
            )
        if value_label(name) != name:
            raise ConfigError(
                f"'{name}' cannot be the name of a variant.", "Use letters, digits, '_', '.', '+' and '-'."
            )
    return {name: flatten(changes) for name, changes in table.items()}


def _check_set_once(
    settings: Mapping[str, Any], grid: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]
) -> None:
    """A variant may change a setting, but a key of the grid may be set nowhere else."""
    elsewhere = dict.fromkeys(flatten(settings), "in the settings")
    elsewhere |= {key: f"in the variant '{name}'" for name, changes in variants.items() for key in changes}
    for key in grid:
        if key in elsewhere:
            raise ConfigError(f"{key} is set twice: in [{GRID}] and {elsewhere[key]}.", "Remove one of the two.")


def _check_count(grid: Mapping[str, Sequence[Any]], variants: Mapping[str, Any]) -> None:
    """Refuse a file with too many experiments before any of them is made."""
    sizes = {key: len(listed) for key, listed in grid.items()} | ({VARIANTS: len(variants)} if variants else {})
    count = math.prod(sizes.values())
    if count > MOST_EXPERIMENTS:
        factors = " x ".join(f"{size:,} ({key})" for key, size in sizes.items() if size > 1)
        raise ConfigError(
            f"The file describes {count:,} experiments: {factors}.",
            f"At most {MOST_EXPERIMENTS:,} are allowed; remove values from [{GRID}].",
        )


def value_label(value: Any) -> str:
    """A value for a file name: the last part of a Hub id or path, without blanks and symbols."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    label = re.sub(r"[^\w.+-]+", "_", text.rstrip("/").rpartition("/")[2]) or "_"
    # A file name has at most 255 bytes, and several prompts have more.
    return label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 9]}_{crc32(text.encode()):08x}"
