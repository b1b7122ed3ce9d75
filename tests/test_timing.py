"""Seconds by phase on a clock that is moved by hand."""

from __future__ import annotations

import pytest

from feddtl import timing
from feddtl.timing import PHASES, Stopwatch, add_seconds, since


@pytest.fixture
def clock(monkeypatch):
    """A list whose last entry is the time."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[-1])
    return now


def test_a_second_belongs_to_the_innermost_phase(clock):
    """1 s outside, 2 s steps, 4 s evaluation inside steps, 8 s steps again, 16 s outside."""
    watch = Stopwatch()
    clock.append(101.0)
    with watch.measure("steps"):
        clock.append(103.0)
        with watch.measure("evaluation"):
            clock.append(107.0)
        clock.append(115.0)
    clock.append(131.0)
    assert watch.seconds() == {"steps": 10.0, "evaluation": 4.0, "other": 17.0}
    assert list(watch.seconds()) == ["steps", "evaluation", "other"]


def test_phases_add_up_to_the_wall_clock_even_after_an_error(clock):
    watch = Stopwatch()
    with pytest.raises(IndexError), watch.measure("decode"):
        clock.append(103.5) or [].pop()
    clock.append(104.0)
    with watch.measure("decode"):
        clock.append(105.0)
    assert watch.seconds() == {"decode": 4.5, "other": 0.5}
    assert sum(watch.seconds().values()) == 5.0


def test_readings_are_subtracted_and_added_by_phase(clock):
    watch = Stopwatch()
    with watch.measure("prefix"):
        clock.append(102.0)
    before = watch.seconds()
    with watch.measure("server"):
        clock.append(105.0)
    spent = since(before, watch.seconds())
    assert spent == {"prefix": 0.0, "server": 3.0, "other": 0.0}
    assert add_seconds(spent, {"server": 1.5}, {"load": 2.0}) == {
        "load": 2.0,
        "prefix": 0.0,
        "server": 4.5,
        "other": 0.0,
    }
    assert set(PHASES) >= set(spent)
