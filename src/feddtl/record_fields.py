"""Fields of dataclasses in JSON files: which are required and known, their types, and what JSON cannot express."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceType
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from feddtl.errors import shown

TABLES_BY_CLIENT = ("failures", "shares", "local_by_client", "train_by_client", "counts")
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


def checked(record: Any) -> Any:
    """A dataclass of values from a file. Raises TypeError naming the first that is not of the type of its field."""
    kind: Any = type(record)
    check_types(_hints(kind), vars(record))
    return record


def check_types(hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise TypeError naming the first value that is not of its type; keys without a type are not looked at.

    Args:
        hints: Types by key: scalars, None, literals, sequences, mappings, dataclasses, and unions of them.
        values: By key.
    """
    for key, hint in hints.items():
        for fault in _faults(hint, values[key], key) if key in values else ():
            raise TypeError(fault)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _faults(hint: Any, value: Any, key: str) -> Iterator[str]:
    """What is wrong with a value, and where."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if all(any(_faults(option, value, key)) for option in arguments):
            yield from _faults(arguments[0], value, key)
    elif origin is Literal:
        if value not in arguments:
            yield f"{key} is {shown(value, 40)}"
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            yield f"{key} is {shown(value, 40)} instead of a table"
            return
        for name, entry in value.items():
            yield from _faults(arguments[1], entry, f"{key}.{name}")
    elif isinstance(origin, type) and issubclass(origin, SequenceType):
        yield from _faults_of_list(origin, arguments, value, key)
    elif isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, hint):
            yield f"{key} is {shown(value, 40)} instead of a table"
            return
        yield from (fault for name, own in _hints(hint).items() for fault in _faults(own, getattr(value, name), name))
    elif hint is not Any and not _is_scalar(hint, value):
        yield f"{key} is {shown(value, 40)}"


def _faults_of_list(origin: type, arguments: tuple[Any, ...], value: Any, key: str) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{key} is {shown(value, 40)} instead of a list"
        return
    fixed = issubclass(origin, tuple) and arguments[-1] is not ...
    if fixed and len(value) != len(arguments):
        yield f"{key} has {len(value)} entries instead of {len(arguments)}"
        return
    for position, entry in enumerate(value):
        yield from _faults(arguments[position] if fixed else arguments[0], entry, f"{key}[{position}]")


def _is_scalar(hint: Any, value: Any) -> bool:
    """Whether a value has a type; a whole number is a number too, and a truth value is none."""
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint or (hint is type(None) and value is None)
