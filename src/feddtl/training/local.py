"""The one local loop: every method's mini-batch training, of one client, of several at once, and on the server."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

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
        parameters: Leaf tensors; those with gradients are changed in place.
        indices: Its samples among those of all learners of a loop.
        generator: CPU generator of the order.
    """

    parameters: Tensors
    indices: range
    generator: torch.Generator


@dataclass(frozen=True)
class Batch:
    """What one learner sees in one step: its position among the learners, and indices (B,) of samples, on the CPU."""

    learner: int
    indices: Tensor


# One step of the learners that still have batches: leaves the gradient of each one's mean loss in its parameters and
# returns, for each metric, its sum over the samples of each batch, (batches,). They stay tensors on the device, so that
# no step waits for it.
StepFunction = Callable[[Sequence[Batch]], dict[str, Tensor]]
# (learner, epoch from 0), before an epoch.
EpochHook = Callable[[int, int], None]
# (client or learner, epochs done, epochs), after an epoch.
EpochObserver = Callable[[int, int, int], None]


def ignore_epochs(client: int, done: int, epochs: int) -> None:
    """Observer that does nothing."""


def trainable_copy(tensors: Mapping[str, Tensor], device: torch.device, fixed: Collection[str] = ()) -> Tensors:
    """Leaf copies with gradients, integers and those named in `fixed` without; the originals stay untouched."""
    copies = {name: tensor.detach().clone().to(device) for name, tensor in tensors.items()}
    return {name: copy.requires_grad_(copy.is_floating_point() and name not in fixed) for name, copy in copies.items()}


def detached(tensors: Mapping[str, Tensor]) -> Tensors:
    """CPU copies without gradients, ready to be sent."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def local_optimizer(learners: Sequence[Learner], config: LocalConfig, own: Literal["adam", "sgd"]) -> Optimizer:
    """A fresh optimiser of a client's round: the configured one, or with 'auto' the method's own.

    Its state is per tensor and it passes over a tensor without a gradient, so each learner is trained as by its own.
    """
    parameters = [tensor for learner in learners for tensor in learner.parameters.values() if tensor.requires_grad]
    if (own if config.optimizer == "auto" else config.optimizer) == "adam":
        betas = (config.adam_beta1, config.adam_beta2)
        return Adam(parameters, config.learning_rate, betas, config.adam_epsilon, config.adam_weight_decay)
    return SGD(parameters, config.learning_rate, config.momentum, config.weight_decay)


def epoch_rate(config: LocalConfig, epoch: int, epochs: int) -> float:
    """Learning rate of a local epoch of a round, counted from 0.

    It is `warmup_rate` in the first w = `warmup_epochs` epochs, then η, or with 'cosine' η · (1 + cos(π·(e - w)/E))/2
    in epoch e of E (Loshchilov and Hutter 2017, eq. 5, without restarts).
    """
    if epoch < config.warmup_epochs:
        return config.warmup_rate
    if config.rate_schedule == "constant":
        return config.learning_rate
    return config.learning_rate * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / epochs)) / 2


def train(
    learners: Sequence[Learner],
    step: StepFunction,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    before_epoch: EpochHook = lambda learner, epoch: None,
    observer: EpochObserver = ignore_epochs,
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
        observer: Called after each epoch of each learner.

    Returns:
        By learner, metrics as means over all samples seen, `gradient_norm` among them.
    """
    streams = [
        _batches(index, learner, epochs, batch_size, before_epoch, observer) for index, learner in enumerate(learners)
    ]
    totals: dict[str, Tensor] = {}
    for together in zip_longest(*streams):
        batches = [batch for batch in together if batch is not None]
        optimizer.zero_grad()
        sums = step(batches)
        norms = [gradient_norm(learners[batch.learner].parameters) * len(batch.indices) for batch in batches]
        optimizer.step()
        _add(totals, {**sums, "gradient_norm": torch.stack(norms)}, [batch.learner for batch in batches], len(learners))
    means = {name: total.tolist() for name, total in totals.items()}
    return [
        {name: values[index] / (len(learner.indices) * epochs) for name, values in means.items()}
        for index, learner in enumerate(learners)
    ]


def _batches(
    index: int, learner: Learner, epochs: int, batch_size: int, before_epoch: EpochHook, observer: EpochObserver
) -> Iterator[Batch]:
    """All batches of a learner; the observer is called once the step of an epoch's last batch is done."""
    for epoch in range(epochs):
        before_epoch(index, epoch)
        order = torch.randperm(len(learner.indices), generator=learner.generator) + learner.indices.start
        for indices in torch.split(order, batch_size):
            yield Batch(index, indices)
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
