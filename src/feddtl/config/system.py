"""Who takes part, when the server steps, and the simulated clock: policies that go with any method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from feddtl.checks import check_fields, require


@dataclass(frozen=True)
class SystemConfig:
    """Choice of clients, kind of aggregation, and the simulated speed of clients and network."""

    selection: Literal["uniform", "all", "fedppo"] = "uniform"
    """'uniform': a random sample of `participation`, so everyone at 1; 'all': everyone, refused with a lower
    `participation`; 'fedppo': a sample of `participation` that is learned by PPO."""
    mode: Literal["sync", "async"] = "sync"
    """'sync': the server waits for all clients of a round; 'async': it applies each update when it arrives (AFedPG)."""
    seconds_per_image: float = 0.01
    """Virtual seconds in which a client of slowness 1 trains one image for one epoch (ours)."""
    speed_spread: float = 0.0
    """Standard deviation of the logarithm of a client's slowness; 0: all are alike (ours)."""
    slow_share: float = 0.0
    """Share of the clients that are stragglers (ours: none)."""
    slow_factor: float = 10.0
    """How many times longer a straggler trains (ours)."""
    bandwidth_mbit: float = 20.0
    """Megabits a second between a client and the server, in both directions (ours)."""
    dropout: float = 0.0
    """Probability that the update of a client that started is lost (ours: none)."""

    def __post_init__(self) -> None:
        check_fields("system", self)
        require(self.seconds_per_image > 0, "system.seconds_per_image", self.seconds_per_image, "a number above 0")
        require(0 <= self.speed_spread <= 10, "system.speed_spread", self.speed_spread, "0 to 10 (exp fits a float)")
        require(0 <= self.slow_share <= 1, "system.slow_share", self.slow_share, "0 to 1")
        require(self.slow_factor >= 1, "system.slow_factor", self.slow_factor, "1 or more")
        require(self.bandwidth_mbit > 0, "system.bandwidth_mbit", self.bandwidth_mbit, "a number above 0")
        require(0 <= self.dropout < 1, "system.dropout", self.dropout, "0 or more, below 1")


@dataclass(frozen=True)
class FedPPOConfig:
    """FedPPO: the clients of a round are chosen by a policy that learns from their accuracies."""

    validation_share: float = 0.1
    """Share of each client's training images, at least one, that is not trained on but measures the reward (ours;
    the original measures it on test images)."""
    hidden_width: int = 64
    """Width of the hidden layer of actor and critic (ours)."""
    learning_rate: float = 1e-3
    """Adam's learning rate (FedPPO: 1e-3)."""
    discount: float = 0.7
    """Discount gamma of later rewards (FedPPO: 0.7)."""
    clip: float = 0.2
    """Clip range of the probability ratio (FedPPO: 0.2)."""
    epochs: int = 5
    """Gradient steps on the collected rounds at each update (FedPPO: 5)."""
    update_every: int = 5
    """Rounds between two updates of the policy (FedPPO: 5)."""
    value_weight: float = 0.5
    """Weight of the critic's squared error (ours)."""

    def __post_init__(self) -> None:
        check_fields("fedppo", self)
        require(0 < self.validation_share < 1, "fedppo.validation_share", self.validation_share, "between 0 and 1")
        require(self.hidden_width >= 1, "fedppo.hidden_width", self.hidden_width, "1 or more")
        require(0 < self.learning_rate <= 1, "fedppo.learning_rate", self.learning_rate, "above 0, up to 1")
        require(0 <= self.discount < 1, "fedppo.discount", self.discount, "0 or more, below 1")
        require(0 < self.clip < 1, "fedppo.clip", self.clip, "between 0 and 1")
        require(self.epochs >= 1, "fedppo.epochs", self.epochs, "1 or more")
        require(self.update_every >= 1, "fedppo.update_every", self.update_every, "1 or more")
        require(self.value_weight >= 0, "fedppo.value_weight", self.value_weight, "0 or more")


@dataclass(frozen=True)
class AFedPGConfig:
    """AFedPG: the asynchronous server's normalised steps and its look-ahead."""

    server_rate: float = 1.0
    """Step size in units of a synchronous round: that many updates without delay move as far as one round (ours)."""
    direction_weight: float = 0.5
    """Share alpha of an arriving update in the direction; clients start (1 - alpha)/alpha steps ahead of the server's
    model, and 1 is neither momentum nor look-ahead (AFedPG: falls with the number of updates; ours: constant)."""
    delay_exponent: float = 0.5
    """Exponent a of the factor (1 + delay/m)^-a of a step, the delay in updates and m of them in a round; 0: no
    discount (ours)."""

    def __post_init__(self) -> None:
        check_fields("afedpg", self)
        require(self.server_rate > 0, "afedpg.server_rate", self.server_rate, "a number above 0")
        require(0 < self.direction_weight <= 1, "afedpg.direction_weight", self.direction_weight, "above 0, up to 1")
        require(self.delay_exponent >= 0, "afedpg.delay_exponent", self.delay_exponent, "0 or more")


def clients_at_a_time(clients: int, participation: float) -> int:
    """m = ⌈participation · K⌉: clients that train at a time, and updates in a round."""
    # Rounded first: 0.07 · 100 is 7.000000000000001 in binary floating point.
    return max(1, math.ceil(round(participation * clients, 9)))
