"""Proximal policy optimisation of a choice of m out of K without replacement (PPO: Schulman et al. 2017).

The policy is a Plackett-Luce model: the first pick is drawn from softmax(logits), each further one from the softmax
over the remaining candidates. Sizes: T rounds, m picks per round, K candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feddtl.objectives.grpo import clipped_policy_objective


def sample_without_replacement(logits: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Picks (m,) in the order drawn, by the Gumbel-top-k identity.

    Args:
        logits: (K,).
        uniform: (K,) draws from U(0, 1).
        count: m, up to K.
    """
    gumbel = -torch.log(-torch.log(uniform.clamp_min(1e-20)))
    return (logits + gumbel).topk(count).indices


def pick_log_probs(logits: Tensor, picks: Tensor) -> Tensor:
    """log π(a_i | a_1 … a_{i-1}) of each pick: logits (T, K) and picks (T, m) in the order drawn -> (T, m).

    π(a_i | …) = exp(l_{a_i}) / Σ exp(l_c), with the sum over all c except a_1 … a_{i-1}.
    """
    taken = torch.zeros_like(logits, dtype=torch.bool)
    columns = []
    for pick in picks.T:  # (T,)
        left = logits.masked_fill(taken, -torch.inf).log_softmax(dim=-1)
        columns.append(left.gather(1, pick[:, None])[:, 0])
        taken = taken.scatter(1, pick[:, None], True)
    return torch.stack(columns, dim=1)


def discounted_returns(rewards: Tensor, discount: float, last_value: Tensor) -> Tensor:
    """R_t = r_t + γ R_{t+1} with R_T = V(s_T): rewards (T,) and last_value () -> (T + 1,), the last is V(s_T)."""
    returns = [last_value]
    for reward in rewards.flip(0):
        returns.append(reward + discount * returns[-1])
    return torch.stack(returns[::-1])


def normalised(advantages: Tensor, kept: Tensor) -> Tensor:
    """Advantages with mean 0 and population standard deviation 1 over the kept picks, 0 elsewhere; any shape."""
    mean = advantages[kept].mean()
    std = advantages[kept].std(correction=0)
    return torch.where(kept, (advantages - mean) / (std + 1e-8), torch.zeros_like(advantages))


def actor_critic_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    values: Tensor,
    returns: Tensor,
    kept: Tensor,
    clip: float,
    value_weight: float,
) -> Tensor:
    """-mean min(ρ A, clip(ρ) A) + c · mean (V - R)², to be minimised.

    Args:
        log_probs: (T, m) of the picks under the current policy.
        old_log_probs: (T, m) under the policy that drew the picks, constants.
        advantages: (T, m), constants.
        values: (T,) values of the critic.
        returns: (T,) targets of the values, constants.
        kept: (T, m) picks to include in the mean.
        clip: ε.
        value_weight: c.
    """
    objective = clipped_policy_objective(log_probs, old_log_probs, advantages, clip)
    return -objective[kept].mean() + value_weight * (values - returns).square().mean()
