"""The two stages of local training, for any method whose adapters are named tensors.

SFT minimises cross-entropy; RL is GRPO on CLIP's softmax (FedDTL §3). Both see the model only as a `Policy`,
so the same code trains the image tower against a fixed text anchor (FedDTL) and both towers (FedLoRA), of one
client or of several in one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.algorithms.aggregate import update_norm
from feddtl.algorithms.base import ClientData, EpochObserver, ignore_epochs
from feddtl.algorithms.local import Batch, Learner, adam, detached, train, trainable_copy
from feddtl.algorithms.policy import Piece, Policy
from feddtl.config import Experiment
from feddtl.models.lora import Tensors
from feddtl.seeding import torch_generator


@dataclass(frozen=True)
class LocalRandomness:
    """Where a client's randomness in a round comes from."""

    seed: int
    client: int
    round: int

    def generator(self, purpose: str) -> torch.Generator:
        """Fresh generator for one purpose."""
        return torch_generator(self.seed, purpose, self.client, self.round)


class Objective(ABC):
    """What a stage minimises, image by image.

    Args:
        policy: The model on the clients' images.
        learners: One per client of the policy, in its order.
    """

    def __init__(self, policy: Policy, learners: Sequence[Learner]) -> None:
        self.policy = policy
        self.learners = learners

    @abstractmethod
    def losses(self, piece: Piece, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (R,) of each row and its metrics, (R,) each, without gradients.

        Args:
            piece: Which rows.
            features: (R, e) projected features.
            text: (parts, C, e) or (1, C, e) unit rows.
        """

    def before_epoch(self, learner: int, epoch: int) -> None:
        """Called before each epoch of each learner."""
        return

    def before_step(self, batches: Sequence[Batch]) -> None:
        """Called before each step."""
        return

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of each learner's mean loss, pass by pass; see `local.StepFunction`."""
        self.before_step(batches)
        adapters = [self.learners[batch.learner].parameters for batch in batches]
        text = self.policy.text_embeddings(adapters)
        # Text that is trained too is encoded once a step: passes add up its gradient, which then goes back at once.
        anchor = text.detach().requires_grad_(text.requires_grad)
        sums: dict[str, Tensor] = {}
        for piece in self.policy.pieces(batches):
            losses, metrics = self.losses(piece, self.policy.features(adapters, piece), anchor)
            parts = piece.parts.to(losses.device, non_blocking=True)
            self._shares(batches, piece, losses).sum().backward()  # type: ignore[no-untyped-call]
            for name, values in {**metrics, "loss": losses.detach()}.items():
                total = sums.setdefault(name, torch.zeros(len(batches), device=values.device, dtype=values.dtype))
                total.index_add_(0, parts, values)
        if text.requires_grad:
            text.backward(anchor.grad)  # type: ignore[no-untyped-call]
        return sums

    @staticmethod
    def _shares(batches: Sequence[Batch], piece: Piece, losses: Tensor) -> Tensor:
        """loss / B of each row, so that a part's rows add up to its mean whatever passes they go through."""
        sizes = [len(batch.rows) for batch in batches[piece.first : piece.first + len(piece.counts)]]
        split = torch.split(losses, piece.counts)
        return torch.stack([share.sum() / size for share, size in zip(split, sizes, strict=True)])


class Supervised(Objective):
    """Cross-entropy."""

    def losses(self, piece: Piece, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-log π(y|x)."""
        logits = self.policy.logits(features, text, piece)
        labels = self.policy.labels[piece.rows.to(logits.device, non_blocking=True)]
        hits = (logits.detach().argmax(dim=-1) == labels).to(logits.dtype)
        return cross_entropy(logits, labels, reduction="none"), {"accuracy": hits}


def fine_tune(
    stage: str,
    policy: Policy,
    clients: Sequence[ClientData],
    received: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    experiment: Experiment,
    randomness: Sequence[LocalRandomness],
    observer: EpochObserver = ignore_epochs,
) -> list[tuple[Tensors, dict[str, float]]]:
    """Local training of a round, 'sft' or 'rl', of the policy's clients, each from the received adapters.

    Args:
        stage: 'sft' or 'rl'.
        policy: The model on the clients' images.
        clients: These clients.
        received: The broadcast adapters.
        anchor: Adapters after the last SFT round; for 'rl'.
        experiment: Rates, epochs and RL settings.
        randomness: Of each client.
        observer: Told after each epoch of each client.

    Returns:
        By client, the tuned adapters, on the device, and the stage's metrics as means over all samples, with
        `loss`, `gradient_norm` and `update_norm`.
    """
    learners = [
        Learner(trainable_copy(received, policy.device), policy.rows_of(index), source.generator("batch-order"))
        for index, source in enumerate(randomness)
    ]
    objective = build_objective(stage, policy, learners, received, anchor, experiment, randomness)
    metrics = train(
        learners,
        objective.step,
        epochs=experiment.local.epochs if stage == "sft" else experiment.rl.epochs,
        batch_size=experiment.local.batch_size,
        optimizer=adam(learners, experiment.local.learning_rate),
        before_epoch=objective.before_epoch,
        observer=lambda index, done, epochs: observer(clients[index].client, done, epochs),
    )
    return [
        (learner.parameters, {**of_client, "update_norm": update_norm(detached(learner.parameters), received)})
        for learner, of_client in zip(learners, metrics, strict=True)
    ]


def build_objective(
    stage: str,
    policy: Policy,
    learners: Sequence[Learner],
    received: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    experiment: Experiment,
    randomness: Sequence[LocalRandomness],
) -> Objective:
    """The objective of a stage, ready for its first step."""
    from feddtl.algorithms.reinforcement import Reinforcement

    if stage == "sft":
        return Supervised(policy, learners)
    at_start, fixed = (
        {name: tensor.to(policy.device) for name, tensor in tensors.items()} for tensors in (received, anchor)
    )
    return Reinforcement(policy, learners, experiment.rl, randomness, at_start, fixed)
