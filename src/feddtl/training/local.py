"""The one local loop: every method's mini-batch training, of one client, of several at once, and on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from feddtl.config import LocalConfig
from feddtl.models.lora import Tensors
from feddtl.training.optimizers import SGD, Adam, Optimizer


@dataclass(frozen=True)
class Learner:
    """Who learns: a client, or the server.

    Attributes:
        parameters: Leaf tensors with gradients; changed in place.
        rows: Its samples, as rows of the data that all learners of a loop have in common.
        generator: CPU generator of the order.
    """

    parameters: Tensors
    rows: range
    generator: torch.Generator


@dataclass(frozen=True)
class Batch:
    """What one learner sees in one step: its position among the learners, and rows (B,) on the CPU."""

    learner: int
    rows: Tensor


# One step of the learners that still have batches: leaves the gradient of each one's mean loss in its parameters and
# returns, for each metric, its sum over the rows of each batch, (batches,). They stay tensors on the device, so that
# no step waits for it.
StepFunction = Callable[[Sequence[Batch]], dict[str, Tensor]]
# (learner, epoch from 0), before an epoch.
EpochHook = Callable[[int, int], None]
# (learner, epochs done, epochs), after an epoch.
LearnerObserver = Callable[[int, int, int], None]


class EpochObserver(Protocol):
    """Told of each finished local epoch of each client."""

    def __call__(self, client: int, epoch: int, epochs: int) -> None: ...


def ignore_epochs(client: int, epoch: int, epochs: int) -> None:
    """Observer for whoever does not watch."""


def trainable_copy(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    """Leaf copies with gradients; the originals stay untouched."""
    return {name: tensor.detach().clone().to(device).requires_grad_() for name, tensor in tensors.items()}


def detached(tensors: Mapping[str, Tensor]) -> Tensors:
    """CPU copies without gradients, ready to be sent."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def adam(learners: Sequence[Learner], learning_rate: float) -> Optimizer:
    """Adam over all learners. It counts steps and keeps moments per tensor and passes over a learner without a
    gradient, so each learner is trained as by an optimiser of its own."""
    parameters = [tensor for learner in learners for tensor in learner.parameters.values()]
    return Adam(parameters, learning_rate)


def local_optimizer(learners: Sequence[Learner], config: LocalConfig, own: Literal["adam", "sgd"]) -> Optimizer:
    """A fresh optimiser of a client's round: the configured one, or with 'auto' the method's own."""
    chosen = own if config.optimizer == "auto" else config.optimizer
    if chosen == "adam":
        return adam(learners, config.learning_rate)
    parameters = [tensor for learner in learners for tensor in learner.parameters.values()]
    return SGD(parameters, config.learning_rate, config.momentum, config.weight_decay)


def train(
    learners: Sequence[Learner],
    step: StepFunction,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    before_epoch: EpochHook = lambda learner, epoch: None,
    observer: LearnerObserver = lambda learner, done, epochs: None,
) -> list[dict[str, float]]:
    """Train leaf tensors in place for some epochs over shuffled mini-batches.

    Learners take their n-th steps together. Which learners are trained together changes nothing but rounding.

    Args:
        learners: Who learns.
        step: One step; see `StepFunction`.
        epochs: Passes of each learner over its samples.
        batch_size: Samples a step and learner; the last batch of an epoch may be smaller.
        optimizer: A fresh one over all parameters: its state must not come from another client or round.
        before_epoch: Called before each epoch of each learner.
        observer: Told after each epoch of each learner.

    Returns:
        By learner, metrics as means over all samples seen, `gradient_norm` among them.
    """
    courses = [
        _batches(index, learner, epochs, batch_size, before_epoch, observer) for index, learner in enumerate(learners)
    ]
    totals: dict[str, Tensor] = {}
    for course in zip_longest(*courses):
        batches = [batch for batch in course if batch is not None]
        optimizer.zero_grad()
        sums = step(batches)
        norms = [gradient_norm(learners[batch.learner].parameters) * len(batch.rows) for batch in batches]
        optimizer.step()
        _add(totals, {**sums, "gradient_norm": torch.stack(norms)}, [batch.learner for batch in batches], len(learners))
    means = {name: total.tolist() for name, total in totals.items()}
    return [
        {name: values[index] / (len(learner.rows) * epochs) for name, values in means.items()}
        for index, learner in enumerate(learners)
    ]


def _batches(
    index: int, learner: Learner, epochs: int, batch_size: int, before_epoch: EpochHook, observer: LearnerObserver
) -> Iterator[Batch]:
    """All batches of a learner; the observer is told when the step after an epoch's last batch is asked for."""
    for epoch in range(epochs):
        before_epoch(index, epoch)
        order = torch.randperm(len(learner.rows), generator=learner.generator) + learner.rows.start
        for rows in torch.split(order, batch_size):
            yield Batch(index, rows)
        observer(index, epoch + 1, epochs)


def _add(totals: Tensors, sums: Mapping[str, Tensor], learners: list[int], count: int) -> None:
    for name, values in sums.items():
        total = totals.setdefault(name, torch.zeros(count, device=values.device, dtype=values.dtype))
        if len(learners) == count:
            total += values
        else:
            total.index_add_(0, torch.tensor(learners).to(values.device, non_blocking=True), values)


def gradient_norm(parameters: Mapping[str, Tensor]) -> Tensor:
    """‖∇‖₂ over all parameters that have a gradient."""
    return get_total_norm([tensor.grad for tensor in parameters.values() if tensor.grad is not None])
