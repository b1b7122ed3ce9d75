"""Client selection, server mode and the simulated clock: policies that work with any method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, Settings


@dataclass(frozen=True)
class SystemConfig(Settings, table="system"):
    """Choice of clients, kind of aggregation, and the simulated speed of clients and network."""

    selection: Literal["uniform", "all", "fedppo"] = "uniform"
    """'uniform': a random sample of size `participation`, so all clients at 1; 'all': all clients, refused with a lower
    `participation`; 'fedppo': a sample of size `participation` selected by a policy learned with PPO."""
    mode: Literal["sync", "async"] = "sync"
    """'sync': the server waits for all clients of a round; 'async': it applies each update when it arrives (AFedPG)."""
    seconds_per_image: Annotated[float, Above(0)] = 0.01
    """Virtual seconds in which a client of slowness 1 trains one image for one epoch (ours)."""
    speed_spread: Annotated[float, AtLeast(0, up_to=10, note=" (exp fits a float)")] = 0.0
    """Standard deviation of the logarithm of a client's slowness; 0: all are alike (ours)."""
    slow_share: Annotated[float, AtLeast(0, up_to=1)] = 0.0
    """Fraction of the clients that are stragglers (ours: none)."""
    slow_factor: Annotated[float, AtLeast(1)] = 10.0
    """How many times longer a straggler trains (ours)."""
    bandwidth_mbit: Annotated[float, Above(0)] = 20.0
    """Megabits per second between a client and the server, in both directions (ours)."""
    dropout: Annotated[float, AtLeast(0, below=1)] = 0.0
    """Probability that the update of a client that started is lost (ours: none)."""


@dataclass(frozen=True)
class FedPPOConfig(Settings, table="fedppo"):
    """FedPPO: the clients of a round are chosen by a policy that learns from their accuracies."""

    validation_share: Annotated[float, Above(0, below=1)] = 0.1
    """Fraction of each client's training images, at least one image, held out to measure the reward (ours; the original
    measures it on test images)."""
    hidden_width: Annotated[int, AtLeast(1)] = 64
    """Width of the hidden layer of actor and critic (ours)."""
    learning_rate: Annotated[float, Above(0, up_to=1)] = 1e-3
    """Adam's learning rate (FedPPO: 1e-3)."""
    discount: Annotated[float, AtLeast(0, below=1)] = 0.7
    """Discount gamma of later rewards (FedPPO: 0.7)."""
    clip: Annotated[float, Above(0, below=1)] = 0.2
    """Clip range of the probability ratio (FedPPO: 0.2)."""
    epochs: Annotated[int, AtLeast(1)] = 5
    """Gradient steps on the collected rounds at each update (FedPPO: 5)."""
    update_every: Annotated[int, AtLeast(1)] = 5
    """Rounds between two updates of the policy (FedPPO: 5)."""
    value_weight: Annotated[float, AtLeast(0)] = 0.5
    """Weight of the critic's squared error (ours)."""


@dataclass(frozen=True)
class AFedPGConfig(Settings, table="afedpg"):
    """AFedPG: the asynchronous server's normalised steps and its look-ahead."""

    server_rate: Annotated[float, Above(0)] = 1.0
    """Step size in units of a synchronous round: that many updates without delay move as far as one round (ours)."""
    direction_weight: Annotated[float, Above(0, up_to=1)] = 0.5
    """Weight alpha of an arriving update in the direction; clients start (1 - alpha)/alpha steps ahead of the server's
    model, and 1 means no momentum and no look-ahead (AFedPG: decreases with the number of updates; ours: constant)."""
    delay_exponent: Annotated[float, AtLeast(0)] = 0.5
    """Exponent a of the factor (1 + delay/m)^-a of a step, the delay in updates and m of them in a round; 0: no
    discount (ours)."""


def clients_at_a_time(clients: int, participation: float) -> int:
    """m = ⌈participation · K⌉: clients that train at a time, and updates in a round."""
    # Rounded first: 0.07 · 100 is 7.000000000000001 in binary floating point.
    return max(1, math.ceil(round(participation * clients, 9)))
