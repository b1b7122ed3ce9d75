"""Experiment <-> TOML, JSON and plain dictionaries, with refusals that name key, value and type."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from feddtl.checks import check_scalar, field_hints, joined_lines
from feddtl.config import Experiment
from feddtl.dotted import flatten, with_values
from feddtl.errors import ConfigError, did_you_mean, shown
from feddtl.experiment_grid import CHOICE, MOST_LABELS, expand, experiment_name, no_such_label, split_choice
from feddtl.methods.tables import MethodTables, settings_types
from feddtl.parsing import parse_toml
from feddtl.state_folder import AnyPath, expanded
from feddtl.units import first_few


def load_experiment(path: AnyPath) -> Experiment:
    """Experiment of a TOML file, or of FILE.toml::LABEL where the file describes several.

    Raises:
        ConfigError: A missing file, bad TOML, unknown keys or bad values, no such label, or none where one is needed.
    """
    path = expanded(path)
    file, label = split_choice(path)
    found = _expanded(file)
    if not label and "" not in found:
        raise ConfigError(
            f"{file} describes {len(found)} experiments: {first_few(list(found), MOST_LABELS)}.",
            f"Choose one, {file}{CHOICE}{next(iter(found))}, or run them all with `feddtl compare {file}`.",
        )
    if label not in found:
        raise no_such_label(file, label, found)
    return _experiment_at(path, found[label])


def load_experiments(path: AnyPath) -> dict[str, Experiment]:
    """Every experiment of a TOML file by name, `experiment_name` of it, in the order of the file.

    Args:
        path: FILE.toml, FILE.toml::LABEL, or FILE.toml::PATTERN with * and ? as in file names.

    Raises:
        ConfigError: As `load_experiment`, or no label fits the pattern.
    """
    path = expanded(path)
    file, pattern = split_choice(path)
    found = _expanded(file)
    chosen = [label for label in found if not pattern or fnmatchcase(label, pattern)]
    if not chosen or (pattern and "" in found):
        raise no_such_label(file, pattern, found)
    paths = {label: Path(f"{file}{CHOICE}{label}") if label else file for label in chosen}
    return {experiment_name(path): _experiment_at(path, found[label]) for label, path in paths.items()}


def _expanded(file: Path) -> dict[str, dict[str, Any]]:
    """Nested tables of every experiment in a file, by label."""
    try:
        values = parse_toml(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"Cannot read the experiment file {file}: {error.strerror}.", "Check the path; see experiments/."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{file} is not valid TOML: {error}.", 'Write KEY = VALUE lines under [TABLE] lines, texts in "quotes".'
        ) from None
    try:
        return expand(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", error.hint) from None


def _experiment_at(path: Path, values: Mapping[str, Any]) -> Experiment:
    """Experiment of nested tables, with the names of its files of class names; errors name the path."""
    try:
        experiment = experiment_from_dict(values)
        return dataclasses.replace(experiment, data=experiment.data.with_files_read())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from None


def experiment_from_dict(values: Mapping[str, Any]) -> Experiment:
    """Experiment of nested tables; missing keys take their defaults. Raises ConfigError as `load_experiment`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"An experiment must be a table of keys, not {shown(values)}.")
    types = settings_types(str(values.get("method", Experiment.method)))
    tables = {name: _build_table(types[name], values[name], name) for name in values if name in types}
    plain = {key: value for key, value in values.items() if key not in types}
    built: Experiment = _build(Experiment, plain, "", {"methods": MethodTables.from_mapping(tables)}, types)
    return built


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """Every key with its resolved value, as nested tables."""
    values = dataclasses.asdict(dataclasses.replace(experiment, methods=MethodTables()))
    del values["methods"]
    tables = experiment.methods.all(experiment.method)
    return {**values, **{name: dataclasses.asdict(own) for name, own in tables.items()}}


def settings_by_key(experiment: Experiment) -> dict[str, Any]:
    """Every resolved value by dotted key: {'data.alpha': 1}."""
    return flatten(experiment_to_dict(experiment))


def with_settings(experiment: Experiment, changes: Mapping[str, Any], where: str = "") -> Experiment:
    """The experiment with other values by dotted key. Raises ConfigError, which begins with `where`, for bad ones."""
    try:
        return experiment_from_dict(with_values(experiment_to_dict(experiment), changes))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}" if where else error.message, error.hint) from None


def setting_type(key: str, methods: Iterable[str] = ()) -> Any:
    """The type of a setting by dotted key; None where there is no such key.

    Args:
        key: `rounds`, `rl.noise_std`.
        methods: Methods outside the catalogue, whose settings are keys too.
    """
    table, _, name = key.rpartition(".")
    tables = {name: hint for name, (hint, _) in field_hints(Experiment).items()}
    for method in ("", *methods):
        tables |= settings_types(method)
    kind: Any = tables.get(table) if table else Experiment
    if not dataclasses.is_dataclass(kind):
        return None
    hint, _ = field_hints(kind).get(name, (None, ()))  # type: ignore[arg-type]
    return hint


def _build_table(kind: type, values: Any, key: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key} must be a table, got {shown(values)}.", f"Write [{key}].")
    return _build(kind, values, f"{key}.")


def _build(
    kind: type,
    values: Mapping[str, Any],
    prefix: str,
    given: Mapping[str, Any] | None = None,
    more: Iterable[str] = (),
) -> Any:
    """An object of nested tables.

    Args:
        kind: Its type.
        values: Of its keys.
        prefix: Of its keys in errors.
        given: Values of fields that are not keys.
        more: Names of tables that are keys too.
    """
    given = given or {}
    hints = {name: hint for name, hint in field_hints(kind).items() if name not in given}
    arguments: dict[str, Any] = dict(given)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"Unknown key '{prefix}{key}'.", _suggest(key, [*hints, *more]))
        hint, bounds = hints[key]
        if dataclasses.is_dataclass(hint):
            arguments[key] = _build_table(hint, value, f"{prefix}{key}")  # type: ignore[arg-type]
        else:
            arguments[key] = check_scalar(hint, joined_lines(value, bounds), f"{prefix}{key}")
    return kind(**arguments)


def _suggest(key: str, hints: Sequence[str]) -> str:
    """The table of a key with this name; else the nearest key of this table, then of any; else all of this table's."""
    tables: dict[str, list[str]] = {}
    for dotted in settings_by_key(Experiment()):
        tables.setdefault(dotted.rpartition(".")[2], []).append(dotted)
    if "." in key:
        return "Write it without quotes, or the last part of it in its table."
    if key in tables and key in tables[key]:
        return f"'{key}' is a top-level key: write it above the first [table]."
    if key not in tables and difflib.get_close_matches(key, hints, n=1, cutoff=0.6):
        return did_you_mean(key, hints)
    elsewhere = difflib.get_close_matches(key, tables, n=1, cutoff=0.75)
    if not elsewhere:
        return did_you_mean(key, hints)
    return f"Did you mean {' or '.join(repr(dotted) for dotted in tables[elsewhere[0]])}?"
