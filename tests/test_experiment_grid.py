"""Grids and variants: what a file expands to, how one of its experiments is named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import DataConfig, Experiment, ScheduleConfig
from feddtl.dotted import flatten, with_values
from feddtl.errors import ConfigError
from feddtl.experiment_file import load_experiment, load_experiments
from feddtl.experiment_grid import expand, experiment_name

TABLE = """
rounds = 6

[data]
regime = "full"

[grid]
data.source = ["cifar10", "owner/some-set"]

[variants]
feddtl = { method = "feddtl" }
fedlora = { method = "fedlora", schedule.stages = "sft" }
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.toml"
    file.write_text(TABLE)
    return file


def test_a_word_among_numbers(tmp_path: Path) -> None:
    """A sweep of the noise may compare numbers with the automatic one; labels and settings keep both."""
    file = tmp_path / "noise.toml"
    file.write_text('[grid]\nrl.noise_std = [1, 0.1, "auto"]\n')
    found = load_experiments(file)
    assert list(found) == ["noise-1", "noise-0.1", "noise-auto"]
    assert [one.rl.noise_std for one in found.values()] == [1.0, 0.1, "auto"]


def test_all_combinations_in_the_order_of_the_file(table: Path) -> None:
    """Two sources by two variants; the label of a Hub id is its last part."""
    assert list(load_experiments(table)) == [
        "table-cifar10-feddtl",
        "table-cifar10-fedlora",
        "table-some-set-feddtl",
        "table-some-set-fedlora",
    ]
    assert load_experiments(table)["table-some-set-fedlora"] == Experiment(
        method="fedlora",
        rounds=6,
        data=DataConfig(source="owner/some-set", regime="full"),
        schedule=ScheduleConfig(stages="sft"),
    )


def test_one_of_them_by_label(table: Path) -> None:
    chosen = Path(f"{table}::cifar10-fedlora")
    assert load_experiment(chosen) == load_experiments(table)["table-cifar10-fedlora"]
    assert load_experiments(chosen) == {"table-cifar10-fedlora": load_experiment(chosen)}
    assert experiment_name(chosen) == "table-cifar10-fedlora"


def test_some_of_them_by_pattern(table: Path) -> None:
    names = list(load_experiments(Path(f"{table}::*-fedlora")))
    assert names == ["table-cifar10-fedlora", "table-some-set-fedlora"]


def test_a_plain_file_is_one_experiment(tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    file.write_text("rounds = 6")
    assert load_experiments(file) == {"plain": Experiment(rounds=6)}
    assert experiment_name(file) == "plain"


def test_a_label_may_hold_a_point() -> None:
    """The suffix of a path ends at its last point, so `Path.stem` would cut 0.1 in two."""
    assert experiment_name(Path("sweeps/sigma.toml::0.1")) == "sigma-0.1"


@given(
    st.dictionaries(
        st.sampled_from(["rounds", "seed", "data.shots", "rl.epochs"]),
        st.sets(st.integers(1, 99), min_size=1, max_size=4),
    )
)
def test_every_combination_is_there_once(grid: dict[str, set[int]]) -> None:
    """As many experiments as the product of the lengths, each with its own values; keys may be quoted or nested."""
    lists = {key: sorted(values) for key, values in grid.items()}
    found = expand({"grid": lists}) if lists else expand({})
    assert found == expand({"grid": with_values({}, lists)})
    assert len({tuple(flatten(values).items()) for values in found.values()}) == len(found)
    size = 1
    for values in lists.values():
        size *= len(values)
    assert len(found) == size
    for label, values in found.items():
        assert label == "-".join(str(flatten(values)[key]) for key in lists)


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("grid = 3", ("grid = 3 is not a table", "[grid]")),
        ("[grid]\nrounds = 3", ("grid.rounds = 3 is not a list", "rounds = [VALUE")),
        ("[grid]\nrounds = []", ("grid.rounds = [] is not a list",)),
        ("[grid]\nrounds = [3, 3]", ("label '3'", "Remove the repeated value")),
        ("rounds = 3\n[grid]\nrounds = [3]", ("rounds is set twice", "in the settings")),
        ("[grid]\nrounds = [3]\n[variants]\na = { rounds = 3 }", ("rounds is set twice", "variant 'a'")),
        ("variants = 3", ("variants = 3 is not a table",)),
        ("[variants]\na = 3", ("variants.a = 3 is not a table", "a = { KEY")),
        ("[variants.'a b']\nrounds = 3", ("'a b' cannot be the name", "letters")),
        ("[grid]\nround = [3]", ("::3", "Unknown key 'round'", "rounds")),
        ("[grid]\nrounds = [0]", ("::0", "rounds = 0 is out of range")),
        ("data = 3\n[grid]\ndata.shots = [3]", ("data must be a table", "[data]")),
        ("[grid]\ndata.shots = ['3']", ("::3", "data.shots = '3'")),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, needles: tuple[str, ...]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_experiments(file)
    for needle in ("wrong.toml", *needles):
        assert needle in str(caught.value)


def test_several_where_one_is_needed(table: Path) -> None:
    with pytest.raises(ConfigError, match="describes 4 experiments: cifar10-feddtl, ") as caught:
        load_experiment(table)
    assert f"{table}::cifar10-feddtl" in caught.value.hint
    assert f"feddtl compare {table}" in caught.value.hint


def test_a_label_that_is_not_there(table: Path, tmp_path: Path) -> None:
    for load in (load_experiment, load_experiments):
        with pytest.raises(ConfigError, match="no experiment 'cifar10-fedlra'") as caught:
            load(Path(f"{table}::cifar10-fedlra"))  # type: ignore[operator]
        assert caught.value.hint == "Did you mean 'cifar10-fedlora'?"
    with pytest.raises(ConfigError, match="no experiment 'x'") as caught:
        load_experiments(Path(f"{table}::x"))
    assert "It has cifar10-feddtl, " in caught.value.hint
    (tmp_path / "plain.toml").write_text("")
    with pytest.raises(ConfigError, match=r"neither \[grid\] nor \[variants\]"):
        load_experiments(Path(f"{tmp_path / 'plain.toml'}::x"))


def test_labels_of_long_prompts_are_file_names_and_differ(tmp_path: Path) -> None:
    """A file name has at most 255 bytes."""
    long = [f"a very good photo of {number} things that are a {{class}}." for number in range(6)]
    file = tmp_path / "prompts.toml"
    file.write_text(f"[grid]\ndata.prompt = [{long[:5]}, {[*long[:4], long[5]]}, 'ensemble']\n")
    found = load_experiments(file)
    assert max(map(len, found)) < 100
    assert [experiment.data.prompt.split("\n") for experiment in found.values()] == [
        long[:5],
        [*long[:4], long[5]],
        ["ensemble"],
    ]
