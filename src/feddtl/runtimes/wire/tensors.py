"""Tensors as arrays that travel, and arrays that arrived as tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.messages import ExpectedUpdate
from feddtl.models.lora import Tensors
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError, short

# A unit vector that was rounded to float16 is off by less.
UNIT_TOLERANCE = 1e-2


def to_arrays(tensors: Tensors, contract: Contract) -> dict[str, NDArray[Any]]:
    """Arrays in the precision of the contract; they share the tensors' memory where nothing is to be converted.

    Raises:
        RejectedMessageError: A value that the precision does not hold.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().numpy()
        if not tensor.is_floating_point():
            packed[name] = array.astype(np.int64, copy=False)
            continue
        with np.errstate(over="ignore"):
            packed[name] = array.astype(contract.precision, copy=False)
        if not np.isfinite(packed[name]).all():
            raise RejectedMessageError(f"'{name}' is not finite in {contract.precision}; nothing was sent.")
    return packed


def to_tensor(name: str, array: NDArray[Any], contract: Contract) -> Tensor:
    """An array as a tensor, float32 or int64, in the same memory where that may be written."""
    if array.dtype == np.int64:
        return torch.from_numpy(np.require(array, requirements="W"))
    if array.dtype != np.dtype(contract.precision):
        raise RejectedMessageError(f"'{name}' is {array.dtype}, not {contract.precision} or int64.")
    if not np.isfinite(array).all():
        raise RejectedMessageError(f"'{name}' holds NaN or infinite values.")
    return torch.from_numpy(np.require(array, np.float32, "W"))


def require_names(parcel: Parcel, expected: ExpectedUpdate) -> None:
    """Exactly the expected tensors, in their order. Raises RejectedMessageError naming the first that is not."""
    wanted = [f"weights/{name}" for name in expected.weights]
    wanted += [f"samples/{name}" for name in (*expected.embeddings, *expected.labels)]
    found = list(parcel.arrays)
    if found == wanted:
        return
    for position, name in enumerate(wanted):
        if position >= len(found) or found[position] != name:
            there = f"'{short(found[position])}'" if position < len(found) else "nothing"
            raise RejectedMessageError(f"Tensor {position + 1} is {there}, not '{name}'.")
    raise RejectedMessageError(f"There are {len(found)} tensors, not {len(wanted)}.")


def check_weights(weights: Tensors, sent: Tensors, max_norm: float) -> None:
    """Shapes, and the distance from what was sent. Raises RejectedMessageError."""
    total = 0.0
    for name, before in sent.items():
        _require_like(f"weights/{name}", weights[name], tuple(before.shape), before.is_floating_point())
        # In single precision, of which one more tensor is held; what overflows is infinitely far.
        total += float((weights[name] - before.cpu()).square_().sum())
    if not math.sqrt(total) <= max_norm:
        raise RejectedMessageError(
            f"The weights are {math.sqrt(total):.4g} away from what was broadcast; "
            f"deployment.max_update_norm = {max_norm:g}."
        )


def check_samples(samples: Tensors, expected: ExpectedUpdate, most: int, classes: int) -> None:
    """One row per image; unit rows; labels among the base classes.

    Args:
        samples: By name.
        expected: Their names and widths.
        most: Images that the client has.
        classes: C, number of base classes.

    Raises:
        RejectedMessageError: Anything else.
    """
    rows = {len(tensor) if tensor.ndim else -1 for tensor in samples.values()}
    if samples and (len(rows) != 1 or not 1 <= min(rows) <= most):
        raise RejectedMessageError(f"The samples have {sorted(rows)} rows, not one number from 1 to {most}.")
    for name, width in expected.embeddings.items():
        _require_like(f"samples/{name}", samples[name], (*rows, width), True)
        longest = float((samples[name].norm(dim=-1) - 1).abs().max())
        if longest > UNIT_TOLERANCE:
            raise RejectedMessageError(f"'samples/{name}' has a row whose length is {longest:.3g} away from 1.")
    for name in expected.labels:
        labels = samples[name]
        _require_like(f"samples/{name}", labels, (*rows,), False)
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise RejectedMessageError(f"'samples/{name}' holds class {wrong}, which is not among 0 to {classes - 1}.")


def _require_like(name: str, tensor: Tensor, shape: tuple[int, ...], floating: bool) -> None:
    if tuple(tensor.shape) != shape:
        raise RejectedMessageError(f"'{name}' has the shape {tuple(tensor.shape)}, not {shape}.")
    if tensor.is_floating_point() != floating:
        raise RejectedMessageError(f"'{name}' holds {tensor.dtype}, not {'floating' if floating else 'whole'} numbers.")
