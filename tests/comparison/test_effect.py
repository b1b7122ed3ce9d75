"""Which settings have an effect on which methods."""

from __future__ import annotations

import pytest

from feddtl.comparison.effect import has_effect
from feddtl.config import Experiment, ScheduleConfig, ServerConfig

SFT = ScheduleConfig(stages="sft")


@pytest.mark.parametrize(
    ("key", "with_it", "without_it"),
    [
        ("local.learning_rate", Experiment(method="fedclip"), Experiment(method="zero-shot")),
        ("server.learning_rate", Experiment(), Experiment(method="fedlora")),
        ("server.batch_size", Experiment(), Experiment(server=ServerConfig(epochs=0))),
        ("server.epochs", Experiment(server=ServerConfig(epochs=0)), Experiment(method="fedlora")),
        ("server.aggregator", Experiment(method="promptfl"), Experiment(method="zero-shot")),
        ("lora.rank", Experiment(method="ffa-lora"), Experiment(method="promptfl")),
        ("rl.clip", Experiment(method="fedlora"), Experiment(method="fedlora", schedule=SFT)),
        ("fedclip.loss", Experiment(method="fedclip"), Experiment()),
    ],
)
def test_a_setting_has_an_effect_on_the_methods_that_use_it(
    key: str, with_it: Experiment, without_it: Experiment
) -> None:
    assert has_effect(with_it, key)
    assert not has_effect(without_it, key)
