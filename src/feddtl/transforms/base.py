"""What a transform is: it changes an update on the client and undoes or checks that on the server."""

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
    """An update that no honest client sends; the message says what is wrong with it."""


@dataclass(frozen=True)
class Exchange:
    """The exchange that an update belongs to, known on both sides.

    Attributes:
        client: Who sends it.
        round: In which round.
        received: The tensors that the client started from, by their name in `Update.weights`, on the CPU.
        seed: Of the experiment.
    """

    client: int
    round: int
    received: Mapping[str, Tensor]
    seed: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """Fresh generator for one purpose, the same on both sides."""
        return torch_generator(self.seed, purpose, self.client, self.round)


@dataclass(frozen=True)
class Aggregation:
    """One aggregation of a run.

    Attributes:
        clients: How many clients' updates it combines.
        number: Of the aggregation, from 1: the round, or in asynchronous runs the number of updates so far.
        seed: Of the experiment.
    """

    clients: int
    number: int
    seed: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """Fresh generator for one purpose in this aggregation."""
        return torch_generator(self.seed, purpose, self.number)


class Transform:
    """A member of the chain; the default changes nothing.

    Args:
        config: Settings of the uplink, of which a transform may have some.

    Attributes:
        summable: Whether the weights that it yields can still be summed over clients, as secure aggregation needs.
    """

    summable: bool = True

    def __init__(self, config: UplinkConfig) -> None:
        self.config = config

    def expected(self, expected: ExpectedUpdate) -> ExpectedUpdate:
        """Names, shapes and types of what `encode` yields from an update with these.

        Raises:
            ConfigError: The transform cannot do what it promises for such an update, say protect rows of single images.
        """
        return expected

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """On the client: what is sent in place of the update. Raises ClientError where it cannot be sent."""
        return update

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """On the server: what was encoded. Raises RejectedUpdateError for what no `encode` yields."""
        return update

    def after_aggregation(self, aggregate: Tensors, aggregation: Aggregation) -> Tensors:
        """On the server: what becomes of the aggregate of the decoded weights."""
        return aggregate
