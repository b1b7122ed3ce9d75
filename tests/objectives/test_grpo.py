"""The mathematics of the RL stage: numbers by hand, slow loops in Python floats, exact enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from feddtl.objectives.grpo import (
    action_log_probs,
    all_equal_groups,
    automatic_noise_std,
    choose_actions,
    clipped_policy_objective,
    exact_kl,
    group_advantages,
    guarded_exp,
    kl_to_reference,
    noisy_features,
    roll_out,
)

LOG_RATIOS = st.floats(-8, 8)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_log_policy(*shape, seed, spread=2.0):
    return (spread * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)).log_softmax(dim=-1)


def test_advantages_of_one_right_answer_in_three_by_hand():
    """r = (1, 0, 0): mean 1/3, population std √(1/3·(4/9 + 1/9 + 1/9)) = √2/3.

    A_1 = (2/3)/(√2/3 + 1e-4) = 1.41391, A_2 = A_3 = -A_1/2. With the sample std (divisor G - 1) A_1 would be 1.1545.
    """
    advantages = group_advantages(torch.tensor([[1.0], [0.0], [0.0]]))
    expected = (2 / 3) / (math.sqrt(2) / 3 + 1e-4)
    assert expected == pytest.approx(1.41391, abs=1e-5)
    assert advantages[:, 0].tolist() == pytest.approx([expected, -expected / 2, -expected / 2], rel=1e-6)


@given(st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=2, max_size=6))
def test_advantages_equal_a_loop(rewards):
    """Groups are columns; any rewards, not only 0 and 1."""
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64))
    for image in range(4):
        group = [row[image] for row in rewards]
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / len(group))
        expected = [(r - mean) / (std + 1e-4) for r in group]
        assert advantages[:, image].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", range(2, 17))
def test_equal_rewards_give_exactly_no_advantage(dtype, size):
    """Rounding in the mean would be divided by 1e-4 and become a signal."""
    rewards = torch.tensor([0.0, 1.0], dtype=dtype).expand(size, 2)
    assert torch.equal(group_advantages(rewards), torch.zeros(size, 2, dtype=dtype))


def test_all_equal_groups_are_found():
    rewards = torch.tensor([[0.0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1]])
    assert all_equal_groups(rewards).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.5, 1.0, 1.2, 0.0),
        (1.5, -1.0, -1.5, -1.5),
        (0.5, 1.0, 0.5, 0.5),
        (0.5, -1.0, -0.8, 0.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.0, -3.0, -3.0, -3.0),
    ],
)
def test_clipped_objective_and_its_gradient_by_hand(ratio, advantage, value, gradient):
    """min(ρA, clip(ρ, 0.8, 1.2)·A); d/d log π of ρA is ρA itself, and of the clipped branch 0.

    A good action that is already likely, or a bad one already unlikely, gets no further push; the way back is free.
    """
    log_prob = torch.tensor(math.log(ratio), dtype=torch.float64, requires_grad=True)
    objective = clipped_policy_objective(
        log_prob, torch.zeros((), dtype=torch.float64), torch.tensor(advantage, dtype=torch.float64), 0.2
    )
    objective.backward()
    assert objective.item() == pytest.approx(value, rel=1e-12)
    assert log_prob.grad.item() == pytest.approx(gradient, rel=1e-12)


@given(st.lists(st.tuples(LOG_RATIOS, LOG_RATIOS, st.floats(-2, 2)), min_size=1, max_size=8), st.floats(0.05, 0.9))
def test_clipped_objective_equals_a_loop(samples, clip):
    new, old, advantages = (torch.tensor(column, dtype=torch.float64) for column in zip(*samples, strict=True))
    objective = clipped_policy_objective(new, old, advantages, clip, max_log_ratio=20.0)
    expected = []
    for log_prob, old_log_prob, advantage in samples:
        ratio = math.exp(log_prob - old_log_prob)
        expected.append(min(ratio * advantage, max(1 - clip, min(1 + clip, ratio)) * advantage))
    assert objective.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_guard_does_not_change_the_normal_range():
    """Bit for bit exp below the limit, with exp as its own derivative."""
    x = torch.linspace(-30, 10, 401, requires_grad=True)
    y = guarded_exp(x, 10.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x.exp())
    assert torch.equal(slope, x.exp())


@pytest.mark.parametrize("limit", [1.0, 10.0])
def test_guard_continues_as_the_tangent(limit):
    """At the limit e^L with slope e^L; at L + 3 the tangent gives 4·e^L, with the same slope."""
    x = torch.tensor([limit, limit + 3], dtype=torch.float64, requires_grad=True)
    y = guarded_exp(x, limit)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == pytest.approx([math.exp(limit), 4 * math.exp(limit)])
    assert slope.tolist() == pytest.approx([math.exp(limit)] * 2)


@pytest.mark.parametrize("difference", [89.0, 200.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_log_ratios_that_overflow_float32_stay_finite(difference, advantage):
    """e^89 is infinite in float32, and s = 100 gives log-ratios of up to 200."""
    log_prob = torch.tensor(0.0, requires_grad=True)
    other = torch.tensor(-difference)
    objective = clipped_policy_objective(log_prob, other, torch.tensor(advantage), 0.2)
    kl = kl_to_reference(torch.tensor(-difference, requires_grad=True), torch.tensor(0.0))
    (slope,) = torch.autograd.grad(objective, log_prob)
    tangent = math.exp(10) * (1 + difference - 10)
    assert objective.item() == pytest.approx(1.2 if advantage > 0 else -tangent, rel=1e-5)
    assert slope.item() == pytest.approx(0.0 if advantage > 0 else -math.exp(10), rel=1e-5)
    assert kl.item() == pytest.approx(tangent - difference - 1, rel=1e-5)


@pytest.mark.parametrize("difference", [89.0, 200.0])
def test_gradient_of_the_kl_estimator_pulls_back_with_finite_force(difference):
    """d/d log π of exp(q) - q - 1 is 1 - exp(q), continued at the tangent's slope: 1 - e^10."""
    log_prob = torch.tensor(-difference, requires_grad=True)
    kl_to_reference(log_prob, torch.tensor(0.0)).backward()
    assert log_prob.grad.item() == pytest.approx(1 - math.exp(10), rel=1e-5)


def test_kl_estimator_by_hand():
    """q = log(π_ref/π): q = log 2 gives 2 - log 2 - 1, q = -log 2 gives 1/2 + log 2 - 1, q = 0 gives 0."""
    log_prob = torch.tensor([0.25, 0.5, 0.3], dtype=torch.float64).log()
    reference = torch.tensor([0.5, 0.25, 0.3], dtype=torch.float64).log()
    expected = [1 - math.log(2), math.log(2) - 0.5, 0.0]
    assert kl_to_reference(log_prob, reference).tolist() == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8))
def test_kl_estimator_is_not_negative(pairs):
    log_probs, reference = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    assert (kl_to_reference(log_probs, reference) >= -1e-15).all()


@given(classes=st.integers(2, 7), seed=st.integers(0, 10**6))
def test_kl_estimator_is_unbiased(classes, seed):
    """Enumerated: Σ_a π(a)·(π_ref/π - log(π_ref/π) - 1) = 1 + KL - 1, because Σ_a π_ref(a) = 1."""
    log_policy = random_log_policy(classes, seed=seed)
    reference = random_log_policy(classes, seed=seed + 1)
    actions = torch.arange(classes)
    estimates = kl_to_reference(log_policy[actions], reference[actions], max_log_ratio=40.0)
    expectation = (log_policy.exp() * estimates).sum()
    torch.testing.assert_close(expectation, exact_kl(log_policy, reference), rtol=1e-10, atol=1e-12)


def test_exact_kl_by_hand():
    """π = (1/2, 1/2), π_ref = (1/4, 3/4): ½·log 2 + ½·log(2/3) = 0.143841; of a policy to itself 0."""
    policy = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64).log()
    reference = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=torch.float64).log()
    assert exact_kl(policy, reference).tolist() == pytest.approx([0.143841, 0.0], abs=1e-6)


@given(seed=st.integers(0, 10**6))
def test_exact_kl_equals_the_one_of_torch_distributions(seed):
    policy, reference = random_log_policy(3, 5, seed=seed), random_log_policy(3, 5, seed=seed + 1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=policy), torch.distributions.Categorical(logits=reference)
    )
    torch.testing.assert_close(exact_kl(policy, reference), expected)


@given(seed=st.integers(0, 10**6))
def test_gradient_of_the_exact_kl_is_the_one_of_torch_distributions(seed):
    """Of the logits, where autograd keeps every term."""
    logits = random_log_policy(3, 5, seed=seed).requires_grad_()
    reference = random_log_policy(3, 5, seed=seed + 1)
    policy, other = (torch.distributions.Categorical(logits=values) for values in (logits, reference))
    [expected] = torch.autograd.grad(torch.distributions.kl_divergence(policy, other).sum(), logits)
    [gradient] = torch.autograd.grad(exact_kl(logits.log_softmax(dim=-1), reference).sum(), logits)
    torch.testing.assert_close(gradient, expected)


@given(seed=st.integers(0, 10**6))
def test_both_estimates_of_the_kl_have_no_gradient_at_the_reference(seed):
    """Not even one of rounding, in single precision."""
    logits = random_log_policy(3, 5, seed=seed).float().requires_grad_()
    log_policy = logits.log_softmax(dim=-1)
    for kl in (kl_to_reference(log_policy, log_policy.detach()), exact_kl(log_policy, log_policy.detach())):
        assert not kl.any()
        [gradient] = torch.autograd.grad(kl.sum(), logits, retain_graph=True)
        assert not gradient.any()


def test_noise_is_added_before_or_after_normalisation():
    """z = (3, 4) has norm 5; noises (1, 0) and (0, -1) give (4, 4), (3, 3) or (1.6, 0.8), (0.6, -0.2)."""
    features, noise = torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]]])
    assert noisy_features(features, noise).tolist() == [[[4.0, 4.0]], [[3.0, 3.0]]]
    torch.testing.assert_close(
        noisy_features(features, noise, "normalized"), torch.tensor([[[1.6, 0.8]], [[0.6, -0.2]]])
    )


def test_automatic_noise_by_hand():
    """Norms 5 and 10 at s = 100: 0.05 and 0.1, the paper's for a feature of ViT-B/16; of unit features 0.01."""
    features = torch.tensor([[3.0, 4.0], [-6.0, 8.0]])
    assert automatic_noise_std(features, 100.0).tolist() == pytest.approx([0.05, 0.1])
    assert automatic_noise_std(features, 100.0, "normalized").tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize("noise_on", ["projected", "normalized"])
@pytest.mark.parametrize(("norm", "scale"), [(10.0, 100.0), (13.0, 15.0), (1.0, 4.0)])
def test_automatic_noise_moves_a_margin_by_the_distance_of_two_texts(norm, scale, noise_on):
    """s · (z + ε)/‖z‖ · (t_a - t_b) has a standard deviation of ‖t_a - t_b‖ logits: over 20,000 draws, within 3 %."""
    generator = torch.Generator().manual_seed(0)
    start = normalize(torch.randn(1, 8, generator=generator), dim=-1)
    texts = normalize(torch.randn(2, 8, generator=generator), dim=-1)
    noise = automatic_noise_std(norm * start, scale, noise_on) * torch.randn(20_000, 1, 8, generator=generator)
    noisy = noisy_features(norm * start, noise, noise_on)
    margins = scale * noisy @ (texts[0] - texts[1]) / (1.0 if noise_on == "normalized" else norm)
    assert margins.std().item() == pytest.approx((texts[0] - texts[1]).norm().item(), rel=0.03)


def test_actions_are_the_most_likely_classes():
    text = torch.eye(3)
    features = torch.tensor([[[0.1, 5.0, 0.2], [-1.0, -2.0, -0.5]], [[9.0, 8.0, 8.5], [0.0, 0.0, 0.1]]])
    assert choose_actions(features, text, 50.0).tolist() == [[1, 2], [0, 2]]


def test_sampled_actions_follow_the_softmax():
    """χ² of 20,000 draws over four classes against softmax; 16.3 is the 0.1 % point for three degrees of freedom."""
    text = torch.nn.functional.normalize(torch.randn(4, 6, generator=generator(0)), dim=-1)
    feature, scale, draws = torch.randn(6, generator=generator(1)), 2.0, 20_000
    probabilities = (scale * torch.nn.functional.normalize(feature, dim=0) @ text.T).softmax(dim=-1)
    assert probabilities.min() > 0.02
    uniform = torch.rand(draws, 4, generator=generator(2))
    actions = choose_actions(feature.expand(draws, 6), text, scale, uniform)
    counts = torch.bincount(actions, minlength=4)
    chi_square = ((counts - draws * probabilities) ** 2 / (draws * probabilities)).sum()
    assert chi_square < 16.3


def test_sampled_actions_depend_on_the_draws_only():
    text = torch.nn.functional.normalize(torch.randn(4, 6, generator=generator(0)), dim=-1)
    features = torch.randn(3, 50, 6, generator=generator(1))
    uniform, other = torch.rand(2, 3, 50, 4, generator=generator(5))
    first = choose_actions(features, text, 1.0, uniform)
    torch.manual_seed(99)
    assert torch.equal(first, choose_actions(features, text, 1.0, uniform))
    assert not torch.equal(first, choose_actions(features, text, 1.0, other))
    assert first.max() < 4  # a draw of exactly 0 must not give NaN
    assert choose_actions(features, text, 1.0, torch.zeros(3, 50, 4)).max() < 4


@pytest.mark.parametrize("noise_on", ["projected", "normalized"])
def test_roll_out_equals_a_loop(noise_on):
    """Every image and sample by itself in Python floats: noisy action, reward, advantage, noise-free log π."""
    samples, images, classes, width, scale = 4, 6, 3, 5, 7.0
    text = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator(0)).double(), dim=-1)
    features = 2 * torch.randn(images, width, generator=generator(1)).double()
    noise = 0.9 * torch.randn(samples, images, width, generator=generator(2)).double()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    result = roll_out(features, text, labels, scale, noise, noise_on)

    def log_policy(vector):
        norm = math.sqrt(sum(v * v for v in vector))
        logits = [scale * sum(v * t for v, t in zip(vector, row, strict=True)) / norm for row in text.tolist()]
        top = max(logits)
        total = math.log(sum(math.exp(logit - top) for logit in logits)) + top
        return [logit - total for logit in logits]

    seen = set()
    for i in range(images):
        z = features[i].tolist()
        norm = math.sqrt(sum(v * v for v in z)) if noise_on == "normalized" else 1.0
        actions, rewards = [], []
        for j in range(samples):
            noisy = log_policy([v / norm + e for v, e in zip(z, noise[j, i].tolist(), strict=True)])
            actions.append(noisy.index(max(noisy)))
            rewards.append(float(actions[-1] == labels[i]))
        mean = sum(rewards) / samples
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / samples)
        clean = log_policy(z)
        assert result.actions[:, i].tolist() == actions
        assert result.advantages[:, i].tolist() == pytest.approx([(r - mean) / (std + 1e-4) for r in rewards])
        assert result.old_log_probs[:, i].tolist() == pytest.approx([clean[a] for a in actions])
        assert bool(result.all_equal[i]) == (len(set(rewards)) == 1)
        seen.add(bool(result.all_equal[i]))
    assert seen == {True, False}


def test_roll_out_without_noise_teaches_nothing():
    """All samples of an image then choose the same class, so every group is equal."""
    text = torch.eye(3)
    features = torch.randn(5, 3, generator=generator(0))
    result = roll_out(features, text, torch.tensor([0, 1, 2, 0, 1]), 10.0, torch.zeros(3, 5, 3))
    assert torch.equal(result.advantages, torch.zeros(3, 5))
    assert result.all_equal.all()
    assert torch.equal(result.actions, features.argmax(dim=-1).expand(3, 5))


def test_action_log_probs_are_looked_up_by_image():
    log_policy = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert action_log_probs(log_policy, torch.tensor([[0, 2], [1, 1], [2, 0]])).tolist() == [[1, 6], [2, 5], [3, 4]]
