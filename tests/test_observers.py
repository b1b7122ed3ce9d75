"""Several observers of one run."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from feddtl.observers import Observers, RunObserver

EVENTS = [name for name, _ in inspect.getmembers(RunObserver, inspect.isfunction) if not name.startswith("_")]


def arguments_of(event: str) -> list[object]:
    return [object() for name in inspect.signature(getattr(RunObserver, event)).parameters if name != "self"]


def observer_of(heard: list[Any], who: str) -> RunObserver:
    """Keeps every event with its arguments."""
    observer = RunObserver()
    for name in EVENTS:
        setattr(observer, name, lambda *given, name=name: heard.append((who, name, list(given))))
    return observer


@pytest.mark.parametrize("event", EVENTS)
def test_each_is_told_of_everything_in_turn(event: str) -> None:
    heard: list[Any] = []
    given = arguments_of(event)
    getattr(Observers(observer_of(heard, "first"), observer_of(heard, "second")), event)(*given)
    assert heard == [("first", event, given), ("second", event, given)]


@pytest.mark.parametrize("event", EVENTS)
def test_an_error_of_one_is_not_caught(event: str) -> None:
    failing = RunObserver()

    def fail(*given: object) -> None:
        raise RuntimeError("the disk is full")

    setattr(failing, event, fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        getattr(Observers(RunObserver(), failing), event)(*arguments_of(event))
