"""Linear layers as named tensors, with the initial values that PyTorch or a paper gives them."""

from __future__ import annotations

import math

import torch

from feddtl.models.lora import Tensors
from feddtl.seeding import torch_generator


def initial_linear(name: str, rows: int, columns: int, seed: int) -> Tensors:
    """`<name>.weight` (rows, columns) and `<name>.bias` (rows,) ~ U(-1/√columns, 1/√columns), as `torch.nn.Linear`."""
    generator = torch_generator(seed, f"linear/{name}")
    bound = 1 / math.sqrt(columns)
    weight, bias = (bound * (2 * torch.rand(size, generator=generator) - 1) for size in ((rows, columns), (rows,)))
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def kaiming_linear(name: str, rows: int, columns: int, seed: int) -> Tensors:
    """`<name>.weight` (rows, columns) ~ N(0, 2/rows), Kaiming's deviation for fan-out (He et al. 2015, eq. 14), and a
    zero `<name>.bias` (rows,)."""
    weight = torch.randn(rows, columns, generator=torch_generator(seed, f"linear/{name}"))
    return {f"{name}.weight": math.sqrt(2 / rows) * weight, f"{name}.bias": torch.zeros(rows)}
