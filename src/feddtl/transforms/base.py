"""The interface of a transform: it changes an update on the client, and undoes or checks that on the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from feddtl.config import UplinkConfig
from feddtl.errors import ClientError
from feddtl.messages import ExpectedUpdate, Update
from feddtl.models.lora import Tensors
from feddtl.seeding import torch_generator


class RejectedUpdateError(ClientError):
    """An update that no honest client sends; the message names the fault."""


@dataclass(frozen=True)
class Exchange:
    """The exchange that an update belongs to; both sides know it.

    Attributes:
        client: The client that sends the update.
        round: The round of the update.
        received: The tensors that the client started from, by their name in `Update.weights`, on the CPU.
        seed: Seed of the experiment.
    """

    client: int
    round: int
    received: Mapping[str, Tensor]
    seed: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator for one purpose, the same on both sides."""
        return torch_generator(self.seed, purpose, self.client, self.round)


@dataclass(frozen=True)
class Aggregation:
    """One aggregation of a run.

    Attributes:
        clients: How many clients' updates it combines.
        number: Number of the aggregation, from 1: the round, or in asynchronous runs the number of updates so far.
        seed: Seed of the experiment.
    """

    clients: int
    number: int
    seed: int

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator for one purpose in this aggregation."""
        return torch_generator(self.seed, purpose, self.number)


class Transform:
    """A member of the chain; the default changes nothing.

    Args:
        config: Settings of the uplink.

    Attributes:
        summable: Whether the encoded weights can still be summed over clients, as secure aggregation needs.
    """

    summable: bool = True

    def __init__(self, config: UplinkConfig) -> None:
        self.config = config

    def expected(self, expected: ExpectedUpdate) -> ExpectedUpdate:
        """Names, shapes and types of an encoded update, given those of the update.

        Raises:
            ConfigError: The transform cannot be used with such an update, for instance one with a row for every image.
        """
        return expected

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """On the client: the encoded update. Raises ClientError if it cannot be sent."""
        return update

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """On the server: the decoded update. Raises RejectedUpdateError for one that `encode` cannot have produced."""
        return update

    def after_aggregation(self, aggregate: Tensors, aggregation: Aggregation) -> Tensors:
        """On the server: the aggregate of the decoded weights, changed, for instance with noise added."""
        return aggregate
