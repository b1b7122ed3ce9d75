"""What an attack is: wrong labels to train on, or another upload in the place of an honest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feddtl.config import Experiment
from feddtl.messages import Update
from feddtl.seeding import numpy_generator


@dataclass(frozen=True)
class Knowledge:
    """What a hostile client knows when it makes its upload.

    Attributes:
        received: The tensors that it started from, by their name in `Update.weights`.
        honest: What the honest clients of the round sent: hostile ones know everything, and send last.
        classes: C, number of base classes.
        most_images: The largest number of images that the server believes; None: any.
        generator: Fresh for this client and round.
    """

    received: Mapping[str, Tensor]
    honest: Sequence[Update]
    classes: int
    most_images: int | None
    generator: torch.Generator


class Attack:
    """What a hostile client does; the default is honest.

    Args:
        scale: How strong, in the attack's own unit.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """The labels (N,) that the client trains on, instead of its own."""
        return labels

    def upload(self, update: Update, known: Knowledge) -> Update:
        """What the client sends, instead of what it trained."""
        return update


def hostile_clients(experiment: Experiment) -> list[int]:
    """The hostile clients of an experiment, drawn from its seed; none without an attack, or with nothing to train."""
    count, clients = experiment.hostile_count, experiment.data.client_count
    if not count or not experiment.trains:
        return []
    drawn = numpy_generator(experiment.seed, "hostile-clients").permutation(clients)[:count]
    return sorted(int(client) for client in drawn)
