"""Evaluation and computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, Settings

CACHE_OFF = "off"  # in place of a folder


@dataclass(frozen=True)
class EvaluationConfig(Settings, table="evaluation"):
    """How often and what to score; scoring never changes the training."""

    every: Annotated[int, AtLeast(1)] = 1
    """Evaluate after every n-th round; the last round is always evaluated."""
    client_models: Literal["last", "every", "never"] = "last"
    """When each client's own model is scored on all base and novel test images as well."""


@dataclass(frozen=True)
class ComputeConfig(Settings, table="compute"):
    """Device, precision and cache; these settings change results only by rounding."""

    device: str = "auto"
    """'auto' (a GPU if available), 'cpu', 'cuda', 'cuda:1', 'mps'."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the blocks; adapter parameters and logits stay float32. 'auto': the faster, measured once per
    machine."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention kernel of the trained blocks: PyTorch's fused one, or plain products. 'auto': the faster, measured
    once. Frozen blocks use the fused one."""
    clients_together: Annotated[int, AtLeast(0, meaning="automatic")] = 0
    """Number of clients trained together in one batched step; 0: as many as fill the device."""
    loading_threads: Annotated[int, AtLeast(0, meaning="all cores")] = 0
    """Threads that read and resize images; 0: one per core."""
    activations: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Storage precision of the frozen blocks' output; 'auto': bfloat16 if the arithmetic uses it, else
    float16; int8 has one scale per token."""
    cache_folder: str = ""
    """Cache folder of activations for later runs; empty: FEDDTL_CACHE or ~/.cache/feddtl; 'off': no cache."""
    cache_disk_gb: Annotated[float, Above(0)] = 20.0
    """Maximum gigabytes (10^9 bytes) of activations on disk; the least recently used are removed first."""
    cache_memory_gb: Annotated[float, AtLeast(0)] = 4.0
    """Maximum gigabytes of activations in memory; the rest are read from the cache on disk."""
