"""Groups of named tensors inside one flat dictionary: 'image/<name>', 'anchor/<name>'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddtl.models.lora import Tensors


def add_prefix(group: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors with `group/` in front of their names."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def select_prefix(tensors: Mapping[str, Tensor], group: str) -> Tensors:
    """The tensors of a group, without its prefix."""
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def keep_groups(tensors: Mapping[str, Tensor], *groups: str) -> Tensors:
    """The tensors of some groups, with their prefixes, in their order."""
    prefixes = tuple(f"{group}/" for group in groups)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}


def drop_groups(tensors: Mapping[str, Tensor], *groups: str) -> Tensors:
    """The tensors of all other groups, with their prefixes, in their order."""
    prefixes = tuple(f"{group}/" for group in groups)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def update_norm(weights: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """‖w_k - w‖₂ over all named tensors: how far a client moved in a round."""
    if not weights:
        return 0.0
    return float(torch.stack([(weights[name] - start[name]).square().sum() for name in weights]).sum().sqrt())
