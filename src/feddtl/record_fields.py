"""Fields of dataclasses in JSON files: which are required, which are known, and what JSON cannot express."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

TABLES_BY_CLIENT = ("failures", "local_by_client", "train_by_client", "counts")
"""Tables whose keys are client ids: text in a file, whole numbers in memory."""


def required_fields(kind: Any) -> list[str]:
    """Names of the fields of a dataclass that have no default."""
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def known_fields(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields, without those that something else wrote beside them."""
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def from_file(value: Any, by_client: bool = False) -> Any:
    """Undoes what JSON did: what was not measured is NaN in memory and null in a file, client ids are text there."""
    if isinstance(value, Mapping):
        convert = int if by_client else str
        return {convert(key): from_file(entry, key in TABLES_BY_CLIENT) for key, entry in value.items()}
    if isinstance(value, list):
        return [from_file(entry) for entry in value]
    return math.nan if value is None else value
