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
# Case, accents in both Unicode forms, blanks, punctuation, ligatures, special tokens.
PROBES = (
    "A Photo of 12 caf\u00e9s, cafe\u0301s!",
    "two  blanks\tand 's_\ufb01\u00df",
    "\u732b \U0001f600 <|endoftext|> <eos>",
)


def digests_in_memory(model: Any) -> Digests:
    """Hashes of the weights that a module has at the time of the call."""

    def digests(names: Collection[str]) -> dict[str, str]:
        return digest_each(names, model.state_dict().__getitem__)

    return digests


def digest_each(names: Collection[str], read: Callable[[str], Tensor]) -> dict[str, str]:
    """`tensor_digest` of each tensor, in threads. `read` gives a tensor by name."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: tensor_digest(read(name)), names), strict=True))


def names_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of floating-point tensors with NaN or infinite values, in order; found in threads."""

    def is_finite(tensor: Tensor) -> bool:
        if not tensor.numel() or not tensor.is_floating_point():
            return True
        # NaN is passed on by both; a Boolean for each value would cost a third pass.
        least, most = torch.aminmax(tensor.detach())
        return bool(least.isfinite() and most.isfinite())

    with ThreadPoolExecutor() as pool:
        finite = pool.map(is_finite, tensors.values())
        return [name for name, good in zip(tensors, finite, strict=True) if not good]


def tensor_digest(tensor: Tensor) -> str:
    """Hash of a tensor's type, shape and values, whatever device it is on."""
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    array: NDArray[np.uint8] = content.reshape(-1).view(torch.uint8).numpy()
    digest.update(array.data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of a tokenizer of transformers: its vocabulary, and the ids of texts that its other rules decide."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([vocabulary, tokenizer(list(PROBES))["input_ids"]]).encode()).hexdigest()


def joint_digest(digests: Mapping[str, str]) -> str:
    """Hash of several tensors by their names and hashes."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()
