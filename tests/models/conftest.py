"""CLIP in double precision, so that equal formulas give equal numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from feddtl.backbones.clip import Clip, load_clip
from feddtl.models.lora import Lora, Tensors, layer_names


@pytest.fixture(scope="session")
def make_double_clip(make_clip: Callable[..., object]) -> Callable[..., Clip]:
    """`make_clip`, loaded and cast to float64; shared by all tests, so none may change it."""

    @cache
    def make(**options: object) -> Clip:
        clip = load_clip(str(make_clip(**options)))
        clip.model.double()
        return clip

    return make


@pytest.fixture(scope="session")
def double_clip(make_double_clip: Callable[..., Clip]) -> Clip:
    return make_double_clip()


@pytest.fixture(scope="session")
def random_factors() -> Callable[..., Tensors]:
    """Factors A and B of a rank for layers of (out, in), neither of them zero."""

    def make(
        shapes: dict[str, tuple[int, int]], rank: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        return {
            name + suffix: 0.2 * torch.randn(shape, generator=generator, dtype=dtype)
            for name, (rows, columns) in shapes.items()
            for suffix, shape in ((".lora_A.weight", (rank, columns)), (".lora_B.weight", (rows, rank)))
        }

    return make


@pytest.fixture(scope="session")
def dense_weights() -> Callable[[object, Lora], Tensors]:
    """W_0 + scaling · B·A for each adapted layer, by its parameter name: the definition of LoRA."""

    def make(model: object, lora: Lora) -> Tensors:
        frozen = dict(model.named_parameters())
        return {
            f"{name}.weight": frozen[f"{name}.weight"].detach()
            + lora.scaling * lora.factors[name + ".lora_B.weight"] @ lora.factors[name + ".lora_A.weight"]
            for name in layer_names(lora.factors)
        }

    return make
