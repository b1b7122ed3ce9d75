"""Nested tables and their dotted keys: {'data': {'alpha': 1}} and 'data.alpha'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feddtl.errors import ConfigError, shown


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: {'data': {'alpha': 1}} -> {'data.alpha': 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested tables with the values of dotted keys in place.

    Raises:
        ConfigError: A key leads through a value that is not a table.
    """
    changed = dict(values)
    for key, value in changes.items():
        table, _, rest = key.partition(".")
        if rest:
            inner = changed.get(table, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{table} must be a table, got {shown(inner)}.", f"Write [{table}].")
            changed[table] = with_values(inner, {rest: value})
        else:
            changed[table] = value
    return changed
