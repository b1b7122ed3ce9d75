"""AFedPG: the server applies each update when it arrives (Lan et al. 2024, arXiv 2404.08003), for any method.

The paper sends one policy gradient per visit; a method here has local training, and possibly training on the server.
Therefore, the gradient is replaced by the step that the method would make if this were the only update of a round.
With b as the state that the client started from:

    Δ = aggregate(b, [update]) - b,    d ← (1 - α) d + α Δ,    w ← w + η · ℓ · d/‖d‖,
    broadcast point b = w + (1 - α)/α · (w - w before the last step).

Our choices: α is constant (in the paper, it decreases with the number of updates). ℓ is the mean length of the
directions of about one round, so that steps are normalised without a length known in advance.
η = rate · N_k/N̄ · 1/m · (1 + delay/m)^-a, so that m updates without delay move the model as far as one synchronous
round. Tensors that an update does not change stay unchanged. With one client, no delay and α = rate = 1, this is
`aggregate` itself. All arithmetic is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feddtl.config import AFedPGConfig
from feddtl.models.lora import Tensors


@dataclass(frozen=True)
class ServerMomentum:
    """Momentum of the server's model.

    Attributes:
        previous: The model before the last step; empty before the first.
        direction: d, in float64; empty before the first step.
        length: ℓ; 0 before the first step.
    """

    previous: Tensors = field(default_factory=dict)
    direction: Tensors = field(default_factory=dict)
    length: float = 0.0


def look_ahead(model: Tensors, momentum: ServerMomentum, weight: float) -> Tensors:
    """w + (1 - α)/α · (w - w before): the point from which a new client starts.

    Args:
        model: w, named tensors.
        momentum: Momentum of the server.
        weight: α.
    """
    if not momentum.previous or weight == 1:
        return model
    ahead = (1 - weight) / weight
    return {
        name: (tensor.double() + ahead * (tensor.double() - momentum.previous[name].double())).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in model.items()
    }


def step_rate(config: AFedPGConfig, image_share: float, delay: int, updates_per_round: int) -> float:
    """η = rate · N_k/N̄ · 1/m · (1 + delay/m)^-a.

    Args:
        config: Rate and exponent.
        image_share: N_k/N̄, the client's training images over the mean of all clients.
        delay: Number of updates applied since the client started.
        updates_per_round: m.
    """
    discount = math.pow(1 + delay / updates_per_round, -config.delay_exponent)
    return config.server_rate * image_share / updates_per_round * discount


def step(
    model: Tensors,
    begun: Mapping[str, Tensor],
    reached: Mapping[str, Tensor],
    momentum: ServerMomentum,
    *,
    rate: float,
    weight: float,
    updates_per_round: int,
) -> tuple[Tensors, ServerMomentum]:
    """The server's model after one update, and its momentum.

    Args:
        model: w, named tensors.
        begun: b, the state that the client started from.
        reached: Result of aggregating only this update with b.
        momentum: Momentum of the server.
        rate: η.
        weight: α.
        updates_per_round: m; ℓ forgets older directions at the rate 1/m.
    """
    direction = dict(momentum.direction)
    moved = [name for name, tensor in reached.items() if not torch.equal(tensor, begun[name])]
    floating = [name for name in moved if reached[name].is_floating_point()]
    for name in floating:
        change = reached[name].double() - begun[name].double()
        direction[name] = (1 - weight) * direction[name] + weight * change if name in direction else change
    norm = math.sqrt(sum(float(direction[name].square().sum()) for name in floating))
    length = momentum.length + (norm - momentum.length) / updates_per_round if momentum.length else norm
    factor = rate * length / norm if norm else 0.0
    after = dict(model)
    for name in moved:
        after[name] = reached[name]
    for name in floating:
        after[name] = (model[name].double() + factor * direction[name]).to(model[name].dtype)
    return after, ServerMomentum(model, direction, length)
