"""What an aggregator is: the updates of a round in, one set of tensors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from feddtl.config import ServerConfig
from feddtl.messages import Update
from feddtl.models.lora import Tensors
from feddtl.tensor_groups import update_norm


class Aggregator(ABC):
    """Combines the weights that clients send.

    Args:
        config: Settings of the server, of which an aggregator may have some.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config

    @abstractmethod
    def combine(self, updates: Sequence[Update]) -> Tensors:
        """The aggregate of one update or more, by tensor name; new tensors, never aliases of what was sent."""

    def distance(self, weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor]) -> float:
        """How far a client's weights are from the aggregate: ‖w_k − w̄‖₂ unless factors mean something else."""
        return update_norm(weights, aggregate)


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
