"""Evaluation and computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from feddtl.checks import Above, AtLeast, Settings

CACHE_OFF = "off"  # in place of a folder
ScoredImages = Literal["test", "held-back"]
SCORED_IMAGES: dict[str, str] = {"test": "test images", "held-back": "held-back training images"}
"""What is scored, as tables and messages name it."""


@dataclass(frozen=True)
class EvaluationConfig(Settings, table="evaluation"):
    """How often and what to score; it changes the training only in that held-back images are not trained on."""

    every: Annotated[int, AtLeast(1)] = 1
    """Evaluate after every n-th round; the last round is always evaluated."""
    client_models: Literal["last", "every", "never"] = "last"
    """When each client's own model is scored on all base and novel test images as well."""
    images: ScoredImages = "test"
    """What is scored: the test images, or, to choose a setting without them, training images that are held back from
    training."""
    held_back_share: Annotated[float, Above(0, below=1)] = 0.2
    """Fraction of the training images of each class and domain, at least one image, that 'held-back' takes out of
    training and scores (ours)."""

    @property
    def held_back(self) -> float:
        """The share of the training images that is held back; 0 where test images are scored."""
        return self.held_back_share if self.images == "held-back" else 0.0


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
    """Storage precision of the frozen blocks' output; 'auto': that of the arithmetic, float32 or bfloat16. float16, and
    int8 with one scale per token, take less space."""
    cache_folder: str = ""
    """Cache folder of activations for later runs; empty: FEDDTL_CACHE or ~/.cache/feddtl; 'off': no cache."""
    cache_disk_gb: Annotated[float, Above(0)] = 20.0
    """Maximum gigabytes (10^9 bytes) of activations on disk; the least recently used are removed first."""
    cache_memory_gb: Annotated[float, AtLeast(0)] = 4.0
    """Maximum gigabytes of activations in memory; the rest are read from the cache on disk."""
