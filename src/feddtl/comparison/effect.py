"""Which settings have an effect on a method."""

from __future__ import annotations

from feddtl.config import Experiment
from feddtl.methods.catalog import method_entry, settings_table
from feddtl.methods.tables import settings_types

OF_SERVER_TRAINING = (
    *("server.epochs", "server.learning_rate", "server.batch_size"),
    "uplink.max_embeddings_per_class",
)


def has_effect(experiment: Experiment, key: str) -> bool:
    """Whether a setting of the training, by dotted key, has an effect on the experiment's method."""
    entry, table = method_entry(experiment.method), key.partition(".")[0]
    if not experiment.trains:
        return False
    if key in OF_SERVER_TRAINING:
        return entry.trains_on_server and (key == "server.epochs" or experiment.server.epochs > 0)
    if table == "lora":
        return entry.has_lora
    if table == "rl":
        return experiment.stages == "sft-then-rl"
    if table in settings_types(experiment.method):
        return table == settings_table(experiment.method)
    return True
