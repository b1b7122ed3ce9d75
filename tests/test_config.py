"""The experiment's values: the paper's defaults, and every limit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import (
    DataConfig,
    DeploymentConfig,
    Experiment,
    LoraConfig,
    ScheduleConfig,
    ServerConfig,
    SystemConfig,
)
from feddtl.errors import ConfigError

TABLES: dict[str, type[Any]] = {
    name: kind for name, kind in get_type_hints(Experiment).items() if dataclasses.is_dataclass(kind)
}

# (table, key, values that are allowed, values that are not)
LIMITS = [
    ("data", "shots", [1, 16], [0, -1]),
    ("data", "alpha", [1e-6, 100.0], [0.0, -0.1, math.nan, math.inf]),
    ("data", "clients", [1, 100], [0]),
    ("data", "min_images", [0, 8], [-1]),
    ("data", "test_images_per_class", [0, 100], [-1]),
    ("data", "source", ["shapes", "a/b"], [""]),
    ("data", "prompt", ["", "a {class}"], ["a photo", "{klass}"]),
    ("lora", "rank", [1, 64], [0]),
    ("lora", "alpha", [0.0, 8.0], [-1.0, math.nan]),
    ("lora", "targets", ["q_proj", "q_proj, fc1 ,out_proj"], ["", ",", "qkv", "q_proj;k_proj"]),
    ("schedule", "sft_rounds", [0, 19], [-1]),
    ("local", "epochs", [1], [0]),
    ("local", "momentum", [0.0, 0.99], [-0.1, 1.0, math.nan]),
    ("local", "weight_decay", [0.0, 0.1], [-1e-4, math.nan, math.inf]),
    ("promptfl", "context_length", [1, 16], [0]),
    ("promptfl", "init_std", [0.0, 1.0], [-0.1, math.nan]),
    ("fedmaple", "initial_text", ["a photo", "x"], ["", " "]),
    ("fedmaple", "depth", [1, 12], [0]),
    ("fedmaple", "init_std", [0.0, 1.0], [-0.1, math.nan]),
    ("fedpgp", "context_length", [1, 16], [0]),
    ("fedpgp", "bottleneck", [1, 16], [0]),
    ("fedpgp", "init_std", [0.0, 1.0], [-0.1, math.nan]),
    ("fedpgp", "contrast_weight", [0.0, 2.0], [-0.1, math.nan]),
    ("fedpgp", "contrast_temperature", [0.01, 1.0], [0.0, -0.5, math.inf]),
    ("pfedmma", "blocks", [1, 12], [0]),
    ("pfedmma", "width", [1, 32], [0]),
    ("pfedmma", "scale", [1e-4, 1.0], [0.0, -0.1, math.nan]),
    ("local", "learning_rate", [1e-9, 1.0], [0.0, -1e-3, 1.5, math.nan, math.inf]),
    ("local", "batch_size", [1], [0]),
    ("rl", "epochs", [1], [0]),
    ("rl", "group_size", [2, 64], [1, 0]),
    ("rl", "noise_std", [0.0, 5.0], [-0.1, math.nan]),
    ("rl", "clip", [0.01, 0.99], [0.0, 1.0, math.nan]),
    ("rl", "kl_weight", [0.0, 10.0], [-0.5, math.inf]),
    ("rl", "anchor_weight", [0.0, 1.0], [-0.1, 1.1]),
    ("rl", "max_log_ratio", [1.0, 80.0], [0.5, 81.0]),
    ("server", "epochs", [0, 5], [-1]),
    ("server", "learning_rate", [1e-9], [0.0, math.nan]),
    ("server", "batch_size", [1], [0]),
    ("uplink", "max_embeddings_per_class", [0, 16], [-1]),
    ("evaluation", "every", [1, 5], [0]),
    ("data", "views", [1, 8], [0]),
    ("system", "seconds_per_image", [1e-6, 10.0], [0.0, -1.0, math.nan]),
    ("system", "speed_spread", [0.0, 10.0], [-0.1, 10.1, math.nan]),
    ("system", "slow_share", [0.0, 1.0], [-0.1, 1.1]),
    ("system", "slow_factor", [1.0, 100.0], [0.9, math.inf]),
    ("system", "bandwidth_mbit", [0.01, 1e6], [0.0, -1.0, math.inf]),
    ("system", "dropout", [0.0, 0.99], [-0.1, 1.0, math.nan]),
    ("fedppo", "validation_share", [0.01, 0.99], [0.0, 1.0, math.nan]),
    ("fedppo", "hidden_width", [1, 64], [0]),
    ("fedppo", "learning_rate", [1e-9, 1.0], [0.0, 1.5, math.nan]),
    ("fedppo", "discount", [0.0, 0.99], [-0.1, 1.0]),
    ("fedppo", "clip", [0.01, 0.99], [0.0, 1.0]),
    ("fedppo", "epochs", [1], [0]),
    ("fedppo", "update_every", [1], [0]),
    ("fedppo", "value_weight", [0.0, 1.0], [-0.1, math.inf]),
    ("afedpg", "server_rate", [0.01, 4.0], [0.0, -1.0, math.inf]),
    ("afedpg", "direction_weight", [0.01, 1.0], [0.0, 1.1, math.nan]),
    ("afedpg", "delay_exponent", [0.0, 2.0], [-0.1, math.nan]),
    ("deployment", "min_clients", [1, 100], [0]),
    ("deployment", "round_timeout", [0.1, 1e5], [0.0, -1.0, math.inf]),
    ("deployment", "max_update_norm", [1e-3, 1e6], [0.0, -1.0, math.nan]),
    ("compute", "loading_threads", [0, 8], [-1]),
    ("compute", "clients_together", [0, 8], [-1]),
    ("compute", "cache_disk_gb", [0.1, 1000.0], [0.0, -1.0, math.nan]),
    ("compute", "cache_memory_gb", [0.0, 64.0], [-1.0, math.inf]),
]


def test_the_paper_s_values_are_the_defaults() -> None:
    """ViT-B/16 apart: T = 20, K = 5, 16 shots, rank 4, Adam 1e-3, batch 64, G = 3, sigma = 0.1, beta = 0.5."""
    experiment = Experiment()
    assert (experiment.rounds, experiment.data.clients, experiment.data.shots, experiment.data.alpha) == (
        20,
        5,
        16,
        0.1,
    )
    assert (experiment.lora.rank, experiment.lora.scaling, experiment.lora.first_image_block) == (4, 1.0, -2)
    assert (experiment.local.epochs, experiment.local.learning_rate, experiment.local.batch_size) == (2, 1e-3, 64)
    rl = experiment.rl
    assert (rl.epochs, rl.group_size, rl.noise_std, rl.clip, rl.kl_weight, rl.anchor_weight) == (
        3,
        3,
        0.1,
        0.2,
        0.5,
        0.5,
    )
    assert (experiment.server.learning_rate, experiment.server.batch_size) == (1e-3, 64)
    assert experiment.training.last_sft_round == 10


def test_classes_go_with_images_on_clients() -> None:
    """Needed there and refused elsewhere; a name counts once, whatever its case and underscores."""
    config = DataConfig(source="clients", classes="red_panda,  Ibex,", novel_classes="lynx")
    assert config.class_lists == (("red panda", "Ibex"), ("lynx",))
    assert config.on_clients
    assert not DataConfig().on_clients
    assert DataConfig(source="clients", classes="a,b").class_lists[1] == ()
    for classes in ("", ",", "ibex"):
        with pytest.raises(ConfigError, match=rf"data\.classes = '{classes}'") as caught:
            DataConfig(source="clients", classes=classes)
        assert "two or more names" in caught.value.hint
    for key in ("classes", "novel_classes"):
        with pytest.raises(ConfigError, match=rf"data\.{key} = 'a,b' has no use with data\.source = 'shapes'"):
            DataConfig(**{key: "a,b"})
    for classes, novel in (("a,b,A", ""), ("a,red panda", "Red_Panda")):
        with pytest.raises(ConfigError, match="twice"):
            DataConfig(source="clients", classes=classes, novel_classes=novel)
    with pytest.raises(ConfigError, match=r"data\.root = '/copies' has no use"):
        DataConfig(source="clients", classes="a,b", root="/copies")


def test_a_quorum_that_no_round_reaches_is_refused() -> None:
    """Half of 5 clients is 3 in a round."""
    Experiment(participation=0.5, deployment=DeploymentConfig(min_clients=3))
    with pytest.raises(ConfigError, match=r"deployment\.min_clients = 4") as caught:
        Experiment(participation=0.5, deployment=DeploymentConfig(min_clients=4))
    assert "1 to 3" in caught.value.hint


@pytest.mark.parametrize(("table", "key", "good", "bad"), LIMITS, ids=[f"{limit[0]}.{limit[1]}" for limit in LIMITS])
def test_limits(table: str, key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        TABLES[table](**{key: value})
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            TABLES[table](**{key: value})
        assert caught.value.message.startswith(f"{table}.{key} = {value!r}")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("rounds", [0, -1]),
        ("seed", [-1, 2**31]),
        ("participation", [0.0, 1.01, math.nan]),
        ("model", [""]),
    ],
)
def test_limits_at_the_top(key: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            Experiment(**{key: value})
        assert key in caught.value.message
        assert repr(value) in caught.value.message


def test_every_number_has_a_limit() -> None:
    """A new numeric key without a line in LIMITS would go untested."""
    free = {"lora.first_image_block", "lora.first_text_block"}  # known only when the model is
    for table, kind in TABLES.items():
        for field in dataclasses.fields(kind):
            if field.type in ("int", "float") and f"{table}.{field.name}" not in free:
                assert any((table, field.name) == limit[:2] for limit in LIMITS), f"{table}.{field.name}"


@pytest.mark.parametrize(
    ("changes", "wrong", "remedy"),
    [
        (
            {"participation": 0.5, "system": SystemConfig(selection="all")},
            "system.selection = 'all' contradicts participation = 0.5",
            "system.selection = 'uniform'",
        ),
        (
            {"participation": 0.95, "system": SystemConfig(selection="fedppo")},
            "system.selection = 'fedppo' has no choice: participation = 0.95 is all 5 clients",
            "Lower participation",
        ),
        (
            {"participation": 0.5, "system": SystemConfig(selection="fedppo", mode="async")},
            "system.selection = 'fedppo' chooses the clients of a whole round",
            "system.mode = 'sync'",
        ),
        (
            {"server": ServerConfig(aggregator="product"), "system": SystemConfig(mode="async")},
            "server.aggregator = 'product' factorises anew",
            "server.aggregator = 'factors'",
        ),
    ],
    ids=["all and a share", "fedppo without a choice", "fedppo without rounds", "product without rounds"],
)
def test_policies_that_do_not_go_together(changes: dict[str, Any], wrong: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment(**changes)
    assert caught.value.message.startswith(wrong)
    assert remedy in caught.value.hint


def test_policies_that_go_together() -> None:
    """The least that leaves FedPPO a choice is one of five clients; 'all' is a share of 1."""
    Experiment(participation=0.8, system=SystemConfig(selection="fedppo"))
    Experiment(system=SystemConfig(selection="all", mode="async"))
    Experiment(participation=0.2, system=SystemConfig(mode="async"))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().rounds = 3  # type: ignore[misc]


@given(st.integers(1, 60), st.integers(0, 60))
def test_the_sft_stage_ends_before_the_last_round(rounds: int, sft_rounds: int) -> None:
    """M is what was asked for, or half of the rounds; a schedule without RL is refused, except for one round."""
    schedule = ScheduleConfig(sft_rounds=sft_rounds)
    if sft_rounds >= max(rounds, 2):
        with pytest.raises(ConfigError, match="leaves no RL round"):
            Experiment(rounds=rounds, schedule=schedule)
        return
    last = Experiment(rounds=rounds, schedule=schedule).training.last_sft_round
    assert last == (sft_rounds or math.ceil(rounds / 2))
    assert last < rounds or rounds == 1


def test_sft_alone_lasts_all_rounds() -> None:
    assert Experiment(rounds=7, schedule=ScheduleConfig("sft", sft_rounds=3)).training.last_sft_round == 7


def test_lora_settings_as_the_methods_read_them() -> None:
    assert LoraConfig(targets=" q_proj, fc1,").target_names == ("q_proj", "fc1")
    assert LoraConfig(rank=4).scaling == 1.0
    assert LoraConfig(rank=4, alpha=16.0).scaling == 4.0
