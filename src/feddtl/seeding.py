"""All randomness is drawn from (seed, purpose, numbers such as client and round).

No generator is shared between purposes, so a result does not depend on the order in which clients run,
on the number of loading threads, or on interruptions.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """63-bit seed, equal in every process and on every machine."""
    key = "/".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """CPU generator: numbers are drawn on the CPU and moved, so a GPU run uses the same noise."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *numbers))


def numpy_generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """NumPy generator for index and label work."""
    return np.random.default_rng(derive_seed(seed, purpose, *numbers))
