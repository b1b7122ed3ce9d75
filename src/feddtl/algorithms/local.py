"""The one local loop: every method's mini-batch training, on clients and on the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from feddtl.algorithms.base import EpochObserver, ignore_epochs
from feddtl.models.lora import Tensors

# (parameters, positions of the batch) -> (loss, metrics); metrics stay tensors so that no step waits for the device.
LossFunction = Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]]
# (parameters, epoch from 0), before an epoch.
EpochHook = Callable[[Mapping[str, Tensor], int], None]


def trainable_copy(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    """Leaf copies with gradients; the originals stay untouched."""
    return {name: tensor.detach().clone().to(device).requires_grad_() for name, tensor in tensors.items()}


def detached(tensors: Mapping[str, Tensor]) -> Tensors:
    """CPU copies without gradients, ready to be sent."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def train(
    parameters: Mapping[str, Tensor],
    loss_function: LossFunction,
    *,
    num_samples: int,
    epochs: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    before_epoch: EpochHook | None = None,
    observer: EpochObserver = ignore_epochs,
) -> dict[str, float]:
    """Train leaf tensors in place for some epochs over shuffled mini-batches.

    Args:
        parameters: Leaf tensors with gradients, all of them in the optimiser.
        loss_function: Loss and metrics of a batch of positions.
        num_samples: Positions run from 0 to this.
        epochs: Passes over all positions.
        batch_size: Positions a step; the last batch of an epoch may be smaller.
        optimizer: A fresh one: its state must not come from another client or round.
        generator: CPU generator of the order.
        before_epoch: Called before each epoch.
        observer: Told after each epoch.

    Returns:
        Metrics as means over all samples seen, `loss` and `gradient_norm` among them.
    """
    totals: dict[str, Tensor] = {}
    device = next(iter(parameters.values())).device
    for epoch in range(epochs):
        if before_epoch is not None:
            before_epoch(parameters, epoch)
        order = torch.randperm(num_samples, generator=generator).to(device)
        for batch in torch.split(order, batch_size):
            loss, metrics = loss_function(parameters, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            metrics = {**metrics, "loss": loss.detach(), "gradient_norm": gradient_norm(parameters)}
            optimizer.step()
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros((), device=device)) + value.detach() * len(batch)
        observer(epoch + 1, epochs)
    return {name: float(total) / (num_samples * epochs) for name, total in totals.items()}


def gradient_norm(parameters: Mapping[str, Tensor]) -> Tensor:
    """‖∇‖₂ over all parameters that have a gradient."""
    squares = [tensor.grad.square().sum() for tensor in parameters.values() if tensor.grad is not None]
    return torch.stack(squares).sum().sqrt()
