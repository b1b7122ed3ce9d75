"""Checks of configuration values, the same for files, flags and Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from feddtl.errors import ConfigError, did_you_mean

TYPE_NAMES: dict[Any, str] = {
    bool: "a truth value",
    int: "a whole number",
    float: "a number",
    str: 'a text in "quotes"',
    list: "a list",
    dict: "a table",
}
MOST_INTEGER = 10**300  # a larger one may not be a float


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a ConfigError that names key, value and what is allowed."""
    if not condition:
        raise ConfigError(f"{key} = {value!r} is out of range.", f"Allowed: {allowed}.")


def require_known(key: str, value: str, known: Iterable[str]) -> None:
    """Raise a ConfigError with the nearest known name if a value is not among them."""
    names = list(known)
    if value not in names:
        raise ConfigError(f"{key} = {value!r} is not known.", did_you_mean(value, names))


def check_fields(table: str, config: Any) -> None:
    """Raise ConfigError for a field of the wrong type, an unknown choice, NaN or an infinity."""
    for name, hint in get_type_hints(type(config)).items():
        key, value = f"{table}.{name}" if table else name, getattr(config, name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):  # type: ignore[arg-type]
                raise ConfigError(f"{key} is {_type_name(value)}.", f"Give a {hint.__name__}.")  # type: ignore[union-attr]
            continue
        value = check_scalar(hint, value, key)
        # NaN passes every range check that is a comparison.
        if isinstance(value, float):
            require(math.isfinite(value), key, value, "a finite number")


def check_scalar(hint: Any, value: Any, key: str) -> Any:
    """The value as the hint wants it, an integer as a float if need be. Raises ConfigError naming the key."""
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{key} = {value!r} is not known.", did_you_mean(str(value), map(str, allowed)))
        return value
    # An integer is a fine float; a boolean is never a number here.
    if hint is float and type(value) is int:
        require(abs(value) < MOST_INTEGER, key, value, f"a number below {MOST_INTEGER:.0e}")
        return float(value)
    if type(value) is not hint:
        wanted = TYPE_NAMES.get(hint, str(hint))
        raise ConfigError(f"{key} = {value!r} is {_type_name(value)}.", f"Give {wanted}.")
    return value


def _type_name(value: Any) -> str:
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")
