"""Scoring, and where and how the work runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, check_fields

CACHE_OFF = "off"  # in place of a folder


@dataclass(frozen=True)
class EvaluationConfig:
    """How often and how much is scored; scoring never changes the training."""

    every: Annotated[int, AtLeast(1)] = 1
    """Evaluate after every n-th round; the last round is always evaluated."""
    client_models: Literal["last", "every", "never"] = "last"
    """When each client's own model is scored on all base and novel test images as well."""

    def __post_init__(self) -> None:
        check_fields("evaluation", self)


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how the work runs; none of it changes what is computed, up to rounding."""

    device: str = "auto"
    """'auto' (a GPU when there is one), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the blocks; adapter parameters and logits stay float32. 'auto': the faster, measured once per
    machine."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention kernel of the trained blocks: PyTorch's fused one, or plain products. 'auto': the faster, measured
    once. Frozen blocks use the fused one."""
    clients_together: Annotated[int, AtLeast(0, meaning="automatic")] = 0
    """Clients whose steps run as one batched step; 0: as many as fill the device."""
    loading_threads: Annotated[int, AtLeast(0, meaning="all cores")] = 0
    """Threads that read and resize images; 0: one per core."""
    activations: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Precision in which the frozen blocks' output is kept; 'auto': bfloat16 where the arithmetic is, else
    float16; int8 has a scale per token."""
    cache_folder: str = ""
    """Where activations are kept for later runs; empty: FEDDTL_CACHE or ~/.cache/feddtl; 'off': nowhere."""
    cache_disk_gb: Annotated[float, Above(0)] = 20.0
    """Most gigabytes (10^9 bytes) of activations on disk; the longest unused go first."""
    cache_memory_gb: Annotated[float, AtLeast(0)] = 4.0
    """Most gigabytes of activations held in memory; beyond it they are read from the cache on disk."""

    def __post_init__(self) -> None:
        check_fields("compute", self)
