"""Group-relative policy optimisation for a deterministic encoder (FedDTL §3, RL stage; GRPO: Shao et al. 2024).

The policy is CLIP's own softmax, π_θ(c|x) = softmax(s·ẑ_v·Tᵀ)_c. G noisy copies of one projected feature
choose G actions; an action is rewarded if it is the label. Sizes: G samples per group, B images, C classes,
e the joint width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feddtl.objectives.supervised import clip_logits

ADVANTAGE_EPSILON = 1e-4


def noisy_features(
    features: Tensor, noise: Tensor, noise_on: Literal["projected", "normalized"] = "projected"
) -> Tensor:
    """z + ε_j for G noise draws, with one encoder pass.

    Args:
        features: (B, e) projected features z before normalisation.
        noise: (G, B, e) draws of N(0, σ²).
        noise_on: 'projected' adds to z, 'normalized' to z/‖z‖.

    Returns:
        (G, B, e) noisy features, not normalised.
    """
    return (normalize(features, dim=-1) if noise_on == "normalized" else features) + noise


def automatic_noise_std(
    features: Tensor, logit_scale: float, noise_on: Literal["projected", "normalized"] = "projected"
) -> Tensor:
    """σ_i of each image such that σ_i · s/‖z_i‖ = 1: features z (B, e) -> (B,).

    s/‖z‖ · ε·(t_a - t_b) is what the noise adds to the margin between two classes, in logits. 1 is what the paper's
    σ = 0.1 gives for ViT-B/16, with s = 100 and ‖z‖ about 10. Noise on z/‖z‖ needs σ · s = 1.
    """
    norms = features.norm(dim=-1)
    return (torch.ones_like(norms) if noise_on == "normalized" else norms) / logit_scale


def choose_actions(
    features: Tensor, text_embeddings: Tensor, logit_scale: float, uniform: Tensor | None = None
) -> Tensor:
    """Class that each (noisy) feature chooses: (..., e) -> (...) integer ids.

    Without `uniform`, the most likely class. With draws from U(0, 1) of the logits' shape (..., C), a sample from
    the softmax by the Gumbel-max identity argmax_c(logit_c + g_c) ~ softmax(logits).
    """
    logits = clip_logits(features, text_embeddings, logit_scale)
    if uniform is not None:
        logits = logits - torch.log(-torch.log(uniform.clamp_min(1e-20)))
    return logits.argmax(dim=-1)


def group_advantages(rewards: Tensor) -> Tensor:
    """A_j = (r_j - mean_j r) / (std_j r + 1e-4) over the group, with the population standard deviation.

    Args:
        rewards: (G, B).

    Returns:
        (G, B); a group of equal rewards gets zeros.
    """
    centred = rewards - rewards.mean(dim=0, keepdim=True)
    return centred / (rewards.std(dim=0, keepdim=True, correction=0) + ADVANTAGE_EPSILON)


def all_equal_groups(rewards: Tensor) -> Tensor:
    """(B,) whether all samples of an image got the same reward, so that it has no learning signal."""
    return (rewards == rewards[:1]).all(dim=0)


def guarded_exp(exponent: Tensor, limit: float) -> Tensor:
    """exp(x) up to x = limit, then its tangent e^limit · (1 + x - limit): finite, monotone, differentiable once."""
    inside = exponent.clamp_max(limit).exp()
    # At the limit itself, both clamps would pass a gradient; relu passes none.
    return inside * (1 + (exponent - limit).relu())


def clipped_policy_objective(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float, max_log_ratio: float = 10.0
) -> Tensor:
    """L_p = min(ρ A, clip(ρ, 1-ε, 1+ε) A) with ρ = π_θ/π_old, elementwise; larger is better.

    Args:
        log_probs: log π_θ(a|x), any shape.
        old_log_probs: log π_old(a|x), constants of the same shape.
        advantages: A, of the same shape.
        clip: ε.
        max_log_ratio: Log-ratio above which exp continues as its tangent.
    """
    ratio = guarded_exp(log_probs - old_log_probs, max_log_ratio)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def kl_to_reference(log_probs: Tensor, reference_log_probs: Tensor, max_log_ratio: float = 10.0) -> Tensor:
    """Unbiased, non-negative estimator exp(q) - q - 1 with q = log π_ref(a|x) - log π_θ(a|x), elementwise."""
    log_ratio = reference_log_probs - log_probs
    return guarded_exp(log_ratio, max_log_ratio) - log_ratio - 1


def exact_kl(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """KL(π_θ ‖ π_ref) = Σ_c π_θ (log π_θ - log π_ref) over all classes: (..., C) -> (...).

    Both must be normalised. The gradient is then Σ_c ∇π_θ (log π_θ - log π_ref): the other term of the product rule is
    Σ_c ∇π_θ = 0, and left out, since rounding would make it a gradient even where both are equal.
    """
    return (log_probs.exp() * (log_probs - reference_log_probs).detach()).sum(dim=-1)


class Rollout(NamedTuple):
    """The actions of groups of noisy samples at the parameters θ_old, and their advantages.

    Attributes:
        actions: (G, B) chosen classes.
        advantages: (G, B).
        old_log_probs: (G, B) log π_old(a|x), noise-free.
        all_equal: (B,) groups without a learning signal.
    """

    actions: Tensor
    advantages: Tensor
    old_log_probs: Tensor
    all_equal: Tensor


def roll_out(
    features: Tensor,
    text_embeddings: Tensor,
    labels: Tensor,
    logit_scale: float,
    noise: Tensor,
    noise_on: Literal["projected", "normalized"] = "projected",
    uniform: Tensor | None = None,
) -> Rollout:
    """Actions, advantages and old log-probabilities of one batch.

    Args:
        features: (B, e) projected features at θ_old.
        text_embeddings: (C, e) unit rows.
        labels: (B,).
        logit_scale: s.
        noise: (G, B, e).
        noise_on: See `noisy_features`.
        uniform: (G, B, C); see `choose_actions`.
    """
    noisy = noisy_features(features, noise, noise_on)
    actions = choose_actions(noisy, text_embeddings, logit_scale, uniform)  # (G, B)
    rewards = (actions == labels).to(features.dtype)
    log_policy = clip_logits(features, text_embeddings, logit_scale).log_softmax(dim=-1)  # (B, C)
    return Rollout(actions, group_advantages(rewards), action_log_probs(log_policy, actions), all_equal_groups(rewards))


def action_log_probs(log_policy: Tensor, actions: Tensor) -> Tensor:
    """log π(a|x): log_policy (B, C) at actions (G, B) -> (G, B)."""
    return log_policy.T.gather(0, actions)
