"""Axes of the curves by round: whole rounds, plain numbers, no fall where there is only rounding; labels of bars."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from feddtl.plots import least_points, weight_of_an_image, widen_accuracy
from feddtl.report.accuracy import Curve, lines
from feddtl.report.drawing import PAPER, draw
from feddtl.report.resources import stacked_bars


def curve(*means: float) -> Curve:
    return Curve("FedDTL", 0, list(range(1, len(means) + 1)), list(means), [0.0] * len(means))


def test_scores_that_differ_by_rounding_are_level() -> None:
    """16.666667163 is what single precision makes of 100/6: a difference of 5e-7 points fills no figure."""
    axes = Figure().subplots()
    lines(axes, [curve(100 / 6, 16.666667163)], "accuracy in %")
    widen_accuracy(axes)
    bottom, top = axes.get_ylim()
    assert top - bottom == pytest.approx(10.0)
    assert (bottom + top) / 2 == pytest.approx(100 / 6)


@pytest.mark.parametrize(
    ("images", "points"),
    [(0, 10.0), (1000, 10.0), (50, 10.0), (20, 25.0), (3, 100.0)],
    ids=["unknown", "many", "fifty", "twenty", "three"],
)
def test_one_image_does_not_fill_the_axis(images: int, points: float) -> None:
    """Five images or ten points: 5 · 100 / 20 = 25. Two curves that differ by one image of 20 are near each other."""
    assert least_points(images) == points
    axes = Figure().subplots()
    lines(axes, [curve(95.0, 100.0)], "accuracy in %")
    widen_accuracy(axes, images)
    bottom, top = axes.get_ylim()
    assert top - bottom >= points - 1e-9
    assert top >= 100.0
    assert bottom <= 95.0


def test_the_worth_of_an_image_is_said_where_it_is_much() -> None:
    assert weight_of_an_image(52, "base image") == "One of 52 base images is 1.9 points."
    assert weight_of_an_image(52, "base image", seeds=3) == "One of 52 base images is 1.9 points of one seed."
    assert weight_of_an_image(2000, "base image") == weight_of_an_image(0, "base image") == ""


def test_rounds_of_fewer_clients_are_hollow() -> None:
    axes = Figure().subplots()
    lines(axes, [replace(curve(40.0, 60.0, 50.0), hollow=frozenset({2}))], "accuracy in %")
    _, marked = axes.get_lines()
    assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([2], [60.0])
    assert marked.get_markerfacecolor() == PAPER


def test_a_greater_difference_keeps_its_own_axis() -> None:
    plain, wide = Figure().subplots(), Figure().subplots()
    for axes in (plain, wide):
        lines(axes, [curve(40.0, 60.0)], "accuracy in %")
    widen_accuracy(wide, images=1000)
    assert wide.get_ylim() == plain.get_ylim()


def test_a_single_round_has_one_whole_number_below_it() -> None:
    axes = Figure().subplots()
    lines(axes, [curve(50.0)], "accuracy in %")
    left, right = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if left <= tick <= right] == [1.0]


def test_small_differences_of_large_numbers_are_written_out() -> None:
    """No '1e-5+1.6666e1' above the axis, which the numbers beside it would have to be added to."""
    svg = draw("", "offset", "", lambda axes: lines(axes, [curve(16.66666, 16.66668)], "ratio")).svg
    assert "e-5" not in svg
    assert "16.6666" in svg


def test_a_label_that_is_wider_than_the_figure_is_broken_into_lines() -> None:
    """In one line, it leaves no width for the bars, and the layout of the figure fails with a warning."""
    label = "FedDTL, rl.action argmax, rl.rollout round, server.aggregator mean, system.dropout 0.3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = stacked_bars(
            "Time",
            "s0-time",
            "Seconds",
            {"FedLoRA": [1.0], label: [2.0]},
            ["training"],
            part_text=lambda name, value: f"{name} {value:.0f}",
            end_text=lambda row: f"{sum(row):.0f} s",
            unit="seconds",
            caption="",
        )
    assert f"{label}: training 2" in figure.description
    assert ">FedDTL, rl.action argmax, rl.rollout round,<" in figure.svg
    assert ">FedLoRA<" in figure.svg
