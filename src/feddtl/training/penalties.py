"""Penalties on the trained tensors, for any method: terms of a client's loss that see no image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from feddtl.config import LocalConfig

# A client's tensors -> a scalar that is added to its loss in every step
Penalty = Callable[[Mapping[str, Tensor]], Tensor]


def penalties_of(local: LocalConfig, received: Mapping[str, Tensor]) -> list[Penalty]:
    """The penalties that the settings ask for.

    Args:
        local: Settings of local training.
        received: The shared tensors that the server broadcast, on the device of the training.
    """
    if local.proximal_weight == 0:
        return []
    return [partial(proximal_term, received=received, weight=local.proximal_weight)]


def proximal_term(tensors: Mapping[str, Tensor], received: Mapping[str, Tensor], weight: float) -> Tensor:
    """μ/2 · ‖w − w_global‖² over the shared tensors (FedProx, Li et al., MLSys 2020, eq. 2).

    Args:
        tensors: A client's tensors; personal ones have no global counterpart and are left free.
        received: w_global.
        weight: μ.
    """
    distances = [(tensors[name] - start).square().sum() for name, start in received.items()]
    return weight / 2 * torch.stack(distances).sum()
