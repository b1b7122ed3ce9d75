"""Means, spreads, paired differences and Student's t against numbers by hand, tables, and a numerical integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.results.statistics import paired_difference, paired_t_test, spread_of, t_two_sided


@pytest.mark.parametrize(
    ("degrees", "critical"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (30, 2.042)],
)
def test_critical_values_of_the_tables(degrees: int, critical: float) -> None:
    """Printed in every textbook: beyond it on both sides lie 5 %."""
    assert t_two_sided(critical, degrees) == pytest.approx(0.05, abs=1e-4)


@given(st.floats(-20, 20), st.integers(1, 40))
def test_it_is_the_integral_of_the_density(t: float, degrees: int) -> None:
    """With x = √ν tan θ the density is proportional to cos^(ν-1) θ on (-π/2, π/2)."""
    angle = math.atan(abs(t) / math.sqrt(degrees))

    def integral(low: float, high: float) -> float:
        grid = np.linspace(low, high, 20_001)
        return float(np.trapezoid(np.cos(grid) ** (degrees - 1), grid))

    assert t_two_sided(t, degrees) == pytest.approx(integral(angle, math.pi / 2) / integral(0, math.pi / 2), abs=1e-6)


def test_paired_t_test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, t = 2√3, ν = 2, for which p = 1 - t / √(2 + t²) = 1 - √(12/14)."""
    assert paired_t_test([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8))
def test_order_and_direction_do_not_matter(differences: list[int]) -> None:
    p = paired_t_test(differences)
    assert paired_t_test([-value for value in reversed(differences)]) == (p if p is None else pytest.approx(p))
    assert p is None or 0 <= p <= 1


@pytest.mark.parametrize("differences", [[], [3.0], [2.0, 2.0, 2.0], [0.0, 0.0]])
def test_where_nothing_varies_there_is_no_p(differences: list[float]) -> None:
    assert paired_t_test(differences) is None


def test_only_shared_seeds_are_paired() -> None:
    """Seeds 1 and 2: 4 - 1 = 3 and 7 - 2 = 5; seed 0 and 9 have no partner."""
    found = paired_difference({0: 100.0, 1: 4.0, 2: 7.0}, {1: 1.0, 2: 2.0, 9: 0.0})
    assert found is not None
    assert (found.mean, found.n) == (4.0, 2)
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(4))  # s = √2, t = 4, ν = 1
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_spread_by_hand() -> None:
    """Mean of 1, 2, 6 is 3; sample variance (4 + 1 + 9) / 2 = 7. What was not measured does not count."""
    spread = spread_of([1.0, None, 2.0, 6.0])
    assert (spread.mean, spread.std, spread.n) == (3.0, pytest.approx(7**0.5), 3)
    assert (spread_of([5.0]).mean, spread_of([5.0]).plus_minus) == (5.0, "")
    assert (spread_of([None]).mean, spread_of([]).n) == (None, 0)
