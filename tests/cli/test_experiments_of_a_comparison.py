"""Which experiments `feddtl compare` is given: all of a file or those chosen by label, with the flags over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli.small_runs import Command

from feddtl.cli.commands.compare import Compare
from feddtl.config import Experiment

TABLE = """
rounds = 6
[grid]
data.source = ["cifar10", "cifar100"]
[variants]
feddtl = { method = "feddtl" }
fedlora = { method = "fedlora", schedule.stages = "sft" }
"""
Resolve = Callable[..., dict[str, Experiment]]


@pytest.fixture
def resolve(feddtl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """The experiments that a command would run; `table.toml` has four, `plain.toml` one."""
    (tmp_path / "table.toml").write_text(TABLE)
    (tmp_path / "plain.toml").write_text("rounds = 3")
    found: list[Compare] = []

    def keep(command: Compare) -> int:
        found.append(command)
        return 0

    monkeypatch.setattr(Compare, "execute", keep)

    def call(*words: str) -> dict[str, Experiment]:
        answer = feddtl("compare", *words)
        assert answer.code == 0, answer.err
        return found[-1].resolved

    return call


def test_all_experiments_of_all_files(resolve: Resolve) -> None:
    resolved = resolve("table.toml", "plain.toml", "--seeds", "0", "1")
    sources, methods = ("cifar10", "cifar100"), ("feddtl", "fedlora")
    assert list(resolved) == [f"table-{source}-{method}" for source in sources for method in methods] + ["plain"]
    assert resolved["plain"].rounds == 3
    assert resolved["table-cifar100-fedlora"].data.source == "cifar100"


def test_flags_go_over_each_and_leave_the_rest(resolve: Resolve) -> None:
    resolved = resolve("table.toml", "--data.min-images=3", "--rounds", "4", "--seeds", "0", "--model", "some/clip")
    assert {e.data.min_images for e in resolved.values()} == {3}
    assert {(e.rounds, e.model) for e in resolved.values()} == {(4, "some/clip")}
    assert [e.method for e in resolved.values()] == ["feddtl", "fedlora"] * 2
    assert [e.data.source for e in resolved.values()] == ["cifar10"] * 2 + ["cifar100"] * 2


def test_some_of_a_file(resolve: Resolve) -> None:
    assert list(resolve("table.toml::*-feddtl")) == ["table-cifar10-feddtl", "table-cifar100-feddtl"]


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (("table.toml", "--data.source", "eurosat"), ("table-cifar10-feddtl and table-cifar100-feddtl are the same",)),
        (("table.toml", "table.toml::cifar10-*"), ("Two experiments are called 'table-cifar10-feddtl'",)),
        (("table.toml", "--schedule.sft-rounds", "6"), ("table-cifar10-feddtl with these flags", "no RL round")),
        (("table.toml::nothing-like-it",), ("no experiment 'nothing-like-it'",)),
        ((), ("There is no experiment to compare",)),
        (("photos",), ("'photos' is not an experiment file",)),
    ],
)
def test_what_is_refused(feddtl: Command, resolve: Resolve, words: tuple[str, ...], needles: tuple[str, ...]) -> None:
    answer = feddtl("compare", *words)
    assert answer.code == 1
    for needle in needles:
        assert needle in answer.err
