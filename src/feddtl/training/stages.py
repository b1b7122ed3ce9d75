"""The two stages of local training, for any method whose adapters are named tensors.

SFT minimises cross-entropy; RL is GRPO on CLIP's softmax (FedDTL §3). Both see the model only as a `Policy`,
so the same code trains the image tower against a fixed text anchor (FedDTL) and both towers (FedLoRA), of one
client or of several in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from feddtl.config import Experiment
from feddtl.models.lora import Tensors
from feddtl.tensor_groups import update_norm
from feddtl.training.client_data import ClientData
from feddtl.training.local import (
    EpochObserver,
    Learner,
    detached,
    ignore_epochs,
    local_optimizer,
    train,
    trainable_copy,
)
from feddtl.training.objective import LocalRandomness, Objective
from feddtl.training.policy import Piece, Policy
from feddtl.training.reinforcement import Reinforcement


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
        epochs=experiment.local_epochs(stage),
        batch_size=experiment.local.batch_size,
        optimizer=local_optimizer(learners, experiment.local, "adam"),
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
    if stage == "sft":
        return Supervised(policy, learners)
    at_start, fixed = (
        {name: tensor.to(policy.device) for name, tensor in tensors.items()} for tensors in (received, anchor)
    )
    return Reinforcement(policy, learners, experiment.rl, randomness, at_start, fixed)
