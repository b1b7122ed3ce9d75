"""Adam and SGD on torch's own update functions.

`torch.optim`'s classes do the same, but the first of a process imports torch's compiler: 1.8 seconds of CPU, as long as
torch itself takes, in every process that answers one message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Optimizer(Protocol):
    """Moves parameters along their gradients; a parameter without a gradient stays as it is."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def step(self) -> None:
        """Take a step with the gradients that are there."""
        ...


class Adam:
    """Adam (Kingma and Ba 2015) with β = (0.9, 0.999) and ε = 1e-8, fused; equal to `torch.optim.Adam` in every bit.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self._parameters = list(parameters)
        self._learning_rate = learning_rate
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self._parameters]

    def zero_grad(self) -> None:
        """See `Optimizer.zero_grad`."""
        forget_gradients(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """See `Optimizer.step`."""
        moved, gradients = with_gradients(self._parameters)
        means, squares, steps = (
            [tensors[index] for index in moved] for tensors in (self._means, self._squares, self._steps)
        )
        adam(
            [self._parameters[index] for index in moved],
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


class SGD:
    """Gradient descent with momentum and weight decay; equal to `torch.optim.SGD` in every bit.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them.
        momentum: m of v ← m · v + g; the first v is g.
        weight_decay: λ of g ← g + λ · parameter.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self._parameters = list(parameters)
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocities: list[Tensor | None] = [None] * len(self._parameters)

    def zero_grad(self) -> None:
        """See `Optimizer.zero_grad`."""
        forget_gradients(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """See `Optimizer.step`."""
        moved, gradients = with_gradients(self._parameters)
        velocities = [self._velocities[index] for index in moved]
        sgd(
            [self._parameters[index] for index in moved],
            gradients,
            velocities,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self._learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # torch puts the first velocities into the list that it is given.
        for index, velocity in zip(moved, velocities, strict=True):
            self._velocities[index] = velocity


def with_gradients(parameters: Iterable[Tensor]) -> tuple[list[int], list[Tensor]]:
    """Positions of the parameters that have a gradient, and the gradients."""
    found = {index: tensor.grad for index, tensor in enumerate(parameters) if tensor.grad is not None}
    return list(found), list(found.values())


def forget_gradients(parameters: Iterable[Tensor]) -> None:
    """Leave no gradient, not even zeros."""
    for parameter in parameters:
        parameter.grad = None
