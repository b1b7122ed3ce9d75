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
GRID = """
[grid]
rl.noise_std = [0.05, 1, "auto"]
data.classes = ["cat, dog", "bee, fox"]
data.clients = [3, "auto"]
schedule.sft_rounds = [2, 3]
"""
Resolve = Callable[..., dict[str, Experiment]]
Parse = Callable[..., Compare]


@pytest.fixture
def command(feddtl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """A command, not executed; `table.toml` has four, `plain.toml` one."""
    (tmp_path / "table.toml").write_text(TABLE)
    (tmp_path / "plain.toml").write_text("rounds = 3")
    (tmp_path / "seeds.toml").write_text("[grid]\nseed = [0, 1]\n")
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "empty.toml").write_text("")
    found: list[Compare] = []

    def keep(command: Compare) -> int:
        found.append(command)
        return 0

    monkeypatch.setattr(Compare, "execute", keep)

    def call(*words: str) -> Compare:
        answer = feddtl("compare", *words)
        assert answer.code == 0, answer.err
        return found[-1]

    return call


@pytest.fixture
def resolve(command: Parse) -> Resolve:
    """The experiments that a command would run."""
    return lambda *words: command(*words).resolved


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


def test_a_grid_of_flags_is_the_grid_of_a_file(command: Parse) -> None:
    """Numbers, a word among them, texts with a comma, an integer: each with the type that a file gives it."""
    words = ("rl.noise-std=0.05,1,auto", "data.classes=['cat, dog', 'bee, fox']", "data.clients=3,auto")
    found = command("empty.toml", "--grid", *words, "schedule.sft_rounds= 2, 3", "seed=4,5")
    expected = command("grid.toml").resolved
    assert {name.replace("empty-", "grid-"): one for name, one in found.resolved.items()} == expected
    assert (found.seeds, len(expected)) == ((4, 5), 24)
    assert found.size == (
        "48 cells: 1 experiment x 3 (rl.noise_std) x 2 (data.classes) x 2 (data.clients) x "
        "2 (schedule.sft_rounds) x 2 seeds"
    )


def test_a_grid_goes_over_every_experiment_and_its_flags(resolve: Resolve) -> None:
    resolved = resolve("--rounds", "9", "plain.toml", "table.toml::*-fedlora", "--grid", "lora.rank=2,3")
    assert list(resolved) == [
        *("plain-2", "plain-3", "table-cifar10-fedlora-2", "table-cifar10-fedlora-3"),
        *("table-cifar100-fedlora-2", "table-cifar100-fedlora-3"),
    ]
    assert {(one.rounds, one.lora.rank) for one in resolved.values()} == {(9, 2), (9, 3)}


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (("table.toml", "--data.source", "eurosat"), ("table-cifar10-feddtl and table-cifar100-feddtl are the same",)),
        (("table.toml", "table.toml::cifar10-*"), ("Two experiments are called 'table-cifar10-feddtl'",)),
        (("table.toml", "--schedule.sft-rounds", "6"), ("table-cifar10-feddtl with these flags", "no RL round")),
        (("seeds.toml",), ("seeds-0 and seeds-1 differ only in the seed", "--seeds")),
        (("plain.toml", "--grid", "rl.noise_sd=1,2"), ("Unknown key 'rl.noise_sd'", "Did you mean 'noise_std'?")),
        (("plain.toml", "--grid", "lora.rank=4,many"), ("plain with lora.rank=many", "Give a whole number")),
        (("plain.toml", "--grid", "lora.rank=4,4"), ("Two experiments have the label '4'",)),
        (("plain.toml", "--grid", "lora.rank=4,-1"), ("lora.rank = -1 is out of range",)),
        (("plain.toml", "--grid", "seed=0,x"), ("seed = 'x'", "Give a whole number")),
        (("plain.toml", "--grid", "seed=-1"), ("seed = -1 is out of range",)),
        (("plain.toml", "--grid", "rounds"), ("--grid 'rounds' is not of the form",)),
        (("plain.toml", "--grid", "rounds=[1,"), ("--grid: [1, is not a list",)),
        (("plain.toml", "--grid", "rounds=1", "rounds=2"), ("--grid has rounds twice",)),
        (("plain.toml", "--grid", "rounds=4,5", "--rounds", "6"), ("--rounds and --grid rounds=… were both given",)),
        (("plain.toml", "--grid", "seed=0,1", "--seeds", "2"), ("--seeds and --grid seed=… were both given",)),
        (("table.toml", "--grid", "data.source=cifar10"), ("are the same experiment",)),
        (
            ("plain.toml", "--grid", f"rounds={','.join(map(str, range(2, 203)))}", "--seeds", *map(str, range(50))),
            ("10,050 cells: 1 experiment x 201 (rounds) x 50 seeds", "At most 10,000"),
        ),
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
