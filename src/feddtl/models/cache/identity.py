"""What decides the output of frozen blocks: the name under which a cache keeps it."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.models.cache.packed import StoredPrecision
from feddtl.models.image_tower import ImageTower

# Of everything that is not named below: how images are decoded, views drawn, rows rounded and files laid out.
FORMAT = 1


def prefix_identity(tower: ImageTower, stop: int, stored: StoredPrecision) -> dict[str, Any]:
    """Everything that decides `tower.prefix(·, stop)` as it is kept, as JSON; 'name' is for readers only.

    The device changes the last digits alone, but a result must not depend on which run filled the cache.
    """
    return {
        "name": tower.name,
        "format": FORMAT,
        "weights": weights_digest(tower.prefix_weights(stop)),
        "architecture": tower.architecture,
        "preprocessing": json.loads(json.dumps(tower.preprocessing.identity(), default=str)),
        "block": stop,
        "blocks": len(tower.stack),
        "stored": stored,
        "precision": str(tower.precision).removeprefix("torch."),
        "device": tower.device.type,
    }


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Hash of tensors by name, whatever device they are on."""
    with ThreadPoolExecutor() as pool:
        parts = dict(zip(weights, pool.map(_tensor_digest, weights.values()), strict=True))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    array: NDArray[np.uint8] = content.reshape(-1).view(torch.uint8).numpy()
    digest.update(array.data)
    return digest.hexdigest()
