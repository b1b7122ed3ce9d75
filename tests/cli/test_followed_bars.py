"""`follow` and `submit` draw what another process writes into the log of its run."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from feddtl.cli import followed_bars
from feddtl.cli.bars import Bars
from feddtl.cli.followed_bars import FollowedBars
from feddtl.run_log import append_event, begin_session, last_session
from feddtl.sealed_files import write_sealed


class Drawn(Bars):
    """Bars that can be read: by name, the title, the numbers and what stands behind them."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True, width=100))

    @property
    def now(self) -> dict[str, str]:
        tasks = {task.id: task for task in self.tasks}
        found = {name: tasks[number] for name, number in self._named.items()}
        return {
            name: " ".join(f"{task.description} {task.fields['count']} {task.fields['left']}".split())
            for name, task in found.items()
        }


def in_its_third_round(folder: Path, *, arrived: Sequence[int]) -> None:
    """A run over Flower of 12 rounds of 100 s, the current one since 40 s, so that 960 s are left."""
    begin_session(folder, remote=True)
    append_event(folder, "begun", lines=[])
    now = time.time()
    for number in (1, 2, 3):
        append_event(folder, "round", round=number, stage="sft", clients=[0, 2, 3], time=now - 40 - 100 * (3 - number))
    for count in range(1, len(arrived) + 1):
        append_event(folder, "arrived", clients=arrived[:count])


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], {"loading": "data and model"}),
        ([("images", {"what": "test images", "done": 3, "total": 8})], {"loading": "test images 3/8"}),
        ([("connected", {"clients": [0, 4], "of": 5})], {"loading": "clients connected 2/5"}),
        ([("connected", {"clients": [0], "of": 5}), ("begun", {"lines": []})], {"rounds": "rounds 0/12"}),
        ([("begun", {"lines": []}), ("ended", {"how": "stopped"})], {}),
    ],
)
def test_before_and_after_the_rounds(tmp_path: Path, events: list[tuple[str, Any]], expected: dict[str, str]) -> None:
    bars = Drawn()
    begin_session(tmp_path, remote=True)
    for name, fields in events:
        append_event(tmp_path, name, **fields)
        FollowedBars(bars, tmp_path, 12).draw(last_session(tmp_path))
    FollowedBars(bars, tmp_path, 12).draw(last_session(tmp_path))
    assert bars.now == expected


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        ((), {"clients": "sites 0/3"}),
        ((2, 0), {"clients": "sites 2/3"}),
        ((2, 0, 3), {"clients": "sites 3/3", "server": "server and scoring"}),
    ],
)
def test_clients_of_the_running_round(tmp_path: Path, arrived: Sequence[int], expected: dict[str, str]) -> None:
    data = {"dataset": "a", "prompt_template": "{class}", "base_classes": ["ant"], "novel_classes": []}
    write_sealed(tmp_path / "data.json", {**data, "sites": list("abcd")})
    in_its_third_round(tmp_path, arrived=arrived)
    bars = Drawn()
    FollowedBars(bars, tmp_path, 12).draw(last_session(tmp_path))
    assert bars.now == {"rounds": "rounds 2/12 about 16 min 00 s left", **expected}


def test_the_log_is_watched_from_now_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process left is not drawn."""
    monkeypatch.setattr(followed_bars, "SECONDS_BETWEEN_LOOKS", 0.01)
    bars = Drawn()
    in_its_third_round(tmp_path, arrived=(2, 0))
    time.sleep(0.002)  # the log has milliseconds
    with FollowedBars(bars, tmp_path, 12).watched():
        time.sleep(0.1)
        assert bars.now == {}
        in_its_third_round(tmp_path, arrived=(2,))
        deadline = time.monotonic() + 20
        while bars.now.get("clients") != "clients 1/3" and time.monotonic() < deadline:
            time.sleep(0.01)
    assert bars.now["clients"] == "clients 1/3"
