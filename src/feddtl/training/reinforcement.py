"""The RL stage: GRPO with latent noise and a KL to the hybrid reference (FedDTL §3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from feddtl.config import RlConfig
from feddtl.models.lora import Tensors
from feddtl.objectives.grpo import (
    Rollout,
    action_log_probs,
    automatic_noise_std,
    clipped_policy_objective,
    exact_kl,
    guarded_exp,
    kl_to_reference,
    roll_out,
)
from feddtl.seeding import torch_generator
from feddtl.training.local import Batch, Learner
from feddtl.training.objective import Objective
from feddtl.training.policy import Microbatch, Policy


class Reinforcement(Objective):
    """-(1/G) Σ_j (L_p - β · KL) of each image, with the roll-outs and the reference of the round as constants.

    The encoder is deterministic and the noise enters behind it, so one forward pass serves all G samples; the old
    policy and the reference are evaluated once a round.

    Args:
        policy: The model on the clients' images.
        learners: One per client.
        config: RL settings.
        seed: Of the experiment; noise depends on it, the client and the round.
        received: The tensors that each client starts from, at which a round's roll-outs are drawn; one mapping if all
            start from the same.
        anchor: The same after the last SFT round.
        mix: The model between several, (their tensors, shares) -> tensors.
    """

    def __init__(
        self,
        policy: Policy,
        learners: Sequence[Learner],
        config: RlConfig,
        seed: int,
        received: Sequence[Mapping[str, Tensor]],
        anchor: Sequence[Mapping[str, Tensor]],
        mix: Callable[[Sequence[Mapping[str, Tensor]], Sequence[float]], Tensors],
    ) -> None:
        super().__init__(policy, learners)
        self._config = config
        self._mix = mix
        self._sources = [
            [
                torch_generator(seed, purpose, data.client, policy.round)
                for purpose in ("rollout-noise", "rollout-action")
            ]
            for data in policy.clients
        ]
        # The received tensors of each learner, where they are the reference, as in the first RL round.
        self._start: list[Mapping[str, Tensor]] = []
        if config.anchor_weight == 0 or all(map(_same_tensors, anchor, received)):
            self._start = list(received) if len(received) == len(learners) else list(received) * len(learners)
        self._unmoved: Tensor | None = None  # (parts,) whether a part's policy is still its reference
        self._reference = self._hybrid_reference(received, anchor)  # (N, C) log π_ref
        # Of all images: their roll-outs, or ('batch') the draws for the roll-outs of the present step.
        self._rollouts: Rollout | None = None
        self._draws: list[Tensor] = []
        # (N,) σ of each image's latest roll-out, where it is automatic.
        automatic = config.noise_std == "auto"
        self._noise_std = self._reference.new_empty(len(policy.labels)) if automatic else None
        if config.rollout == "round":
            self._draw_all(range(len(learners)), received)

    def before_epoch(self, learner: int, epoch: int) -> None:
        """Draw the learner's roll-outs anew at its present parameters, if they are drawn every epoch."""
        if self._config.rollout == "epoch":
            self._draw_all([learner], [self.learners[learner].parameters])

    def before_step(self, batches: Sequence[Batch]) -> None:
        """Find policies that are still their reference, and draw the noise of the step's own roll-outs, if it has some:
        for whole batches, so that the passes into which they are cut make no difference."""
        if self._start:
            pairs = [(self.learners[batch.learner].parameters, self._start[batch.learner]) for batch in batches]
            self._unmoved = torch.stack([_unmoved(parameters, start) for parameters, start in pairs])
        if self._config.rollout != "batch":
            return
        for batch in batches:
            own = batch.indices.to(self.policy.device, non_blocking=True)
            draws = self._draw_noise(batch.learner, len(own))
            self._draws = self._draws or [self._for_all_images(draw, dim=1) for draw in draws]
            for of_all, draw in zip(self._draws, draws, strict=True):
                of_all[:, own] = draw

    def losses(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """β · KL - L_p, as means over the group."""
        config = self._config
        rollout = self._rollout_of(microbatch, features, text)
        log_policy = self.policy.logits(features, text, microbatch).log_softmax(dim=-1)  # (R, C)
        reference = self._reference_of(microbatch, log_policy.detach())
        log_probs = action_log_probs(log_policy, rollout.actions)  # (G, R)
        reference_log_probs = action_log_probs(reference, rollout.actions)
        gain = clipped_policy_objective(
            log_probs, rollout.old_log_probs, rollout.advantages, config.clip, config.max_log_ratio
        ).mean(dim=0)
        if config.kl == "exact":
            kl = exact_kl(log_policy, reference)
        else:
            kl = kl_to_reference(log_probs, reference_log_probs, config.max_log_ratio).mean(dim=0)
        labels = self.policy.labels_of(microbatch)
        metrics = self._diagnostics(log_probs.detach(), rollout, reference_log_probs, labels)
        if self._noise_std is not None:
            metrics["noise_std"] = self._noise_std[microbatch.indices.to(features.device, non_blocking=True)]
        return config.kl_weight * kl - gain, {**metrics, "policy_objective": gain.detach(), "kl": kl.detach()}

    def _hybrid_reference(
        self, received: Sequence[Mapping[str, Tensor]], anchor: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """(N, C) log-probabilities of the hybrid of SFT anchor and received model."""
        if self._start:
            return self.policy.all_log_probs(received)
        share = self._config.anchor_weight
        if self._config.reference == "weights":
            pairs = zip(anchor, received, strict=True)
            return self.policy.all_log_probs([self._mix(pair, [share, 1 - share]) for pair in pairs])
        parts = [self.policy.all_log_probs(tensors).exp() for tensors in (anchor, received)]
        mixed = share * parts[0] + (1 - share) * parts[1]
        return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()

    def _reference_of(self, microbatch: Microbatch, log_policy: Tensor) -> Tensor:
        """(R, C) log π_ref of a pass; log_policy (R, C) is log π_θ.

        A policy with the tensors of its reference is its reference, and their KL is 0. The stored log-probabilities
        come from passes of other images, which round differently, and Adam's first steps have the size of the learning
        rate even where the gradient is only rounding.
        """
        reference = self._reference[microbatch.indices.to(log_policy.device, non_blocking=True)]
        if self._unmoved is None:
            return reference
        unmoved = self._unmoved[microbatch.parts.to(log_policy.device, non_blocking=True)]
        return torch.where(unmoved[:, None], log_policy, reference)

    @torch.no_grad()
    def _draw_all(self, learners: Sequence[int], tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Roll-outs of all images of some learners at these tensors, of each learner or one mapping for all."""
        features = self.policy.all_features(tensors, learners)
        texts = self.policy.text_embeddings(tensors)
        sizes = [len(self.learners[learner].indices) for learner in learners]
        for position, (learner, own) in enumerate(zip(learners, torch.split(features, sizes), strict=True)):
            images = slice(self.learners[learner].indices.start, self.learners[learner].indices.stop)
            draws, labels = self._draw_noise(learner, len(own)), self.policy.labels[images]
            rollout = self._roll_out(images, own, texts[position if len(texts) > 1 else 0], labels, *draws)
            if self._rollouts is None:
                self._rollouts = Rollout(*(self._for_all_images(drawn, dim=-1) for drawn in rollout))
            for of_all, drawn in zip(self._rollouts, rollout, strict=True):
                of_all[..., images] = drawn

    def _draw_noise(self, learner: int, images: int) -> list[Tensor]:
        """ε (G, B, e) ~ N(0, σ²), with σ = 1 if it is automatic, and for sampled actions uniform draws (G, B, C)."""
        group, device = self._config.group_size, self.policy.device
        noise_source, action_source = self._sources[learner]
        noise = torch.randn(group, images, self.policy.feature_width, generator=noise_source)
        draws = [(noise if self._config.noise_std == "auto" else self._config.noise_std * noise).to(device)]
        if self._config.action == "sample":
            classes = self._reference.shape[1]
            draws.append(torch.rand(group, images, classes, generator=action_source).to(device))
        return draws

    def _for_all_images(self, drawn: Tensor, dim: int) -> Tensor:
        """Empty tensor like `drawn`, with all images of the policy in this dimension."""
        shape = list(drawn.shape)
        shape[dim] = len(self.policy.labels)
        return drawn.new_empty(shape)

    def _roll_out(
        self,
        images: Tensor | slice,
        features: Tensor,
        text: Tensor,
        labels: Tensor,
        noise: Tensor,
        uniform: Tensor | None = None,
    ) -> Rollout:
        """Roll-outs of some images, from the draws of `_draw_noise`."""
        if self._noise_std is not None:
            self._noise_std[images] = automatic_noise_std(features, self.policy.logit_scale, self._config.noise_on)
            noise = self._noise_std[images][:, None] * noise
        return roll_out(features, text, labels, self.policy.logit_scale, noise, self._config.noise_on, uniform)

    @torch.no_grad()
    def _rollout_of(self, microbatch: Microbatch, features: Tensor, text: Tensor) -> Rollout:
        """Roll-outs of a microbatch: looked up, or drawn at the features of this very pass."""
        indices = microbatch.indices.to(features.device, non_blocking=True)
        if self._rollouts is not None:
            return Rollout(*(of_all[..., indices] for of_all in self._rollouts))
        parts = []
        shares = zip(torch.split(indices, microbatch.counts), torch.split(features, microbatch.counts), strict=True)
        for part, (own, own_features) in enumerate(shares, start=microbatch.first):
            draws, labels = [draw[:, own] for draw in self._draws], self.policy.labels[own]
            parts.append(self._roll_out(own, own_features, text[part if len(text) > 1 else 0], labels, *draws))
        return Rollout(*(torch.cat(tensors, dim=-1) for tensors in zip(*parts, strict=True)))

    def _diagnostics(
        self, log_probs: Tensor, rollout: Rollout, reference_log_probs: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Per image, (R,) each, as means over the group."""
        limit, clip = self._config.max_log_ratio, self._config.clip
        log_ratio = log_probs - rollout.old_log_probs
        ratio = guarded_exp(log_ratio, limit)
        guarded = (log_ratio > limit) | (reference_log_probs - log_probs > limit)
        by_sample = {
            "reward": rollout.actions == labels,
            "mean_ratio": ratio,
            "clip_fraction": (ratio - 1).abs() > clip,
            "guarded_ratios": guarded,
        }
        means = {name: values.to(ratio.dtype).mean(dim=0) for name, values in by_sample.items()}
        return {**means, "all_equal_groups": rollout.all_equal.to(ratio.dtype)}


def _same_tensors(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> bool:
    """Whether two models have the same tensors, equal bit for bit."""
    return these.keys() == those.keys() and all(torch.equal(tensor, those[name]) for name, tensor in these.items())


def _unmoved(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """Whether parameters have the values with which they began; a tensor, so that no step waits for the device."""
    return torch.stack([(parameters[name].detach() == tensor).all() for name, tensor in start.items()]).all()
