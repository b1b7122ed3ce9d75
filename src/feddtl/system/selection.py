"""Client selection. A selector is stateless: its memory is passed in and returned as tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from feddtl.config import clients_at_a_time
from feddtl.models.lora import Tensors
from feddtl.seeding import numpy_generator


@dataclass(frozen=True)
class Visit:
    """Measurements of a participating client on its own validation images.

    Attributes:
        received_accuracy: Accuracy of the model it received, 0 to 1.
        received_loss: Mean cross-entropy of the model it received.
        accuracy: Accuracy of its own model after training, 0 to 1.
        loss: Mean cross-entropy of its own model.
        images: Number of validation images.
    """

    received_accuracy: float
    received_loss: float
    accuracy: float
    loss: float
    images: int


class Selector(ABC):
    """Chooses the clients of each round.

    Attributes:
        learns: Whether `observe` uses visits; if not, clients need not measure.
    """

    learns: bool = False

    @abstractmethod
    def choose(self, memory: Tensors, round_number: int) -> list[int]:
        """Sorted ids of the clients of a round (numbered from 1); the same memory and round give the same clients."""

    def observe(self, memory: Tensors, round_number: int, visits: Mapping[int, Visit]) -> Tensors:
        """The memory after a round. `visits`: by client, for clients whose updates arrived."""
        return memory


class UniformSample(Selector):
    """A uniform sample without replacement; with a participation of 1, all clients."""

    def __init__(self, clients: int, participation: float, seed: int) -> None:
        self._clients = clients
        self._participation = participation
        self._seed = seed

    def choose(self, memory: Tensors, round_number: int) -> list[int]:
        """See `choose_clients`."""
        return choose_clients(self._clients, self._participation, self._seed, round_number)


def choose_clients(clients: int, participation: float, seed: int, round_number: int) -> list[int]:
    """Sorted ids of the clients of a round: a uniform sample of ⌈participation · K⌉ of them."""
    generator = numpy_generator(seed, "participation", round_number)
    chosen = generator.choice(clients, size=clients_at_a_time(clients, participation), replace=False)
    return sorted(int(client) for client in chosen)
