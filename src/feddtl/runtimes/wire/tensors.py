"""Tensors as arrays that travel, and arrays that arrived as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.messages import ExpectedUpdate
from feddtl.models.lora import Tensors
from feddtl.runtimes.wire.contract import Parcel, Precision, RejectedMessageError, short

# Rounding a unit vector to float16 changes its length by less.
UNIT_TOLERANCE = 1e-2


def to_arrays(tensors: Tensors, precision: Precision | None = None) -> dict[str, NDArray[Any]]:
    """Arrays that share the tensors' memory unless they must be converted.

    Args:
        tensors: By name.
        precision: Of floating-point numbers; None leaves them as they are.

    Raises:
        RejectedMessageError: The precision cannot represent a value.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().numpy()
        if not tensor.is_floating_point():
            packed[name] = array.astype(np.int64, copy=False)
            continue
        with np.errstate(over="ignore"):
            packed[name] = array.astype(precision or array.dtype, copy=False)
        if not np.isfinite(packed[name]).all():
            raise RejectedMessageError(f"'{name}' is not finite in {packed[name].dtype}; nothing was sent.")
    return packed


def to_tensor(name: str, array: NDArray[Any], precision: str) -> Tensor:
    """An array as a tensor of its type, in the same memory if that is writable.

    Raises:
        RejectedMessageError: Neither of this precision nor int64.
    """
    if array.dtype == np.int64:
        return torch.from_numpy(np.require(array, requirements="W"))
    if array.dtype != np.dtype(precision):
        raise RejectedMessageError(f"'{name}' is {array.dtype}, not {precision} or int64.")
    return torch.from_numpy(np.require(array, requirements="W"))


def require_finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor. Raises RejectedMessageError for NaN or infinite values."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise RejectedMessageError(f"'{name}' holds NaN or infinite values.")
    return tensor


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


def check_weights(weights: Tensors, expected: Tensors) -> None:
    """Shapes, types, and then whether all values are finite. Raises RejectedMessageError."""
    for name, like in expected.items():
        _require_like(f"weights/{name}", weights[name], tuple(like.shape), like.dtype)


def check_samples(samples: Tensors, expected: ExpectedUpdate, most: int, classes: int) -> None:
    """One row per image; unit rows; labels among the base classes.

    Args:
        samples: By name.
        expected: Their names and widths.
        most: Number of the client's images.
        classes: C, number of base classes.

    Raises:
        RejectedMessageError: Anything else.
    """
    rows = {len(tensor) if tensor.ndim else -1 for tensor in samples.values()}
    if samples and (len(rows) != 1 or not 1 <= min(rows) <= most):
        raise RejectedMessageError(f"The samples have {sorted(rows)} rows, not one number from 1 to {most}.")
    for name, width in expected.embeddings.items():
        _require_like(f"samples/{name}", samples[name], (*rows, width), expected.embedding_type)
        longest = float((samples[name].float().norm(dim=-1) - 1).abs().max())
        if longest > UNIT_TOLERANCE:
            raise RejectedMessageError(f"'samples/{name}' has a row whose length is {longest:.3g} away from 1.")
    for name in expected.labels:
        labels = samples[name]
        _require_like(f"samples/{name}", labels, (*rows,), torch.int64)
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise RejectedMessageError(f"'samples/{name}' holds class {wrong}, which is not among 0 to {classes - 1}.")


def _require_like(name: str, tensor: Tensor, shape: tuple[int, ...], kind: torch.dtype) -> None:
    if tuple(tensor.shape) != shape:
        raise RejectedMessageError(f"'{name}' has the shape {tuple(tensor.shape)}, not {shape}.")
    if tensor.dtype != kind:
        raise RejectedMessageError(f"'{name}' holds {tensor.dtype}, not {kind}.")
    require_finite(name, tensor)  # last: the values of a tensor of a wrong shape are not worth a look
