"""The picture of the README shows the numbers of its runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from comparison.made_up import outcome
from made_records import made_record

from draw_quickstart import draw
from feddtl.results.run import RunResult


def run(method: str, stages: str, base: tuple[float, float], novel: tuple[float, float]) -> RunResult:
    """Two rounds; zero-shot has 40 % and 60 %."""
    kinds = ("sft", "rl" if stages == "sft-then-rl" else "sft")
    rounds = zip((1, 2), kinds, base, novel, strict=True)
    records = tuple(made_record(number, stage=kind, base=b, novel=n) for number, kind, b, n in rounds)
    return replace(outcome("x", 0, base[-1], novel[-1], method=method, stages=stages), records=records)


def test_a_curve_for_each_method_starts_at_zero_shot() -> None:
    runs = [run("feddtl", "sft-then-rl", (50, 70), (61, 62)), run("fedlora", "sft", (45, 55), (58, 57))]
    base, novel = draw(runs).axes
    curves = [{line.get_label(): list(line.get_ydata()) for line in axes.get_lines()} for axes in (base, novel)]
    assert curves[0] == {"FedDTL": [40, 50, 70], "FedLoRA": [40, 45, 55], "zero-shot": [40, 40]}
    assert curves[1] == {"FedDTL": [60, 61, 62], "FedLoRA": [60, 58, 57], "zero-shot": [60, 60]}
    assert base.get_ylim() == novel.get_ylim() == (0, 80)
    [shade] = base.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1.5, 2.5)


def test_runs_on_other_images_are_refused() -> None:
    """Their zero-shot accuracies differ, so one line cannot stand for both."""
    runs = [run("feddtl", "sft", (1, 2), (3, 4)), run("fedlora", "sft", (1, 2), (3, 4))]
    other = replace(runs[1], summary=replace(runs[1].finished, zero_shot={"base": 1.0, "novel": 2.0}))
    with pytest.raises(ValueError, match="too many values"):
        draw([runs[0], other])
