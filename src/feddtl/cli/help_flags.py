"""What `--help` shows: the flags that people use most; `--help-all` shows every one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from feddtl.line_breaks import COLUMNS, terminal_columns, wrapped
from feddtl.methods.catalog import settings_table

Kind = TypeVar("Kind")
HELP = ("-h", "--help")
HELP_ALL = "--help-all"
# Of the settings of an experiment, by command; the other flags of a command are always shown.
OF_A_RUN = (
    *("method", "model", "rounds", "seed", "participation"),
    *("data.source", "data.root", "data.classes", "data.regime", "data.shots", "data.partition", "data.clients"),
    *("local.epochs", "local.batch_size", "local.learning_rate", "lora.rank", "compute.device"),
)
OF_A_PARTITION = (
    *("model", "seed", "data.source", "data.root", "data.classes", "data.novel_classes", "data.class_split"),
    *("data.novel_share", "data.domains", "data.regime", "data.shots", "data.partition", "data.alpha"),
    *("data.clients", "data.min_images", "data.test_images_per_class"),
)
SHOWN = {"partition": OF_A_PARTITION}


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether help is among the words, in short or in full."""
    return not {*HELP, HELP_ALL}.isdisjoint(words)


def for_help(command: Any, name: str, words: Sequence[str], method: str) -> Any:
    """A command with an experiment in `config`, as its help describes it; good for nothing else.

    Args:
        command: With the values that help states as defaults.
        name: Name of the command.
        words: The words after it, with `--help` or `--help-all`.
        method: The method whose own settings are shown too.
    """
    if HELP_ALL in words:
        return _described(command, None)
    keys = SHOWN.get(name, OF_A_RUN)
    own = {field.name for field in dataclasses.fields(command)}
    shown = own | {f"config.{key}" for key in (*keys, *_settings_of(method, command.config))}
    more = f"These are the flags that people use most: `feddtl {name} {HELP_ALL}` shows every one."
    return _described(command, shown, more=more)


def _settings_of(method: str, config: Any) -> list[str]:
    """The settings that a method alone has."""
    table = settings_table(method)
    own = dataclasses.fields(getattr(config, table)) if hasattr(config, table) else ()
    return [f"{table}.{field.name}" for field in own]


def in_paragraphs(kind: type[Kind]) -> type[Kind]:
    """The same command, whose help describes each field in one paragraph; tyro would keep the breaks of the source."""
    hints, meanings = get_type_hints(kind, include_extras=True), _meanings(kind)
    fields = []
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        metadata = {"help": meanings[one.name]} if one.name in meanings else {}
        described = dataclasses.field(default=one.default, default_factory=one.default_factory, metadata=metadata)
        fields.append((one.name, hints[one.name], described))
    namespace = {"__doc__": kind.__doc__}
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, namespace=namespace)


def description(kind: type) -> str:
    """What help says about a command, in lines that fit the terminal.

    tyro prints it as it is, but joins a line that begins with a letter to the one before; further lines are indented.
    """
    return wrapped(inspect.getdoc(kind) or "", terminal_columns(sys.stdout) or COLUMNS)


def _described(value: Any, shown: Collection[str] | None, prefix: str = "", more: str = "") -> Any:
    """An instance with the same values, whose type hides what is not shown and describes a field in one paragraph."""
    kind = type(value)
    hints, meanings = get_type_hints(kind, include_extras=True), _meanings(kind)
    values: dict[str, Any] = {}
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(value):
        key, hint, default = f"{prefix}{field.name}", hints[field.name], getattr(value, field.name)
        if dataclasses.is_dataclass(default) and not isinstance(default, type) and field.name != "methods":
            default = _described(default, shown, "config." if field.name == "config" else f"{key}.")
            hint = Annotated[type(default), tyro.conf.arg(name="")] if field.name == "config" else type(default)
        elif shown is not None and key not in shown:
            hint = Annotated[hint, tyro.conf.Suppress]
        values[field.name] = default
        meaning = {"help": meanings[field.name]} if field.name in meanings else {}
        fields.append((field.name, hint, _field(default, meaning)))
    words = "\n\n".join(part for part in (inspect.getdoc(kind) or "", more) if part)
    return dataclasses.make_dataclass(kind.__name__, fields, frozen=True, eq=False, namespace={"__doc__": words})(
        **values
    )


def _field(default: Any, metadata: dict[str, str]) -> Any:
    """A field whose default may be mutable."""
    return dataclasses.field(default_factory=lambda: default, metadata=metadata)


def _meanings(kind: type) -> dict[str, str]:
    """The docstring after each field of a dataclass and of those it inherits from, each on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found |= field_docstrings(base)
    return found


def field_docstrings(kind: type) -> dict[str, str]:
    """The docstring after each field that a class declares itself, on one line; none of a class without source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):
        return {}
    return {
        entry.target.id: " ".join(str(words.value.value).split())
        for entry, words in pairwise(getattr(body, "body", ()))
        if isinstance(entry, ast.AnnAssign)
        and isinstance(entry.target, ast.Name)
        and isinstance(words, ast.Expr)
        and isinstance(words.value, ast.Constant)
    }
