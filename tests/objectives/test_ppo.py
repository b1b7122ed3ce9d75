"""Plackett and Luce's distribution, returns and the actor-critic loss: by hand, by enumeration, by frequency."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.objectives.ppo import (
    actor_critic_loss,
    discounted_returns,
    normalised,
    pick_log_probs,
    sample_without_replacement,
)


def test_log_probs_of_two_picks_by_hand():
    """Weights exp(l) = (1, 2, 5). First pick 2: 5/8. Then pick 0 of what is left: 1/3."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    found = pick_log_probs(logits, torch.tensor([[2, 0]]))
    assert found.exp()[0].tolist() == pytest.approx([5 / 8, 1 / 3])


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=5), st.data())
def test_probabilities_of_all_ordered_picks_sum_to_one(logits, data):
    count = data.draw(st.integers(1, len(logits)))
    orders = torch.tensor(list(permutations(range(len(logits)), count)))
    rows = torch.tensor(logits, dtype=torch.float64).expand(len(orders), -1)
    assert float(pick_log_probs(rows, orders).sum(dim=1).exp().sum()) == pytest.approx(1.0)


def test_picks_come_as_often_as_their_probability():
    """4,000 draws of 2 of 3 against the six exact probabilities, within four standard deviations."""
    logits = torch.tensor([0.0, 1.0, -0.5])
    uniform = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    counts = Counter(tuple(sample_without_replacement(logits, row, 2).tolist()) for row in uniform)
    for order in permutations(range(3), 2):
        exact = float(pick_log_probs(logits[None], torch.tensor([order])).sum().exp())
        assert abs(counts[order] - 4000 * exact) < 4 * math.sqrt(4000 * exact * (1 - exact))


@given(st.integers(1, 6), st.integers(0, 1000))
def test_nobody_is_picked_twice(count, seed):
    uniform = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    picks = sample_without_replacement(torch.zeros(6), uniform, count).tolist()
    assert len(set(picks)) == count


def test_log_probs_have_the_gradient_of_the_formula():
    """d/dl of log π(2) + log π(0 | 2) with weights (1, 2, 5): the picks' ones minus (1, 2, 5)/8 and (1, 2, 0)/3."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().requires_grad_()
    pick_log_probs(logits, torch.tensor([[2, 0]])).sum().backward()
    expected = [1 - 1 / 8 - 1 / 3, -2 / 8 - 2 / 3, 1 - 5 / 8]
    assert logits.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_returns_by_hand():
    """γ = 0.5, r = (1, 2, 3), V(s_3) = 4: R_2 = 3 + 2 = 5, R_1 = 2 + 2.5 = 4.5, R_0 = 1 + 2.25 = 3.25."""
    returns = discounted_returns(torch.tensor([1.0, 2.0, 3.0]), 0.5, torch.tensor(4.0))
    assert returns.tolist() == [3.25, 4.5, 5.0, 4.0]


def test_advantages_are_normalised_over_what_is_kept():
    """Kept are 1 and 3: mean 2, population standard deviation 1; the 100 that is left out counts for nothing."""
    found = normalised(torch.tensor([1.0, 100.0, 3.0]), torch.tensor([True, False, True]))
    assert found.tolist() == pytest.approx([-1.0, 0.0, 1.0])


def test_advantages_are_normalised_by_hand():
    """0 and 6 have mean 3 and deviation 3, so they become -1 and 1; what is left out becomes 0."""
    kept = torch.tensor([True, True, False])
    found = normalised(torch.tensor([0.0, 6.0, 99.0]), kept)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 0.0]))


def test_loss_by_hand():
    """Ratios 1.5 and 0.5 with A = 1 and -1, ε = 0.2: min(1.5, 1.2) = 1.2 and min(-0.5, -0.8) = -0.8, mean 0.2.

    The third pick, with A = 50, is lost. Values (1, 3), returns (2, 1): mean square (1 + 4)/2 = 2.5, times 0.5.
    """
    loss = actor_critic_loss(
        torch.tensor([[1.5, 0.5, 1.0]]).log(),
        torch.zeros(1, 3),
        torch.tensor([[1.0, -1.0, 50.0]]),
        torch.tensor([1.0, 3.0]),
        torch.tensor([2.0, 1.0]),
        torch.tensor([[True, True, False]]),
        clip=0.2,
        value_weight=0.5,
    )
    assert float(loss) == pytest.approx(-0.2 + 1.25)
