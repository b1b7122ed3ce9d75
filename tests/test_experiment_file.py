"""TOML and plain dictionaries to an experiment and back; refusals are in tests/cli/test_bad_input.py too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import DataConfig, Experiment, LoraConfig, RlConfig
from feddtl.dotted import flatten
from feddtl.errors import ConfigError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict, load_experiment

WHOLE_FILE = """
method = "fedlora"
model = "openai/clip-vit-base-patch16"
seed = 3
rounds = 6

[data]
source = "cifar10"
regime = "full"
partition = "dirichlet"
alpha = 1

[lora]
rank = 8

[rl]
kl = "exact"
"""


def test_a_file(tmp_path: Path) -> None:
    """What is named is taken, an integer may stand for a number, the rest is the default."""
    file = tmp_path / "mine.toml"
    file.write_text(WHOLE_FILE)
    experiment = load_experiment(file)
    assert experiment == Experiment(
        method="fedlora",
        model="openai/clip-vit-base-patch16",
        seed=3,
        rounds=6,
        data=DataConfig(source="cifar10", regime="full", partition="dirichlet", alpha=1.0),
        lora=LoraConfig(rank=8),
        rl=RlConfig(kl="exact"),
    )
    assert isinstance(experiment.data.alpha, float)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert load_experiment(tmp_path / "empty.toml") == Experiment()


@given(st.integers(0, 2**31 - 1), st.integers(1, 99), st.floats(1e-9, 1e9), st.text(min_size=1, max_size=9))
def test_there_and_back(seed: int, rounds: int, alpha: float, source: str) -> None:
    """An experiment survives its JSON form to the last bit."""
    experiment = Experiment(seed=seed, rounds=rounds, data=DataConfig(source=source, alpha=alpha))
    assert experiment_from_dict(json.loads(json.dumps(experiment_to_dict(experiment)))) == experiment


def test_dotted_keys() -> None:
    flat = flatten(experiment_to_dict(Experiment()))
    assert flat["data.source"] == "shapes"
    assert flat["rounds"] == 20
    assert not any(isinstance(value, dict) for value in flat.values())


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"rond": 1}, "Did you mean 'rounds'?"),
        ({"alpha": 1}, "Did you mean 'data.alpha' or 'lora.alpha'?"),
        ({"epochs": 1}, "Did you mean 'local.epochs' or 'rl.epochs' or 'server.epochs' or 'fedppo.epochs'?"),
        ({"sorce": "x"}, "Did you mean 'data.source'?"),
        ({"server": {"rank": 4}}, "Did you mean 'lora.rank'?"),
        ({"server": {"learnig_rate": 4}}, "Did you mean 'learning_rate'?"),
        ({"rl": {"seed": 4}}, "'seed' is a top-level key: write it above the first [table]."),
        ({"data.alpha": 1}, "Write it without quotes, or the last part of it in its table."),
    ],
)
def test_where_a_key_belongs(values: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment_from_dict(values)
    assert caught.value.message.startswith("Unknown key")
    assert caught.value.hint == hint


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, "1", True, 10**400])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.alpha"):
        experiment_from_dict({"data": {"alpha": value}})


def test_what_is_no_table() -> None:
    with pytest.raises(ConfigError, match="a table of keys"):
        experiment_from_dict([1, 2])  # type: ignore[arg-type]
