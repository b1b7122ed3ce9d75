"""Every setting and every flag that the code names in a message exists."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from feddtl.cli.commands import COMMANDS
from feddtl.config import Experiment
from feddtl.dotted import flatten
from feddtl.experiment_file import experiment_to_dict
from feddtl.methods.catalog import METHODS
from feddtl.methods.tables import settings_types

SOURCE = Path(__file__).parents[1] / "src" / "feddtl"
# Flags of other programs that hints name.
ELSEWHERE = {
    "--repo-type",
    "--local-dir",
    "--run-config",
    "--run-id",
    "--stream",
    "--node-config",
    "--font",
    "--help",
    "--help-all",
    "--version",
}


@cache
def settings() -> set[str]:
    """Every setting by dotted key, of every method."""
    tables = {name: kind for method in METHODS for name, kind in settings_types(method).items()}
    own = {f"{name}.{field.name}" for name, kind in tables.items() for field in dataclasses.fields(kind)}
    return own | set(flatten(experiment_to_dict(Experiment())))


@cache
def tables() -> str:
    """The names of tables of settings as a pattern."""
    return "|".join(sorted({key.partition(".")[0] for key in settings() if "." in key}))


@cache
def flags() -> set[str]:
    """Every flag of a command, and every setting as a flag."""
    named = {f"--{key.replace('_', '-')}" for key in settings()}
    for kind in COMMANDS.values():
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            named.add(f"--{field.name.replace('_', '-')}")
    return named


def texts() -> Iterator[tuple[str, str]]:
    """Every text of the source that is not a docstring, with its place; gaps of an f-string are '{}'."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        skipped |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                pieces = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield where, "".join(map(str, pieces))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield where, node.value


def named(text: str) -> Iterator[str]:
    """Settings and flags that a text names and that do not exist."""
    for found in re.findall(rf"(?<![\w./-])(?:{tables()})\.[a-z][a-z_]+(?![\w/(-]|\.\w)", text):
        if found not in settings() and not found.endswith((".json", ".toml", ".svg", ".py", ".safetensors")):
            yield found
    for found in re.findall(r"(?<![\w-])--[a-z][a-z.\-_]*[a-z](?![\w{-]|\.\w)", text):
        if found.replace("_", "-") not in flags() | ELSEWHERE:
            yield found


def test_every_setting_and_flag_in_a_message_exists() -> None:
    assert [(where, name) for where, text in texts() if " " in text for name in named(text)] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Raise data.min_samples.", ["data.min_samples"]),
        ("Lower data.min_images or use --data.min-sample.", ["--data.min-sample"]),
        ("Choose another --outputs.", ["--outputs"]),
        ("data.json, schedule.stages = 'sft' and --data.clients", []),
    ],
)
def test_what_is_found(text: str, wrong: list[str]) -> None:
    assert list(named(text)) == wrong
