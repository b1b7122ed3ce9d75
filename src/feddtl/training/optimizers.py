"""Adam and SGD on torch's own update functions.

`torch.optim`'s classes do the same, but the first of a process imports torch's compiler: 1.8 seconds of CPU, as long as
torch itself takes, in every process that answers one message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Optimizer(ABC):
    """Moves parameters along their gradients; a parameter without a gradient stays as it is.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them, until `set_rate`.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self._rates = [learning_rate] * len(self.parameters)
        self._positions = {id(tensor): index for index, tensor in enumerate(self.parameters)}

    def set_rate(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        """Move some of the parameters at this rate from now on."""
        for parameter in parameters:
            self._rates[self._positions[id(parameter)]] = learning_rate

    def zero_grad(self) -> None:
        """Leave no gradient, not even zeros."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> dict[int, Tensor]:
        """The gradients by position of their parameter."""
        return {index: tensor.grad for index, tensor in enumerate(self.parameters) if tensor.grad is not None}

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the present gradients."""
        gradients = self.gradients()
        for rate in dict.fromkeys(self._rates[index] for index in gradients):
            self.move({index: tensor for index, tensor in gradients.items() if self._rates[index] == rate}, rate)

    @abstractmethod
    def move(self, gradients: Mapping[int, Tensor], rate: float) -> None:
        """Take a step of some parameters, given by position, at one rate."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), fused; equal to `torch.optim.Adam` in every bit.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them, until `set_rate`.
        betas: β₁ and β₂.
        epsilon: ε.
        weight_decay: λ of g ← g + λ · parameter.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self._betas = betas
        self._epsilon = epsilon
        self._weight_decay = weight_decay
        self._means, self._squares = ([torch.zeros_like(tensor) for tensor in self.parameters] for _ in range(2))
        self._steps = [torch.zeros((), device=tensor.device) for tensor in self.parameters]

    def move(self, gradients: Mapping[int, Tensor], rate: float) -> None:
        """See `Optimizer.move`."""
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
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=rate,
            weight_decay=self._weight_decay,
            eps=self._epsilon,
            maximize=False,
        )


class SGD(Optimizer):
    """Gradient descent with momentum and weight decay; equal to `torch.optim.SGD` in every bit.

    Args:
        parameters: Leaves, which are changed in place.
        learning_rate: Of all of them, until `set_rate`.
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

    def move(self, gradients: Mapping[int, Tensor], rate: float) -> None:
        """See `Optimizer.move`."""
        velocities = [self._velocities[index] for index in gradients]
        sgd(
            [self.parameters[index] for index in gradients],
            list(gradients.values()),
            velocities,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # torch puts a parameter's first velocity into the list.
        for index, velocity in zip(gradients, velocities, strict=True):
            self._velocities[index] = velocity
