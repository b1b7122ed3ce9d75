"""Means, spreads, paired differences and intervals against numbers by hand."""

from __future__ import annotations

import pytest

from feddtl.results.statistics import Interval, paired_difference, spread_of


@pytest.mark.parametrize(
    ("low", "high", "text", "excludes"),
    [
        (1.26, 2.34, "[1.3, 2.3]", True),
        (-2.34, -1.26, "[−2.3, −1.3]", True),
        (-0.04, 0.04, "[0.0, 0.0]", False),
        (0.0, 3.0, "[0.0, 3.0]", False),
        (-3.0, 0.0, "[−3.0, 0.0]", False),
        (0.01, 3.0, "[0.0, 3.0]", True),
    ],
)
def test_interval_by_hand(low: float, high: float, text: str, excludes: bool) -> None:
    assert (Interval(low, high).text, Interval(low, high).excludes_zero) == (text, excludes)


def test_only_shared_seeds_are_paired() -> None:
    """Seeds 1 and 2: 4 - 1 = 3 and 7 - 2 = 5; seed 0 and 9 have no partner."""
    found = paired_difference({0: 100.0, 1: 4.0, 2: 7.0}, {1: 1.0, 2: 2.0, 9: 0.0}, Interval(3.0, 5.0))
    assert found is not None
    assert (found.mean, found.n, found.interval) == (4.0, 2, Interval(3.0, 5.0))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_spread_by_hand() -> None:
    """Mean of 1, 2, 6 is 3; sample variance (4 + 1 + 9) / 2 = 7. What was not measured does not count."""
    spread = spread_of([1.0, None, 2.0, 6.0])
    assert (spread.mean, spread.std, spread.n) == (3.0, pytest.approx(7**0.5), 3)
    assert (spread_of([5.0]).mean, spread_of([5.0]).plus_minus) == (5.0, "")
    assert (spread_of([None]).mean, spread_of([]).n) == (None, 0)
