"""Uploads as 16-bit floats: half of the bytes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from feddtl.errors import ClientError
from feddtl.messages import ExpectedUpdate, Update
from feddtl.models.lora import Tensors
from feddtl.transforms.base import Exchange, Transform


class Float16(Transform):
    """Sends the *change* of each weight as float16, and the values with a row per image as float16.

    The change is smaller than the weight, so rounding it costs less: at most 2⁻¹¹ of the change.
    """

    def expected(self, expected: ExpectedUpdate) -> ExpectedUpdate:
        """The same names and shapes, floating numbers as float16."""
        weights = {name: _as_half(tensor) for name, tensor in expected.weights.items()}
        return replace(expected, weights=weights, embedding_type=torch.float16)

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """float16(w_k − w)."""
        changes = {name: tensor - exchange.received[name] for name, tensor in update.weights.items()}
        return replace(update, weights=_finite_halves(changes), samples=_finite_halves(update.samples))

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """w + change, in float32."""
        weights = {name: exchange.received[name] + change.float() for name, change in update.weights.items()}
        samples = {name: rows.float() if rows.is_floating_point() else rows for name, rows in update.samples.items()}
        return replace(update, weights=weights, samples=samples)


def _as_half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _finite_halves(tensors: Tensors) -> Tensors:
    """Raises ClientError for a finite value that float16 cannot represent."""
    halves = {name: _as_half(tensor) for name, tensor in tensors.items()}
    for name, half in halves.items():
        if half.is_floating_point() and bool((half.isinf() & tensors[name].isfinite()).any()):
            raise ClientError(
                f"'{name}' holds a value beyond 65504, the largest of float16; nothing was sent.",
                "Remove float16 from uplink.transforms, or lower local.learning_rate.",
            )
    return halves
