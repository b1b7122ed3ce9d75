"""Checks of configuration values, the same for files, flags and Python.

A setting declares its bounds beside its type: `shots: Annotated[int, AtLeast(1)] = 16`. The checks, their errors and
the reference page follow from that declaration.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from feddtl.errors import ConfigError, did_you_mean, shown

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
        raise ConfigError(f"{key} = {shown(value)} is out of range.", f"Allowed: {allowed}.")


def require_known(key: str, value: str, known: Iterable[str]) -> None:
    """Raise a ConfigError with the nearest known name if a value is not among them."""
    names = list(known)
    if value not in names:
        raise ConfigError(f"{key} = {shown(value)} is unknown.", did_you_mean(value, names))


@runtime_checkable
class Bound(Protocol):
    """What the value of a setting may be, given as metadata of its type."""

    @property
    def words(self) -> str:
        """What is allowed, for errors and the reference page: '1 or more'."""

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is allowed."""


@dataclass(frozen=True)
class Rule:
    """A bound of a setting that is not a number."""

    test: Callable[[Any], object]
    words: str

    def allows(self, value: Any) -> bool:
        return bool(self.test(value))


FILE_MARK = "@"  # before the name of a file


def names_a_file(text: str) -> bool:
    """Whether a setting names a file, with a name, a prompt or a text on each line."""
    return text.lstrip().startswith(FILE_MARK)


NOT_BLANK = Rule(lambda text: not text or text.strip(), "one or more words, or empty")


@dataclass(frozen=True)
class Lines:
    """An empty text, or one of different lines that all pass a test; a list of texts is taken for its lines.

    Attributes:
        test: Of a line.
        words: What is allowed.
        instead: Test of a whole text that is allowed, too.
    """

    test: Callable[[str], object]
    words: str
    instead: Callable[[str], object] = lambda text: False

    def allows(self, value: str) -> bool:
        return not value or bool(self.instead(value)) or self.wrong_line(value) is None

    def wrong_line(self, text: str) -> str | None:
        """The first line that fails the test, or equals one before it but for case and blanks; None if all are
        allowed."""
        seen = set()
        lines = [line for line in text.split("\n") if line.strip()]
        for line in lines:
            key = " ".join(line.casefold().split())
            if key in seen or not self.test(line):
                return line
            seen.add(key)
        return None if lines else text


def joined_lines(value: Any, bounds: Iterable[Bound]) -> Any:
    """A list of texts as the lines of one, for a setting of `Lines`; any other value as it is."""
    is_list = isinstance(value, list | tuple) and value and all(isinstance(line, str) for line in value)
    return "\n".join(value) if is_list and any(isinstance(bound, Lines) for bound in bounds) else value


def require_allowed(bound: Bound, key: str, value: Any) -> None:
    """Raise a ConfigError that names key, value, or the wrong line of it, and what is allowed."""
    wrong = bound.wrong_line(value) if isinstance(bound, Lines) else value
    require(bound.allows(value), key, wrong, bound.words)


@dataclass(frozen=True)
class SomeOf:
    """A text of one or more known names, separated by commas."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        return ", ".join(sorted(self.names))

    def allows(self, value: str) -> bool:
        given = split_names(value)
        return bool(given) and set(given) <= set(self.names)


@dataclass(frozen=True)
class AtLeast:
    """Numbers from `least` on.

    Attributes:
        least: The smallest allowed number; for `Above`, the largest number below the allowed ones.
        meaning: What `least` stands for, if it has a special meaning.
        up_to: The largest allowed number.
        below: The upper limit, itself not allowed.
        note: Appended to the words.
    """

    least: float
    _: KW_ONLY
    meaning: str = ""
    up_to: float = math.inf
    below: float = math.inf
    note: str = ""
    includes_least: ClassVar[bool] = True

    @property
    def words(self) -> str:
        return self._range() + self.note

    def allows(self, value: float) -> bool:
        above = value >= self.least if self.includes_least else value > self.least
        return above and value <= self.up_to and value < self.below

    def _range(self) -> str:
        if self.up_to != math.inf:
            return f"{self.least} to {self.up_to}"
        start = f"{self.least} ({self.meaning}) or more" if self.meaning else f"{self.least} or more"
        return start if self.below == math.inf else f"{start}, below {self.below}"


@dataclass(frozen=True)
class Above(AtLeast):
    """Numbers above `least`, which itself is not allowed."""

    includes_least: ClassVar[bool] = False

    def _range(self) -> str:
        if self.below != math.inf:
            return f"between {self.least} and {self.below}"
        return f"a number above {self.least}" if self.up_to == math.inf else f"above {self.least}, up to {self.up_to}"


def split_names(text: str) -> tuple[str, ...]:
    """The names in a comma-separated text, without blanks."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@cache  # a comparison builds hundreds of experiments
def field_hints(kind: Any) -> dict[str, tuple[Any, tuple[Bound, ...]]]:
    """Type and bounds of each field of a dataclass, by name."""
    hints, found = get_type_hints(kind, include_extras=True), {}
    for name in (field.name for field in dataclasses.fields(kind)):
        hint = hints[name]
        plain, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        found[name] = plain, tuple(bound for bound in metadata if isinstance(bound, Bound))
    return found


def check_fields(table: str, config: Any) -> None:
    """Raise ConfigError for a field of the wrong type or out of its bounds, an unknown choice, NaN or an infinity."""
    kind: Any = type(config)
    for name, (hint, bounds) in field_hints(kind).items():
        key, value = f"{table}.{name}" if table else name, getattr(config, name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):  # type: ignore[arg-type]
                raise ConfigError(f"{key} is {_type_name(value)}.", f"Give a {hint.__name__}.")  # type: ignore[union-attr]
            continue
        check_scalar(hint, value, key)
        if value in words_of(hint):
            continue
        if isinstance(value, float):
            require(math.isfinite(value), key, value, "a finite number")
        for bound in bounds:
            require_allowed(bound, key, value)


class Settings:
    """A table of settings, a frozen dataclass that is checked when it is built.

    A `Path` where a text is expected becomes one, and so does a list of lines. A subclass states the name of its table,
    for errors: `class LoraConfig(Settings, table="lora")`.
    """

    table: ClassVar[str] = ""

    def __init_subclass__(cls, table: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if table:
            cls.table = table

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, (hint, bounds) in field_hints(kind).items():
            if hint is str and not isinstance(value := getattr(self, name), str):
                text = os.fspath(value) if isinstance(value, os.PathLike) else joined_lines(value, bounds)
                object.__setattr__(self, name, text)
        check_fields(self.table, self)


def words_of(hint: Any) -> tuple[str, ...]:
    """The words that a setting allows instead of a number, `float | Literal["auto"]`; none for other types."""
    return get_args(get_args(hint)[1]) if get_origin(hint) is Union else ()


def check_scalar(hint: Any, value: Any, key: str) -> Any:
    """The value, an integer as a float where the hint is float. Raises ConfigError naming the key."""
    if words := words_of(hint):
        if value in words:
            return value
        listed = " or ".join(map(repr, words))
        require(type(value) in (int, float), key, value, f"a number, or {listed}")
        return check_scalar(get_args(hint)[0], value, key)
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{key} = {shown(value)} is unknown.", did_you_mean(str(value), map(str, allowed)))
        return value
    # A boolean is never a number here, although Python has it as an integer.
    if hint is float and type(value) is int:
        require(abs(value) < MOST_INTEGER, key, value, f"a number below {MOST_INTEGER:.0e}")
        return float(value)
    if type(value) is not hint:
        wanted = TYPE_NAMES.get(hint, str(hint))
        raise ConfigError(f"{key} = {shown(value)} is {_type_name(value)}.", f"Give {wanted}.")
    return value


def _type_name(value: Any) -> str:
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")
