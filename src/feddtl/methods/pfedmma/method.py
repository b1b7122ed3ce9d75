"""pFedMMA: adapters beside the last blocks of both towers, joined by a shared map (arXiv 2507.05394, 2025).

Block i becomes x ↦ block(x) + c · up(relu(shared(relu(down(LN_1 x))))), with c = 0.001 and LN_1 the block's own first
norm. `down` (32, d) and `up` (d, 32) belong to one tower, `shared` (32, 32) to one depth of both. Only the shared maps
are averaged and sent; the others stay on the client.

The backward pass leaves c out inside an adapter: with g the gradient at the block's output, its weights learn from g
and not from c · g, so that a step moves them as if the adapter were not scaled.

Choices: what goes on to x is the true gradient, with c in it, because without c eight adapters in a row would amplify
it. Depths are paired from the last block down, and a tower with fewer blocks has an adapter in all of them. The
global model is the averaged maps between everybody's initial `down` and `up`, since trained ones belong to one client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from feddtl.config import TrainingSettings
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.linear_layers import kaiming_linear
from feddtl.methods.pfedmma.settings import PFedMMASettings
from feddtl.methods.task import Task
from feddtl.models.lora import Tensors
from feddtl.models.towers import Beside


class PFedMMA(Method):
    """Federated averaging of the maps that join personal adapters of two towers."""

    Settings = PFedMMASettings
    settings: PFedMMASettings

    def __init__(self, task: Task, settings: Any, training: TrainingSettings) -> None:
        super().__init__(task, settings, training)
        stacks = (task.clip.image.stack, task.clip.text.stack)
        self._depth = min(settings.blocks, *map(len, stacks))
        self.first_image_block, self._first_text_block = (len(stack) - self._depth for stack in stacks)

    def initial_shared(self) -> Tensors:
        """`shared.<depth>` (32, 32) with its bias, depth 0 being the first block with an adapter."""
        width, seed = self.settings.width, self.task.seed
        tensors: Tensors = {}
        for depth in range(self._depth):
            tensors |= kaiming_linear(f"shared.{depth}", width, width, seed)
        return tensors

    def initial_personal(self, client: int) -> Tensors:
        """`image.down.<depth>`, `image.up.<depth>` and the same of 'text', equal for all clients."""
        width, seed = self.settings.width, self.task.seed
        tensors: Tensors = {}
        for tower, size in (("image", self.clip.image.width), ("text", self.clip.text.width)):
            for depth in range(self._depth):
                tensors |= kaiming_linear(f"{tower}.down.{depth}", width, size, seed)
                tensors |= kaiming_linear(f"{tower}.up.{depth}", size, width, seed)
        return tensors

    def global_tensors(self, state: ServerState) -> Tensors:
        """The averaged maps with the initial personal ones."""
        return {**self.trained_tensors(state), **self.initial_personal(0)}

    def image_features(self, tensors: Mapping[str, Tensor], activations: Tensor) -> Tensor:
        """Projected features (B, e) with an adapter beside each of the last blocks."""
        beside = self._beside("image", self.first_image_block, tensors)
        return self.clip.image.features(activations, self.first_image_block, beside=beside)

    def text_features(self, tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> Tensor:
        """Projected features (C, e) with an adapter beside each of the last blocks."""
        first = self._first_text_block
        return self.class_features(class_names, first, beside=self._beside("text", first, tensors))

    def _beside(self, tower: str, first: int, tensors: Mapping[str, Tensor]) -> Beside:
        """What the adapters add to the blocks of a tower, the first of them being that of depth 0."""
        return lambda block, normed: self._adapter(tensors, tower, block - first, normed)

    def _adapter(self, tensors: Mapping[str, Tensor], tower: str, depth: int, normed: Tensor) -> Tensor:
        names = (f"{tower}.down.{depth}", f"shared.{depth}", f"{tower}.up.{depth}")
        layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]
        return adapter_output(normed, layers, self.settings.scale)


def adapter_output(inputs: Tensor, layers: Sequence[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """c · up(relu(shared(relu(down x)))) of tokens (..., d), whose weights get the gradient without c.

    Args:
        inputs: x, (..., d).
        layers: Weight and bias of `down` (32, d), `shared` (32, 32) and `up` (d, 32).
        scale: c.
    """
    down, shared, up = [(weight.to(inputs.dtype), bias.to(inputs.dtype)) for weight, bias in layers]
    narrow = relu(linear(with_scaled_gradient(inputs, scale), *down))
    wide = linear(relu(linear(narrow, *shared)), *up)
    return scale * with_scaled_gradient(wide, 1 / scale)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


def with_scaled_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; the gradient that passes through them is multiplied by `factor`."""
    scaled: Tensor = _ScaledGradient.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled
