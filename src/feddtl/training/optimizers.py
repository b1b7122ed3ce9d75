"""Adam and SGD on torch's own update functions.

`torch.optim`'s classes do the same, but the first of a process imports torch's compiler: 1.8 seconds of CPU, as long as
torch itself takes, in every process that answers one message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Optimizer(ABC):
    """Moves parameters along their gradients; a parameter without a gradient stays as it is.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Leave no gradient, not even zeros."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> dict[int, Tensor]:
        """The gradients by position of their parameter."""
        return {index: tensor.grad for index, tensor in enumerate(self.parameters) if tensor.grad is not None}

    @abstractmethod
    def step(self) -> None:
        """Take a step with the present gradients."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with β = (0.9, 0.999) and ε = 1e-8, fused; equal to `torch.optim.Adam` in every bit."""

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        super().__init__(parameters, learning_rate)
        self._means, self._squares = ([torch.zeros_like(tensor) for tensor in self.parameters] for _ in range(2))
        self._steps = [torch.zeros((), device=tensor.device) for tensor in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """See `Optimizer.step`."""
        gradients = self.gradients()
        parameters, means, squares, steps = (
            [tensors[index] for index in gradients]
            for tensors in (self.parameters, self._means, self._squares, self._steps)
        )
        adam(
            parameters,
            list(gradients.values()),
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


class SGD(Optimizer):
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
        super().__init__(parameters, learning_rate)
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocities: list[Tensor | None] = [None] * len(self.parameters)

    @torch.no_grad()
    def step(self) -> None:
        """See `Optimizer.step`."""
        gradients = self.gradients()
        velocities = [self._velocities[index] for index in gradients]
        sgd(
            [self.parameters[index] for index in gradients],
            list(gradients.values()),
            velocities,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # torch puts a parameter's first velocity into the list.
        for index, velocity in zip(gradients, velocities, strict=True):
            self._velocities[index] = velocity
