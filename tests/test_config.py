"""The experiment's values: the paper's defaults, and every limit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.checks import Above, AtLeast, field_hints, words_of
from feddtl.config import (
    DataConfig,
    DeploymentConfig,
    Experiment,
    LoraConfig,
    ScheduleConfig,
    ServerConfig,
    SystemConfig,
)
from feddtl.config.class_lists import joined_class_names
from feddtl.errors import ConfigError
from feddtl.methods.tables import MethodTables, settings_types

TABLES: dict[str, type[Any]] = {
    name: kind
    for name, kind in {**get_type_hints(Experiment), **settings_types()}.items()
    if dataclasses.is_dataclass(kind) and kind is not MethodTables
}

# (table, key, values that are allowed, values that are not)
TEXTS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("", "model", ["tiny-clip"], [""]),
    ("data", "source", ["shapes", "a/b"], [""]),
    ("data", "prompt", ["", "a {class}"], ["a photo", "{klass}"]),
    ("lora", "targets", ["q_proj", "q_proj, fc1 ,out_proj"], ["", ",", "qkv", "q_proj;k_proj"]),
    ("fedmaple", "initial_text", ["a photo", "x"], ["", " "]),
    ("promptfl", "initial_text", ["", "a photo"], [" ", "\t"]),
    ("fedpgp", "initial_text", ["", "a photo"], ["   "]),
]


def limits_of_numbers() -> Iterator[tuple[str, str, list[Any], list[Any]]]:
    """For each bound the last values within it and the first beyond it; no float may be NaN or infinite."""
    for table, kind in {"": Experiment, **TABLES}.items():
        for key, (found, bounds) in field_hints(kind).items():
            hint = get_args(found)[0] if words_of(found) else found
            for bound in bounds:
                if isinstance(bound, AtLeast):
                    good, bad = edges(bound, hint)
                    yield table, key, good, [*bad, *([math.nan, math.inf, -math.inf] if hint is float else [])]


def edges(bound: AtLeast, hint: type) -> tuple[list[Any], list[Any]]:
    """Neighbouring values, the one allowed and the other not."""

    def after(value: float, towards: float) -> float:
        return math.nextafter(value, towards) if hint is float else value + math.copysign(1, towards)

    least = [after(bound.least, -math.inf), bound.least, after(bound.least, math.inf)]
    pairs = [(least[2], least[1]) if isinstance(bound, Above) else (least[1], least[0])]
    if bound.up_to != math.inf:
        pairs.append((bound.up_to, after(bound.up_to, math.inf)))
    if bound.below != math.inf:
        pairs.append((after(bound.below, -math.inf), bound.below))
    return [hint(good) for good, _ in pairs], [hint(bad) for _, bad in pairs]


LIMITS = [*TEXTS, *limits_of_numbers()]
# What another setting must be for the limits of one to be reached.
TOGETHER = {
    ("fedmgp", "groups"): {"shared_groups": 1},
    ("data", "novel_share"): {"class_split": "share"},
    ("data", "class_seed"): {"class_split": "share"},
}


def test_the_paper_s_values_are_the_defaults() -> None:
    """ViT-B/16 apart: T = 20, K = 5, 16 shots, rank 4, Adam 1e-3, batch 64, G = 3, sigma = 0.1, beta = 0.5."""
    experiment = Experiment()
    assert (experiment.rounds, experiment.data.client_count, experiment.data.shots, experiment.data.alpha) == (
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


def test_images_on_clients_need_class_lists() -> None:
    """A name counts once, whatever its case and underscores."""
    config = DataConfig(source="clients", classes="red_panda,  Ibex,", novel_classes="lynx")
    assert config.class_lists == (("red panda", "Ibex"), ("lynx",))
    assert config.on_clients
    assert not DataConfig().on_clients
    assert DataConfig(source="clients", classes="a,b").class_lists[1] == ()
    for classes in ("", ",", "ibex"):
        with pytest.raises(ConfigError, match=rf"data\.classes = '{classes}'") as caught:
            DataConfig(source="clients", classes=classes)
        assert "two or more names" in caught.value.hint
    for classes, novel in (("a,b,A", ""), ("a,red panda", "Red_Panda")):
        with pytest.raises(ConfigError, match="twice"):
            DataConfig(source="clients", classes=classes, novel_classes=novel)
    with pytest.raises(ConfigError, match=r"data\.root = '/copies' cannot be set"):
        DataConfig(source="clients", classes="a,b", root="/copies")


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"classes": "ant"}, "data.classes = 'ant'", "two or more names"),
        ({"classes": " , "}, "data.classes = ' , '", "two or more names"),
        ({"classes": 'ant, "bee'}, "data.classes = ", '"quotes"'),
        ({"classes": "ant, ANT"}, "name 'ANT' twice", "only once"),
        ({"novel_classes": ","}, "data.novel_classes = ','", "'others'"),
        ({"novel_classes": "others"}, "data.novel_classes = 'others' needs data.classes", "data.classes"),
        ({"classes": "a,b", "class_split": "none"}, "data.class_split = 'none' contradicts", "Remove the lists"),
        ({"novel_share": 0.2}, "data.novel_share = 0.2 has no effect", "data.class_split = 'share'"),
        ({"class_seed": 1, "class_split": "half"}, "data.class_seed = 1 has no effect", "data.class_split = 'share'"),
        ({"source": "clients", "classes": "a,b", "novel_classes": "others"}, "'others' cannot be set", "Name the"),
        ({"source": "clients", "class_split": "half"}, "data.class_split = 'half' cannot be set", "Name the"),
    ],
)
def test_choices_of_classes_that_contradict_themselves(settings: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DataConfig(**settings)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_lists_of_names_with_commas_quotes_and_lines() -> None:
    names = ("maillot, tank suit", '5" disk', 'a "b", c', "@home", "others", "ice cream")
    text = joined_class_names(names)
    assert DataConfig(classes=text).class_lists == (names, ())
    assert DataConfig(classes="ant\n bee,cat\n").class_lists == (("ant", "bee", "cat"), ())
    # In quotes it is a class; the word alone stands for all others.
    named = DataConfig(classes="a,b", novel_classes='"others"')
    assert (named.class_lists[1], named.others_are_novel) == (("others",), False)
    assert DataConfig(classes="a,b", novel_classes="others").others_are_novel


def test_what_is_novel_is_chosen_for_generated_shapes_only() -> None:
    for novel in ("pairs", "shapes", "colours"):
        assert DataConfig(novel=novel).novel == novel
    assert DataConfig(source="cifar10").novel == "pairs"
    for source, others in (("cifar10", {}), ("clients", {"classes": "a,b"})):
        with pytest.raises(
            ConfigError, match=rf"data\.novel = 'shapes' cannot be set with data\.source = '{source}'"
        ) as caught:
            DataConfig(source=source, novel="shapes", **others)
        assert "data.source = 'shapes'" in caught.value.hint
    with pytest.raises(ConfigError, match=r"data\.novel = 'colors' is unknown") as caught:
        DataConfig(novel="colors")
    assert "colours" in caught.value.hint


def test_the_embedded_model_is_the_default_and_noted_for_other_images() -> None:
    assert Experiment().with_model().model == Experiment().model_name == "tiny-clip"
    assert Experiment().model_note == ""
    for source, others in (("photos", {}), ("cifar10", {}), ("clients", {"classes": "a,b"})):
        experiment = Experiment(data=DataConfig(source=source, **others))
        assert "only knows coloured shapes" in experiment.model_note
        assert "--model tiny-clip" in experiment.model_note
        assert experiment.with_model().model == "tiny-clip"
        assert dataclasses.replace(experiment, model="tiny-clip").model_note == ""


def test_a_quorum_that_no_round_reaches_is_refused() -> None:
    """Half of 5 clients is 3 in a round."""
    Experiment(participation=0.5, deployment=DeploymentConfig(min_clients=3))
    with pytest.raises(ConfigError, match=r"deployment\.min_clients = 4") as caught:
        Experiment(participation=0.5, deployment=DeploymentConfig(min_clients=4))
    assert "1 to 3" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "key", "good", "bad"), LIMITS, ids=[f"{table}.{key}".strip(".") for table, key, *_ in LIMITS]
)
def test_limits(table: str, key: str, good: list[Any], bad: list[Any]) -> None:
    kind, others = TABLES[table] if table else Experiment, TOGETHER.get((table, key), {})
    for value in good:
        kind(**{key: value}, **others)
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            kind(**{key: value}, **others)
        assert caught.value.message.startswith(f"{table}.{key} = {value!r}".removeprefix("."))
        assert caught.value.hint


def test_every_number_has_a_limit() -> None:
    free = {"lora.first_image_block", "lora.first_text_block"}  # known only when the model is
    for table, kind in {"": Experiment, **TABLES}.items():
        for key, (hint, bounds) in field_hints(kind).items():
            if hint in (int, float) and f"{table}.{key}" not in free:
                assert any(isinstance(bound, AtLeast) for bound in bounds), f"{table}.{key}"


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
            "system.selection = 'fedppo' has nothing to select: with participation = 0.95, all 5 clients participate",
            "Lower participation",
        ),
        (
            {"participation": 0.5, "system": SystemConfig(selection="fedppo", mode="async")},
            "system.selection = 'fedppo' chooses the clients of a whole round",
            "system.mode = 'sync'",
        ),
        (
            {"lora": LoraConfig(aggregation="product"), "system": SystemConfig(mode="async")},
            "lora.aggregation = 'product' factorises again in each aggregation",
            "lora.aggregation = 'factors' or 'frozen-a'",
        ),
        (
            {"lora": LoraConfig(aggregation="alternate"), "system": SystemConfig(mode="async")},
            "lora.aggregation = 'alternate' trains one factor while the other is still",
            "system.mode = 'sync'",
        ),
        (
            {"lora": LoraConfig(aggregation="residual"), "system": SystemConfig(mode="async")},
            "lora.aggregation = 'residual' is how the clients of a round differ",
            "system.mode = 'sync'",
        ),
        (
            {"lora": LoraConfig(aggregation="residual"), "server": ServerConfig(aggregator="trimmed-mean")},
            "lora.aggregation = 'residual' is a weighted mean of products, and server.aggregator = 'trimmed-mean'",
            "server.aggregator = 'mean'",
        ),
        (
            {"lora": LoraConfig(aggregation="product"), "server": ServerConfig(aggregator="median")},
            "lora.aggregation = 'product' is a weighted mean of products, and server.aggregator = 'median' is",
            "server.aggregator = 'mean'",
        ),
        (
            {"method": "fedex-lora", "server": ServerConfig(aggregator="median")},
            "lora.aggregation = 'residual' is a weighted mean of products",
            "or method = 'fedlora' and lora.aggregation = 'factors', 'frozen-a' or 'alternate'.",
        ),
        (
            {"method": "rolora", "system": SystemConfig(mode="async")},
            "lora.aggregation = 'alternate' trains one factor while the other is still",
            "Set method = 'fedlora' and lora.aggregation = 'factors' or 'frozen-a', or",
        ),
        (
            {"lora": LoraConfig(aggregation="alternate"), "method": "promptfl"},
            "lora.aggregation = 'alternate' combines LoRA factors, and method = 'promptfl' sends none.",
            "'fedlora'",
        ),
        (
            {"server": ServerConfig(aggregator="median"), "system": SystemConfig(mode="async")},
            "server.aggregator = 'median' compares the clients of a round",
            "system.mode = 'sync'",
        ),
        (
            {"server": ServerConfig(aggregator="trimmed-mean", trim_share=0.1)},
            "server.aggregator = 'trimmed-mean' drops nobody: server.trim_share = 0.1 of 5 clients",
            "Set server.trim_share to 0.2 or more.",
        ),
        (
            {"server": ServerConfig(aggregator="trimmed-mean", trim_share=0.4), "data": DataConfig(clients=2)},
            "server.aggregator = 'trimmed-mean' drops nobody: server.trim_share = 0.4 of 2 clients",
            "Use 3 clients or more",
        ),
        (
            {"server": ServerConfig(aggregator="multi-krum", trim_share=0.4)},
            "server.aggregator = 'multi-krum' cannot drop 2 of 5 clients in a round, which is server.trim_share = 0.4",
            "Set server.trim_share below 0.4, or use 7 clients or more",
        ),
        (
            {"server": ServerConfig(aggregator="multi-krum", trim_share=0.3), "data": DataConfig(clients=4)},
            "server.aggregator = 'multi-krum' cannot drop 1 of 4 clients",
            "Use 5 clients or more in a round, or another aggregator.",
        ),
        (
            {"server": ServerConfig(aggregator="median", trim_share=0.1, nearest_neighbour_mixing=True)},
            "server.nearest_neighbour_mixing = true drops nobody: server.trim_share = 0.1 of 5 clients",
            "Set server.trim_share to 0.2 or more.",
        ),
    ],
    ids=[
        "all and a share",
        "fedppo without a choice",
        "fedppo without rounds",
        "product without rounds",
        "factors in turn without rounds",
        "residual without rounds",
        "trimmed mean with a residual",
        "median of products",
        "median of a method with a residual",
        "a method with factors in turn without rounds",
        "factors of a prompt",
        "median without rounds",
        "too little to trim",
        "too few to trim",
        "too many to drop",
        "too few to drop one",
        "nobody to leave out",
    ],
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
    Experiment(server=ServerConfig(aggregator="trimmed-mean"))
    Experiment(server=ServerConfig(aggregator="trimmed-mean", trim_share=0.34), data=DataConfig(clients=3))
    Experiment(server=ServerConfig(aggregator="multi-krum", nearest_neighbour_mixing=True))


def test_mixing_needs_an_aggregator_that_bounds_hostile_clients() -> None:
    with pytest.raises(ConfigError, match="bounds no hostile client with") as caught:
        ServerConfig(nearest_neighbour_mixing=True)
    assert "centred-clipping" in caught.value.hint


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
