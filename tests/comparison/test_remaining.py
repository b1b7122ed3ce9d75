"""The remaining time of a comparison, from rounds and from cells that are done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from made_records import made_record

from feddtl.comparison.cells import Cell
from feddtl.comparison.remaining import RoundClock, expected_seconds
from feddtl.config import Experiment


def cell(name: str, rounds: int = 10, seed: int = 0, method: str = "fedlora") -> Cell:
    experiment = Experiment(method=method, rounds=rounds, seed=seed)
    return Cell(name, experiment, Path(name))


def test_expected_seconds_by_hand() -> None:
    """'a' took 10 and 20, so 15. 90 seconds of 30 rounds are 3 a round: 15 for 5 rounds of 'c'. 15 + 60 + 15."""
    done = [(cell("a", seed=0), 10.0), (cell("a", seed=1), 20.0), (cell("b"), 60.0)]
    assert expected_seconds(done, [cell("a", seed=2), cell("b", seed=1), cell("c", rounds=5)]) == 90
    assert expected_seconds(done, []) == 0
    assert expected_seconds([], [cell("a")]) is None


def test_a_method_that_trains_nothing_does_not_count_its_rounds() -> None:
    """4 s of scoring and 40 s of 10 rounds are 4 s for each of 11: 8 for two rounds."""
    done = [(cell("z", rounds=100, method="zero-shot"), 4.0), (cell("a"), 40.0)]
    assert expected_seconds(done, [cell("b", rounds=2)]) == 8


@pytest.mark.parametrize(("resumed", "expected"), [(0, [(46, 27), (46, 18), (46, 9)]), (2, [(46, 9)])])
def test_the_time_of_a_run_after_each_round_but_the_last(
    resumed: int, expected: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds of loading and four rounds of nine seconds, so 46 in all."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[tuple[float, float]] = []
    clock = RoundClock(lambda whole, left: told.append((whole, left)))
    now += 10
    nothing: Any = None
    clock.run_started(
        Experiment(method="fedlora", rounds=4), nothing, nothing, [made_record(n + 1) for n in range(resumed)]
    )
    for number in range(resumed + 1, 5):
        now += 9
        clock.round_finished(made_record(number))
    assert told == expected
