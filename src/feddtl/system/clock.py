"""The simulated clock: how long a client's update takes in virtual seconds, and which updates are lost.

seconds = images · epochs · seconds_per_image · slowness(client) + 8 · bytes / bandwidth.

Virtual time depends only on the experiment, not on how long the simulation takes. The server's own work takes no
virtual time.
"""

from __future__ import annotations

import math

from feddtl.config import SystemConfig
from feddtl.seeding import numpy_generator


class Clock:
    """Speeds and lost updates of the clients of a run.

    Args:
        config: Speeds, bandwidth and probability of loss.
        clients: K, number of clients.
        seed: Seed of the run.
    """

    def __init__(self, config: SystemConfig, clients: int, seed: int) -> None:
        self._config = config
        self._seed = seed
        order = numpy_generator(seed, "stragglers").permutation(clients)
        self._stragglers = frozenset(int(client) for client in order[: round(config.slow_share * clients)])

    def slowness(self, client: int) -> float:
        """exp(σ·ξ) with ξ ~ N(0, 1) drawn once per client, multiplied by the factor of a straggler."""
        normal = float(numpy_generator(self._seed, "slowness", client).standard_normal())
        factor = self._config.slow_factor if client in self._stragglers else 1.0
        return factor * math.exp(self._config.speed_spread * normal)

    def seconds(self, client: int, images: int, epochs: int, transferred: int) -> float:
        """Virtual seconds of one update.

        Args:
            client: The client that trains.
            images: Number of its training images.
            epochs: Local epochs.
            transferred: Bytes that it receives and sends.
        """
        training = images * epochs * self._config.seconds_per_image * self.slowness(client)
        return training + 8 * transferred / (self._config.bandwidth_mbit * 1e6)

    def loses(self, client: int, number: int) -> bool:
        """Whether an update of a client is lost.

        Args:
            client: The client that trains.
            number: Number of the update: the round, or in asynchronous runs the count of started updates.
        """
        return float(numpy_generator(self._seed, "dropout", client, number).random()) < self._config.dropout
