"""Parts of the reference loop: settings, images, state, and the formulas of the RL stage."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Adapter = dict[str, Tensor]
# (purpose, numbers such as client and round) -> generator; a test injects feddtl's draws here.
Draws = Callable[..., torch.Generator]
Roles = Literal["per-role", "per-sample", "once"]


@dataclass(frozen=True)
class Compute:
    """How a tower is run.

    Attributes:
        precision: 'bfloat16' casts the frozen weights, adapters stay float32; 'autocast' also computes the
            adapters in bfloat16, by torch.autocast over bfloat16 weights. 'float64' is for tests.
        attention: Attention implementation of transformers.
        device: PyTorch's name of the device.
        evaluation_batch: Images per forward pass without gradients.
        padding: Prompts up to the longest one, or up to the tower's context.
    """

    precision: Literal["float32", "bfloat16", "autocast", "float64"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    device: str = "cpu"
    evaluation_batch: int = 128
    padding: Literal["longest", "max_length"] = "longest"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights and the images."""
        return torch.bfloat16 if self.precision == "autocast" else getattr(torch, self.precision)

    @property
    def joint_dtype(self) -> torch.dtype:
        """Type of embeddings, logits and losses."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def context(self) -> AbstractContextManager[Any]:
        """Context of every forward pass."""
        wanted = self.precision == "autocast"
        return torch.autocast(torch.device(self.device).type, torch.bfloat16) if wanted else nullcontext()


@dataclass(frozen=True)
class Settings:
    """The paper's constants, as in `feddtl.config`; `roles` says which passes an RL step makes.

    'per-role': sample, reference and update, one forward each. 'per-sample': one forward for each of the group's
    samples, one for the reference, one for the update. 'once': sample and reference before the first epoch only.
    """

    rounds: int = 20
    sft_rounds: int = 10
    sft_epochs: int = 2
    rl_epochs: int = 3
    server_epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 1e-3
    rank: int = 4
    lora_alpha: int = 4
    group_size: int = 3
    noise_std: float = 0.1
    clip: float = 0.2
    kl_weight: float = 0.5
    anchor_weight: float = 0.5
    seed: int = 0
    roles: Roles = "per-role"


@dataclass(frozen=True)
class Images:
    """Preprocessed images (N, 3, H, W) and their labels (N,)."""

    pixels: Tensor
    labels: Tensor

    def to(self, compute: Compute) -> Images:
        """On the device, in the precision of the frozen weights."""
        return Images(self.pixels.to(compute.device, compute.dtype), self.labels.to(compute.device))


@dataclass(frozen=True)
class Federation:
    """All images, in memory; `shares` are indices into `test_base` by client."""

    clients: Sequence[Images]
    test_base: Images
    test_novel: Images
    shares: Sequence[Tensor]
    base_prompts: Sequence[str]
    novel_prompts: Sequence[str]


@dataclass(frozen=True)
class State:
    """State of the server between rounds."""

    image: Adapter
    text: Adapter
    anchor: Adapter


def seeded(seed: int) -> Draws:
    """Generators that depend on the seed, the purpose and the numbers alone."""
    return lambda *key: torch.Generator().manual_seed(zlib.crc32(repr((seed, *key)).encode()))


def at_actions(logits: Tensor, actions: Tensor) -> Tensor:
    """log π(a|x): logits (B, C), actions (G, B) -> (G, B)."""
    return logits.log_softmax(dim=-1).T.gather(0, actions)


def bounded_exp(x: Tensor, limit: float = 10.0) -> Tensor:
    """exp, continued by its tangent above the limit: at logit scale 100 a plain exp overflows."""
    return x.clamp(max=limit).exp() * (1 + (x - limit).relu())


def average(adapters: Sequence[Adapter], counts: Sequence[int]) -> Adapter:
    """Σ_k N_k/N · w_k."""
    total = sum(counts)
    pairs = list(zip(adapters, counts, strict=True))
    return {name: torch.stack([adapter[name] * (n / total) for adapter, n in pairs]).sum(0) for name in adapters[0]}


def mixed(anchor: Adapter, received: Adapter, share: float) -> Adapter:
    """Adapter of twice the rank whose B·A is share · anchor + (1 - share) · received."""
    return {
        name: torch.cat([anchor[name], received[name]])
        if "lora_A" in name
        else torch.cat([share * anchor[name], (1 - share) * received[name]], dim=1)
        for name in received
    }
