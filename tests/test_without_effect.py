"""Settings that somebody changed and that have no effect."""

from __future__ import annotations

from feddtl.config import Experiment, LocalConfig, ServerConfig
from feddtl.config.without_effect import without_effect
from feddtl.methods.fedclip.settings import FedCLIPSettings
from feddtl.methods.tables import MethodTables

LOSS = MethodTables.from_mapping({"fedclip": FedCLIPSettings(loss="contrastive")})


def test_defaults_and_settings_in_use_are_not_named() -> None:
    assert without_effect(Experiment(), "adam") == without_effect(Experiment(), "sgd") == []
    local = LocalConfig(warmup_epochs=1, warmup_rate=1e-4, adam_beta1=0.5)
    server = ServerConfig(aggregator="trimmed-mean", trim_share=0.3)
    assert without_effect(Experiment(method="fedclip", local=local, server=server, methods=LOSS), "adam") == []


def test_each_is_named_with_its_reason() -> None:
    local = LocalConfig(warmup_rate=1e-4, adam_beta1=0.5, momentum=0.5)
    experiment = Experiment(local=local, server=ServerConfig(trim_share=0.3), methods=LOSS)
    assert without_effect(experiment, "sgd") == [
        "local.adam_beta1 = 0.5 has no effect: clients train with local.optimizer = 'sgd'.",
        "local.warmup_rate = 0.0001 has no effect: local.warmup_epochs is 0.",
        "server.trim_share = 0.3 has no effect: server.aggregator is 'mean'.",
        "fedclip.loss = 'contrastive' has no effect: method is 'feddtl'.",
    ]
    assert "local.momentum = 0.5" in without_effect(experiment, "adam")[0]
