"""AFedPG's step by hand, and what it must leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import AFedPGConfig
from feddtl.system.asynchronous_server import ServerMomentum, look_ahead, step, step_rate

PLAIN = {"rate": 1.0, "weight": 1.0, "updates_per_round": 1}


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_two_steps_by_hand():
    """α = 0.5, m = 2, η = 0.5.

    First: Δ = (3, 4), so d = (3, 4), ‖d‖ = 5 = ℓ, w = (1, 1) + 0.5·(3, 4) = (2.5, 3).
    Second, from b = (0, 0): Δ = (0, 1); d = (1.5, 2.5), ‖d‖ = √8.5; ℓ = (5 + √8.5)/2;
    w = (2.5, 3) + 0.5 · ℓ/√8.5 · (1.5, 2.5).
    """
    settings = {"rate": 0.5, "weight": 0.5, "updates_per_round": 2}
    model, momentum = step(
        tensors(w=[1.0, 1.0]), tensors(w=[1.0, 1.0]), tensors(w=[4.0, 5.0]), ServerMomentum(), **settings
    )
    assert model["w"].tolist() == [2.5, 3.0]
    assert momentum.length == 5.0
    assert momentum.previous["w"].tolist() == [1.0, 1.0]
    model, momentum = step(model, tensors(w=[0.0, 0.0]), tensors(w=[0.0, 1.0]), momentum, **settings)
    length = (5 + math.sqrt(8.5)) / 2
    assert momentum.length == pytest.approx(length)
    assert momentum.direction["w"].tolist() == [1.5, 2.5]
    factor = 0.5 * length / math.sqrt(8.5)
    assert model["w"].tolist() == pytest.approx([2.5 + 1.5 * factor, 3 + 2.5 * factor], rel=1e-6)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), st.integers(0, 1000))
def test_without_delay_momentum_and_others_a_step_is_the_aggregate_itself(values, seed):
    """b = w, α = η = 1, m = 1: bit for bit what aggregation made of it, however often."""
    model, momentum = tensors(w=values), ServerMomentum()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        reached = {"w": model["w"] + torch.randn(3, generator=generator)}
        model, momentum = step(model, model, reached, momentum, **PLAIN)
        assert torch.equal(model["w"], reached["w"])


def test_steps_are_normalised():
    """Two clients with updates of length 1 and 100: the second step is (m - 1)/m·1 + 1/m·100 long, not 100."""
    settings = {"rate": 1.0, "weight": 1.0, "updates_per_round": 10}
    first, momentum = step(tensors(w=[0.0]), tensors(w=[0.0]), tensors(w=[1.0]), ServerMomentum(), **settings)
    second, _ = step(first, first, tensors(w=[101.0]), momentum, **settings)
    assert float(second["w"] - first["w"]) == pytest.approx(0.9 * 1 + 0.1 * 100)


def test_what_an_update_leaves_alone_stays():
    """A frozen anchor is moved neither by the update nor by the momentum of earlier ones."""
    settings = {"rate": 0.5, "weight": 0.5, "updates_per_round": 2}
    model, momentum = step(
        tensors(w=[0.0], anchor=[0.0]),
        tensors(w=[0.0], anchor=[0.0]),
        tensors(w=[1.0], anchor=[1.0]),
        ServerMomentum(),
        **settings,
    )
    after, _ = step(model, model, {"w": model["w"] + 1, "anchor": model["anchor"]}, momentum, **settings)
    assert torch.equal(after["anchor"], model["anchor"])
    assert after["w"] > model["w"]


def test_an_update_without_a_change_changes_nothing():
    model = tensors(w=[1.0, 2.0])
    after, momentum = step(model, model, dict(model), ServerMomentum(), **PLAIN)
    assert torch.equal(after["w"], model["w"])
    assert momentum.length == 0.0


def test_whole_numbers_are_taken_and_not_added():
    model, begun, reached = (tensors(w=[0.0], count=[value]) for value in (7, 5, 6))
    after, _ = step(model, begun, reached, ServerMomentum(), **PLAIN)
    assert after["count"].tolist() == [6]


def test_rate_by_hand():
    """2 · 1.5 · 1/4 · (1 + 12/4)^-0.5 = 0.375; without a delay 0.75; without a discount 0.75 whatever the delay."""
    config = AFedPGConfig(server_rate=2.0, delay_exponent=0.5)
    assert step_rate(config, 1.5, 12, 4) == pytest.approx(0.375)
    assert step_rate(config, 1.5, 0, 4) == pytest.approx(0.75)
    assert step_rate(AFedPGConfig(server_rate=2.0, delay_exponent=0.0), 1.5, 12, 4) == pytest.approx(0.75)


def test_look_ahead_by_hand():
    """α = 0.25: three steps ahead, 5 + 3·(5 - 3) = 11; α = 1, or nothing before: where the model is."""
    model, momentum = tensors(w=[5.0], count=[2]), ServerMomentum(previous=tensors(w=[3.0], count=[1]))
    ahead = look_ahead(model, momentum, 0.25)
    assert ahead["w"].tolist() == [11.0]
    assert ahead["count"].tolist() == [2]
    assert look_ahead(model, momentum, 1.0) is model
    assert look_ahead(model, ServerMomentum(), 0.25) is model
