"""What an aggregator is: the updates of a round in, one set of tensors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from feddtl.config import ServerConfig
from feddtl.messages import Aggregate, Update
from feddtl.models.lora import Tensors
from feddtl.tensor_groups import update_norm


class Aggregator(ABC):
    """Combines the weights that clients send.

    Args:
        config: Settings of the server, among them those of the aggregators.

    Attributes:
        compares_clients: Whether a client's share depends on what the others sent, so that the record names it.
    """

    compares_clients: ClassVar[bool] = False

    def __init__(self, config: ServerConfig) -> None:
        self.config = config

    @abstractmethod
    def combine(self, updates: Sequence[Update]) -> Aggregate:
        """The aggregate of one update or more; new tensors, never aliases of what was sent."""

    def distance(self, weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor]) -> float:
        """How far a client's weights are from the aggregate: ‖w_k − w̄‖₂ unless factors mean something else."""
        return update_norm(weights, aggregate)


class TensorAggregator(Aggregator):
    """An aggregator that combines each tensor by itself, in float64."""

    def shares(self, updates: Sequence[Update]) -> list[float]:
        """How much each client counts; sums to 1. Clients count alike by default."""
        return [1 / len(updates)] * len(updates)

    @abstractmethod
    def combine_tensor(self, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """The aggregate of one tensor of all clients, which count by their shares."""

    def combine(self, updates: Sequence[Update]) -> Aggregate:
        """See `Aggregator.combine`."""
        shares = self.shares(updates)
        combined: Tensors = {}
        for name, first in updates[0].weights.items():
            tensors = [update.weights[name].double() for update in updates]
            combined[name] = self.combine_tensor(tensors, shares).to(first.dtype)
        return Aggregate(combined, shares)


def sample_shares(updates: Sequence[Update]) -> list[float]:
    """N_k / N for each update."""
    total = sum(update.num_images for update in updates)
    return [update.num_images / total for update in updates]


def client_drift(aggregator: Aggregator, updates: Sequence[Update], aggregate: Mapping[str, Tensor]) -> float:
    """Mean over clients, weighted by their images, of the distance to the aggregate that was formed."""
    shares = sample_shares(updates)
    return sum(
        share * aggregator.distance(update.weights, aggregate) for share, update in zip(shares, updates, strict=True)
    )
