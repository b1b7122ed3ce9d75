"""Groups of named tensors inside one flat dictionary: 'visual/<name>', 'anchor/<name>'."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from feddtl.models.lora import Tensors


def under(group: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors with `group/` in front of their names."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def select(tensors: Mapping[str, Tensor], group: str) -> Tensors:
    """The tensors of a group, without its prefix."""
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
