"""The one local round of all methods: supervised or RL, of one client or of several whose steps are computed as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from feddtl.messages import Payload, Update
from feddtl.models.lora import Tensors
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import select_prefix, update_norm
from feddtl.training.client_data import ClientData
from feddtl.training.local import EpochObserver, Learner, detached, epoch_rate, local_optimizer, train, trainable_copy
from feddtl.training.objective import Objective
from feddtl.training.penalties import penalties_of
from feddtl.training.policy import Policy
from feddtl.training.reinforcement import Reinforcement

if TYPE_CHECKING:
    from feddtl.methods.base import Method

# Groups of tensors in a server state and in a payload.
SHARED = "shared"
ANCHOR = "anchor"  # the shared tensors after the last SFT round


def local_round(
    method: Method,
    payload: Payload,
    clients: Sequence[ClientData],
    personal: Sequence[Tensors],
    observer: EpochObserver,
) -> list[Update]:
    """Train the shared tensors of this round and the personal ones on the clients' images; see
    `Method.client_updates`."""
    shared = select_prefix(payload.tensors, SHARED)
    trained = method.trained_in_round(shared, payload.round)
    kept = [own or method.initial_personal(data.client) for data, own in zip(clients, personal, strict=True)]
    policy = _policy(method, clients, payload)
    learners = [
        Learner(
            trainable_copy({**shared, **own}, method.device, fixed=shared.keys() - trained.keys()),
            policy.indices_of(position),
            torch_generator(method.task.seed, "batch-order", data.client, payload.round),
        )
        for position, (data, own) in enumerate(zip(clients, kept, strict=True))
    ]
    objective = _objective(method, payload, policy, learners, kept)
    metrics = _trained(
        method,
        method.training.local_epochs(method.stage(payload.round)),
        learners,
        objective,
        lambda position, done, epochs: observer(clients[position].client, done, epochs),
    )
    samples = method.uplink_samples(policy, learners)
    return [
        _update(
            data,
            method.after_training(data.client, payload.round, detached(learner.parameters), shared),
            shared,
            trained,
            own_samples,
            numbers,
        )
        for data, learner, own_samples, numbers in zip(clients, learners, samples, metrics, strict=True)
    ]


def _trained(
    method: Method, epochs: int, learners: Sequence[Learner], objective: Objective, observer: EpochObserver
) -> list[dict[str, float]]:
    """Metrics of the learners after so many epochs, each epoch at its own learning rate."""
    local = method.training.local
    optimizer = local_optimizer(learners, local, method.own_optimizer)

    def before_epoch(position: int, epoch: int) -> None:
        trained = [tensor for tensor in learners[position].parameters.values() if tensor.requires_grad]
        optimizer.set_rate(trained, epoch_rate(local, epoch, epochs))
        objective.before_epoch(position, epoch)

    return train(
        learners,
        objective.step,
        epochs=epochs,
        batch_size=local.batch_size,
        optimizer=optimizer,
        before_epoch=before_epoch,
        observer=observer,
    )


def _policy(method: Method, clients: Sequence[ClientData], payload: Payload) -> Policy:
    return Policy(
        clients,
        payload.round,
        method.image_features_of_clients,
        lambda tensors: method.text_embeddings_of_clients(tensors, payload),
        method.clip.logit_scale,
        method.feature_width,
        method.device,
        method.images_per_pass,
    )


def _objective(
    method: Method,
    payload: Payload,
    policy: Policy,
    learners: Sequence[Learner],
    kept: Sequence[Tensors],
) -> Objective:
    """What the clients minimise in this round, ready for the first step."""

    def on_device(tensors: Mapping[str, Tensor]) -> Tensors:
        return {name: tensor.to(method.device) for name, tensor in tensors.items()}

    shared = on_device(select_prefix(payload.tensors, SHARED))
    if method.stage(payload.round) == "sft":
        objective = method.supervised_objective(policy, learners)
    else:
        # There is no anchor of personal tensors: what the client kept belongs to both models. Without personal
        # tensors all clients have the same two models, which are evaluated as one.
        own = [on_device(tensors) for tensors in kept] if any(kept) else [{}]
        anchor = on_device(select_prefix(payload.tensors, ANCHOR))
        objective = Reinforcement(
            policy,
            learners,
            method.training.rl,
            method.task.seed,
            received=[{**shared, **tensors} for tensors in own],
            anchor=[{**anchor, **tensors} for tensors in own],
            mix=method.mix,
        )
    objective.penalties = penalties_of(method.training.local, method.trained_in_round(shared, payload.round))
    return objective


def _update(
    data: ClientData,
    tuned: Tensors,
    shared: Tensors,
    trained: Tensors,
    samples: Tensors,
    metrics: Mapping[str, float],
) -> Update:
    """What a client sends and keeps: of the tensors that it received the trained ones go back, its own stay."""
    weights = {name: tuned[name] for name in trained}
    personal = {name: tensor for name, tensor in tuned.items() if name not in shared}
    numbers = {**metrics, "update_norm": update_norm(weights, shared)}
    return Update(data.client, len(data), weights, samples, numbers, personal)
