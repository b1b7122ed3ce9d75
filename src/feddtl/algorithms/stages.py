"""The two stages of local training, for any method whose adapters are named tensors.

SFT minimises cross-entropy; RL is GRPO on CLIP's softmax (FedDTL §3). Both see the model only as a `Policy`,
so the same code trains the image tower against a fixed text anchor (FedDTL) and both towers (FedLoRA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from feddtl.algorithms.aggregate import update_norm
from feddtl.algorithms.base import EpochObserver, ignore_epochs
from feddtl.algorithms.local import LossFunction, detached, train, trainable_copy
from feddtl.config import Experiment, LocalConfig, RlConfig
from feddtl.models.lora import Tensors, mix
from feddtl.objectives.grpo import (
    Rollout,
    action_log_probs,
    clipped_policy_objective,
    exact_kl,
    guarded_exp,
    kl_to_reference,
    roll_out,
)
from feddtl.objectives.supervised import clip_logits, supervised_loss
from feddtl.seeding import torch_generator

# Images per forward pass where no gradient is needed.
EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Policy:
    """CLIP on one client's images as a function of its adapters.

    Attributes:
        features: (adapters, positions (B,)) -> (B, e) projected features before normalisation.
        text_embeddings: adapters -> (C, e) unit rows.
        labels: (N,) base-class ids.
        logit_scale: s.
    """

    features: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    text_embeddings: Callable[[Mapping[str, Tensor]], Tensor]
    labels: Tensor
    logit_scale: float

    @torch.no_grad()
    def all_features(self, adapters: Mapping[str, Tensor]) -> Tensor:
        """(N, e) features of all images, in large batches."""
        positions = torch.arange(len(self.labels), device=self.labels.device)
        return torch.cat([self.features(adapters, part) for part in torch.split(positions, EVALUATION_BATCH)])

    @torch.no_grad()
    def all_log_probs(self, adapters: Mapping[str, Tensor]) -> Tensor:
        """(N, C) log π(c|x) of all images."""
        logits = clip_logits(self.all_features(adapters), self.text_embeddings(adapters), self.logit_scale)
        return logits.log_softmax(dim=-1)


@dataclass(frozen=True)
class LocalRandomness:
    """Where a client's randomness in a round comes from."""

    seed: int
    client: int
    round: int

    def generator(self, purpose: str) -> torch.Generator:
        """Fresh generator for one purpose."""
        return torch_generator(self.seed, purpose, self.client, self.round)


def fine_tune(
    stage: str,
    policy: Policy,
    received: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    experiment: Experiment,
    randomness: LocalRandomness,
    observer: EpochObserver = ignore_epochs,
) -> tuple[Tensors, dict[str, float]]:
    """Local training of a round, 'sft' or 'rl', from the received adapters.

    Returns:
        The tuned adapters, on the device, and the stage's metrics with `update_norm`.
    """
    device = policy.labels.device
    adapters = trainable_copy(received, device)
    if stage == "sft":
        metrics = supervised_stage(policy, adapters, experiment.local, randomness, observer)
    else:
        fixed = {name: tensor.to(device) for name, tensor in anchor.items()}
        metrics = reinforcement_stage(policy, adapters, fixed, experiment.rl, experiment.local, randomness, observer)
    return adapters, {**metrics, "update_norm": update_norm(detached(adapters), received)}


def supervised_stage(
    policy: Policy,
    adapters: Tensors,
    config: LocalConfig,
    randomness: LocalRandomness,
    observer: EpochObserver = ignore_epochs,
) -> dict[str, float]:
    """Train the adapters in place by cross-entropy; returns mean `loss`, `accuracy` and `gradient_norm`."""

    def loss_function(parameters: Mapping[str, Tensor], batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = policy.features(parameters, batch)
        text, labels = policy.text_embeddings(parameters), policy.labels[batch]
        predicted = clip_logits(features.detach(), text.detach(), policy.logit_scale).argmax(dim=-1)
        loss = supervised_loss(features, text, labels, policy.logit_scale)
        return loss, {"accuracy": (predicted == labels).float().mean()}

    return _train_adapters(adapters, loss_function, policy, config, config.epochs, randomness, None, observer)


def reinforcement_stage(
    policy: Policy,
    adapters: Tensors,
    anchor: Mapping[str, Tensor],
    config: RlConfig,
    local: LocalConfig,
    randomness: LocalRandomness,
    observer: EpochObserver = ignore_epochs,
) -> dict[str, float]:
    """Train the adapters in place by GRPO with a KL to the hybrid reference.

    Args:
        policy: The model on this client's images.
        adapters: Leaf tensors, at the received model; changed in place.
        anchor: Adapters after the last SFT round.
        config: RL settings.
        local: Learning rate and batch size.
        randomness: Source of noise and order.
        observer: Told after each epoch.

    Returns:
        Means over all samples: `loss`, `policy_objective`, `kl`, `reward`, `all_equal_groups`, `mean_ratio`,
        `clip_fraction`, `guarded_ratios`, `gradient_norm`.
    """
    objective = _Reinforcement(policy, config, randomness)
    objective.set_reference(anchor, adapters)
    return _train_adapters(
        adapters, objective.loss, policy, local, config.epochs, randomness, objective.before_epoch, observer
    )


class _Reinforcement:
    """RL loss of a batch, with the roll-outs and reference of the round as constants."""

    def __init__(self, policy: Policy, config: RlConfig, randomness: LocalRandomness) -> None:
        self._policy = policy
        self._config = config
        self._noise = randomness.generator("rollout-noise")
        self._actions = randomness.generator("rollout-action") if config.action == "sample" else None
        self._rollout: Rollout | None = None
        self._reference: Tensor = torch.empty(0)  # (N, C) log π_ref

    def set_reference(self, anchor: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> None:
        """Evaluate the hybrid of SFT anchor and received model once for the round."""
        share = self._config.anchor_weight
        if self._config.reference == "weights":
            fixed = {name: tensor.detach() for name, tensor in received.items()}
            self._reference = self._policy.all_log_probs(mix([anchor, fixed], [share, 1 - share]))
        else:
            parts = [self._policy.all_log_probs(anchor).exp(), self._policy.all_log_probs(received).exp()]
            mixed = share * parts[0] + (1 - share) * parts[1]
            self._reference = mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()

    @torch.no_grad()
    def before_epoch(self, parameters: Mapping[str, Tensor], epoch: int) -> None:
        """Draw all roll-outs at the current parameters, if this epoch is due."""
        if self._config.rollout == "epoch" or (self._config.rollout == "round" and epoch == 0):
            features = self._policy.all_features(parameters)
            text = self._policy.text_embeddings(parameters)
            self._rollout = self._draw(features, text, self._policy.labels)

    @torch.no_grad()
    def _draw(self, features: Tensor, text: Tensor, labels: Tensor) -> Rollout:
        shape = (self._config.group_size, *features.shape)
        noise = self._config.noise_std * torch.randn(shape, generator=self._noise).to(features.device)
        scale = self._policy.logit_scale
        return roll_out(features, text, labels, scale, noise, self._config.noise_on, self._actions)

    def loss(self, parameters: Mapping[str, Tensor], batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-(1/G) Σ_j (1/bs) Σ_i (L_p - β · KL) and its diagnostics."""
        config, policy = self._config, self._policy
        features = policy.features(parameters, batch)
        text, labels = policy.text_embeddings(parameters), policy.labels[batch]
        if config.rollout == "batch":
            rollout = self._draw(features.detach(), text.detach(), labels)
        else:
            rollout = _rows(self._rollout, batch)
        log_policy = clip_logits(features, text, policy.logit_scale).log_softmax(dim=-1)  # (B, C)
        log_probs = action_log_probs(log_policy, rollout.actions)  # (G, B)
        gain = clipped_policy_objective(
            log_probs, rollout.old_log_probs, rollout.advantages, config.clip, config.max_log_ratio
        ).mean()
        reference = self._reference[batch]
        if config.kl == "exact":
            kl = exact_kl(log_policy, reference).mean()
        else:
            reference_log_probs = action_log_probs(reference, rollout.actions)
            kl = kl_to_reference(log_probs, reference_log_probs, config.max_log_ratio).mean()
        metrics = self._diagnostics(log_probs.detach(), rollout, action_log_probs(reference, rollout.actions), labels)
        return config.kl_weight * kl - gain, {**metrics, "policy_objective": gain.detach(), "kl": kl.detach()}

    def _diagnostics(
        self, log_probs: Tensor, rollout: Rollout, reference_log_probs: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        limit, clip = self._config.max_log_ratio, self._config.clip
        log_ratio = log_probs - rollout.old_log_probs
        ratio = guarded_exp(log_ratio, limit)
        guarded = (log_ratio > limit) | (reference_log_probs - log_probs > limit)
        return {
            "reward": (rollout.actions == labels).float().mean(),
            "all_equal_groups": rollout.all_equal.float().mean(),
            "mean_ratio": ratio.mean(),
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
            "guarded_ratios": guarded.float().mean(),
        }


def _rows(rollout: Rollout | None, batch: Tensor) -> Rollout:
    assert rollout is not None, "before_epoch draws the roll-outs"
    return Rollout(
        rollout.actions[:, batch],
        rollout.advantages[:, batch],
        rollout.old_log_probs[:, batch],
        rollout.all_equal[batch],
    )


def _train_adapters(
    adapters: Tensors,
    loss_function: LossFunction,
    policy: Policy,
    config: LocalConfig,
    epochs: int,
    randomness: LocalRandomness,
    before_epoch: Callable[[Mapping[str, Tensor], int], None] | None,
    observer: EpochObserver,
) -> dict[str, float]:
    return train(
        adapters,
        loss_function,
        num_samples=len(policy.labels),
        epochs=epochs,
        batch_size=config.batch_size,
        optimizer=torch.optim.Adam(adapters.values(), lr=config.learning_rate),
        generator=randomness.generator("batch-order"),
        before_epoch=before_epoch,
        observer=observer,
    )
