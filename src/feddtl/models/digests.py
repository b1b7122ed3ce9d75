"""Hashes of weights by name: server and clients compare them, and the cache names a model's activations by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Names in the model's state dict to the hash of each tensor in float32, as it computes.
Digests = Callable[[Collection[str]], dict[str, str]]


def digests_in_memory(model: Any) -> Digests:
    """Hashes of the weights that a module has at the time of the call."""

    def digests(names: Collection[str]) -> dict[str, str]:
        return digest_each(names, model.state_dict().__getitem__)

    return digests


def digest_each(names: Collection[str], read: Callable[[str], Tensor]) -> dict[str, str]:
    """`tensor_digest` of each tensor, in threads. `read` gives a tensor by name."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: tensor_digest(read(name)), names), strict=True))


def tensor_digest(tensor: Tensor) -> str:
    """Hash of a tensor's type, shape and values, whatever device it is on."""
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    array: NDArray[np.uint8] = content.reshape(-1).view(torch.uint8).numpy()
    digest.update(array.data)
    return digest.hexdigest()


def joint_digest(digests: Mapping[str, str]) -> str:
    """Hash of several tensors by their names and hashes."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()
