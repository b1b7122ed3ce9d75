"""Settings that somebody changed and that have no effect in an experiment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from feddtl.attacks.catalog import ATTACKS
from feddtl.config.experiment import Experiment

OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay")
OF_SGD = ("momentum", "weight_decay")


def without_effect(experiment: Experiment, own_optimizer: Literal["adam", "sgd"]) -> list[str]:
    """A sentence for each setting that differs from its default and has no effect.

    Args:
        experiment: All settings.
        own_optimizer: What `local.optimizer = "auto"` stands for with its method.
    """
    local, server = experiment.local, experiment.server
    optimizer = own_optimizer if local.optimizer == "auto" else local.optimizer
    other = OF_SGD if optimizer == "adam" else OF_ADAM
    idle = {("local", name): f"clients train with local.optimizer = '{optimizer}'" for name in other}
    if not local.warmup_epochs:
        idle["local", "warmup_rate"] = "local.warmup_epochs is 0"
    if not server.trims:
        idle["server", "trim_share"] = f"server.aggregator is '{server.aggregator}'"
    if not experiment.attack.is_on:
        idle |= {("attack", name): "attack.name is 'none'" for name in ("share", "scale")}
    elif ATTACKS[experiment.attack.name].scale is None:
        idle["attack", "scale"] = f"attack.name is '{experiment.attack.name}'"
    tables: dict[str, Any] = {"local": local, "server": server, "attack": experiment.attack}
    for table, settings in experiment.methods.tables:
        if settings is not experiment.method_settings:
            tables[table] = settings
            idle |= {(table, field.name): f"method is '{experiment.method}'" for field in fields(settings)}
    found = []
    for (table, name), reason in idle.items():
        settings = tables[table]
        value = getattr(settings, name)
        if value != getattr(type(settings)(), name):
            found.append(f"{table}.{name} = {value!r} has no effect: {reason}.")
    return found
