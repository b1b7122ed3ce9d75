"""Experiment <-> TOML, JSON and plain dictionaries, with refusals that name key, value and type."""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from feddtl.config import Experiment
from feddtl.errors import ConfigError, did_you_mean


def load_experiment(path: Path) -> Experiment:
    """Experiment of a TOML file. Raises ConfigError for a missing file, bad TOML, unknown keys or bad values."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the experiment file {path}: {error.strerror}.", "Check the path; see experiments/."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    try:
        return experiment_from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from None


def experiment_from_dict(values: Mapping[str, Any]) -> Experiment:
    """Experiment of nested tables; missing keys take their defaults."""
    built: Experiment = _build(Experiment, values, "")
    return built


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """Every key with its resolved value, as nested tables."""
    return dataclasses.asdict(experiment)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: {'data': {'alpha': 1}} -> {'data.alpha': 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"Unknown key '{prefix}{key}'.", _suggest(key, prefix, hints))
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{key} must be a table, got {value!r}.", f"Write [{prefix}{key}].")
            arguments[key] = _build(hint, value, f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            arguments[key] = _scalar(hint, value, f"{prefix}{key}")
    return kind(**arguments)


def _suggest(key: str, prefix: str, hints: Mapping[str, Any]) -> str:
    """Nearest key of this table; a key that belongs into another table is pointed there."""
    if not prefix:
        for table, hint in hints.items():
            if dataclasses.is_dataclass(hint) and key in get_type_hints(hint):
                return f"Did you mean '{table}.{key}'?"
    return did_you_mean(key, hints)


def _scalar(hint: Any, value: Any, key: str) -> Any:
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{key} = {value!r} is not known.", did_you_mean(str(value), map(str, allowed)))
        return value
    # An integer is a fine float; a boolean is never a number here.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        name = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.UnionType) else str(hint)
        raise ConfigError(f"{key} = {value!r} has type {type(value).__name__}.", f"Give a value of type {name}.")
    return value
