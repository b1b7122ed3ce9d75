"""Virtual time by hand, and that speeds and losses belong to a client and a seed."""

from __future__ import annotations

import math

import pytest

from feddtl.config import SystemConfig
from feddtl.system.clock import Clock


def test_seconds_of_an_update_by_hand():
    """30 images · 2 epochs · 0.05 s = 3 s; 2.5 MB at 10 Mbit/s are 20 Mbit, so 2 s more."""
    clock = Clock(SystemConfig(seconds_per_image=0.05, bandwidth_mbit=10.0), 4, 0)
    assert clock.seconds(1, 30, 2, 2_500_000) == pytest.approx(5.0)


def test_stragglers_are_as_many_as_asked_for_and_as_slow():
    """A quarter of 20 clients; the network is not slower, only the training."""
    clock = Clock(SystemConfig(slow_share=0.25, slow_factor=8.0), 20, 3)
    slowness = [clock.slowness(client) for client in range(20)]
    assert sorted(slowness) == [1.0] * 15 + [8.0] * 5
    slow, fast = slowness.index(8.0), slowness.index(1.0)
    assert clock.seconds(slow, 10, 1, 0) == pytest.approx(8 * clock.seconds(fast, 10, 1, 0))
    assert clock.seconds(slow, 0, 1, 1000) == clock.seconds(fast, 0, 1, 1000)
    other = Clock(SystemConfig(slow_share=0.25, slow_factor=8.0), 20, 4)
    assert slowness != [other.slowness(client) for client in range(20)]


def test_speeds_are_log_normal():
    """Mean 0 and standard deviation 0.5 of the logarithm over 2,000 clients, within four standard errors."""
    clock = Clock(SystemConfig(speed_spread=0.5), 2000, 0)
    logarithms = [math.log(clock.slowness(client)) for client in range(2000)]
    mean = sum(logarithms) / 2000
    spread = math.sqrt(sum((value - mean) ** 2 for value in logarithms) / 2000)
    assert abs(mean) < 4 * 0.5 / math.sqrt(2000)
    assert abs(spread - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_a_client_is_as_fast_in_a_larger_federation():
    """Where nobody is a straggler, nothing but seed and client decides the speed."""
    config = SystemConfig(speed_spread=1.0)
    assert [Clock(config, 3, 1).slowness(c) for c in range(3)] == [Clock(config, 9, 1).slowness(c) for c in range(3)]


def test_losses_have_the_probability_asked_for_and_are_the_same_every_time():
    """4,000 updates with probability 0.2: 800, standard deviation √(4000·0.2·0.8) = 25."""
    clock = Clock(SystemConfig(dropout=0.2), 40, 0)
    lost = [clock.loses(client, number) for client in range(40) for number in range(100)]
    assert abs(sum(lost) - 800) < 4 * 26
    assert lost == [clock.loses(client, number) for client in range(40) for number in range(100)]
    assert not any(Clock(SystemConfig(), 40, 0).loses(client, 1) for client in range(40))
