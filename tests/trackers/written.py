"""The numbers of a run as its own files have them, for comparison with what trackers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feddtl.records import RoundRecord

Points = dict[str, list[tuple[int, float]]]
"""Steps and values of every scalar."""


def expected(run: Path) -> Points:
    """Every scalar from metrics.jsonl, and at step 0 the scores before training from summary.json."""
    found: Points = {}
    start: dict[str, Any] = json.loads((run / "summary.json").read_text())["zero_shot"]
    for key, value in start.items():
        found.setdefault(key, []).append((0, value))
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = RoundRecord.from_dict(json.loads(line))
        for tag, value in record.scalars.items():
            found.setdefault(tag, []).append((record.round, value))
    return found


def assert_the_same(ours: Points, theirs: Points) -> None:
    """Equal but for rounding: event files have single precision, and summaries four decimals."""
    assert ours.keys() == theirs.keys()
    for tag, points in theirs.items():
        assert [step for step, _ in ours[tag]] == [step for step, _ in points], tag
        assert [value for _, value in ours[tag]] == pytest.approx([value for _, value in points], rel=1e-5), tag
