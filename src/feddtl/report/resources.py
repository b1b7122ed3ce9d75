"""Figures of the partition, of the cost in seconds and bytes, and of the RL stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, starmap
from textwrap import fill
from typing import TYPE_CHECKING

from feddtl.plots import widen_accuracy
from feddtl.report.accuracy import LETTERS_ACROSS, LETTERS_OF_CLIENT, Curve, curves_of, draw_curves, lines
from feddtl.report.drawing import INK, MUTED, PAPER, SMALL, Figure, Key, colour_of, draw
from feddtl.results.grouping import SettingRuns
from feddtl.results.statistics import spread_of
from feddtl.timing import PHASE_TITLES, PHASES
from feddtl.units import duration, shortened, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Legible on the light and the dark page; its opacity shows the number of images.
HEAT = (0x2F / 255, 0x81 / 255, 0xC7 / 255)
MOST_NUMBERS, MOST_NAMES = 240, 45
DIRECTIONS = {"bytes_up": "to the server", "bytes_down": "to the clients"}
# A longer line of a label leaves no width for the bars; height of a line in inches.
LETTERS_OF_LABEL, LINE = 48, 0.18
# Field of a record's `train`, title, axis, factor.
RL_MEASURES = (
    ("reward", "Reward", "right samples in %", 100.0),
    ("all_equal_groups", "Groups without signal", "all-equal groups in %", 100.0),
    ("kl", "KL to the reference", "mean KL term", 1.0),
    ("mean_ratio", "Probability ratio", "new / old probability", 1.0),
    ("clip_fraction", "Clipped ratios", "ratios outside 1 ± ε in %", 100.0),
)
# Shares of images or groups, whose axes do not show a difference of a few of them as large.
SHARES = ("reward", "all_equal_groups")


def partition_map(setting: SettingRuns, prefix: str) -> Figure | None:
    """Class × client heat map of training images of the lowest seed; None if the images are on the clients."""
    run = setting.first
    counts = run.data["images_per_client_and_class"]  # (K, C)
    if not counts:
        return None
    names, clients_are = run.class_names[: run.base_classes], run.client_names
    clients, classes = len(counts), len(names)
    each = 1 if classes <= MOST_NAMES else math.ceil(classes / MOST_NAMES)

    def paint(axes: Axes) -> None:
        most = max(1, *(max(row, default=0) for row in counts))
        shades = [[(*HEAT, 0.85 * counts[k][c] / most) for k in range(clients)] for c in range(classes)]
        axes.imshow(shades, aspect="auto", interpolation="none")
        axes.grid(visible=False)
        axes.set_yticks(range(0, classes, each), names[::each])
        step = math.ceil(clients / 12)
        labels = [shortened(clients_are.label(client), LETTERS_OF_CLIENT) for client in range(0, clients, step)]
        axes.set_xticks(range(0, clients, step), labels, rotation=90 if max(map(len, labels)) > LETTERS_ACROSS else 0)
        axes.set_xlabel(clients_are.noun)
        axes.tick_params(length=0)
        axes.hlines([c - 0.5 for c in range(1, classes)], -0.5, clients - 0.5, color=PAPER, linewidth=1)
        axes.vlines([k - 0.5 for k in range(1, clients)], -0.5, classes - 0.5, color=PAPER, linewidth=1)
        axes.spines[:].set_visible(False)
        if clients * classes <= MOST_NUMBERS:
            for k, row in enumerate(counts):
                for c, count in enumerate(row):
                    if count:
                        axes.text(k, c, str(count), ha="center", va="center", color=INK, fontsize=SMALL)

    totals = ", ".join(f"{clients_are.one(client)}: {sum(row)}" for client, row in enumerate(counts))
    description = f"Training images by class and {clients_are.noun}, seed {run.seed}. {totals}"
    height = 1.0 + 0.2 * min(classes, MOST_NAMES)
    left_out = "" if each == 1 else f" Every {each}th class is named."
    where = f"at each {clients_are.noun}" if clients_are.sites else "on each client"
    caption = f"Training images of each base class {where}, seed {run.seed}.{left_out}"
    name = f"{prefix}-partition"
    return draw(f"Images by {clients_are.noun}", name, description, paint, caption=caption, height=height)


def seconds_by_phase(setting: SettingRuns, prefix: str) -> Figure | None:
    """Stacked bars of wall-clock time, mean over the finished runs; None without any."""
    means = {
        method.label: [spread_of(run.seconds.get(phase, 0.0) for run in method.counted).mean or 0.0 for phase in PHASES]
        for method in setting.methods
        if any(run.seconds for run in method.counted)
    }
    if not means:
        return None
    used = [index for index in range(len(PHASES)) if any(mean[index] > 0 for mean in means.values())]
    return stacked_bars(
        "Time by phase",
        f"{prefix}-seconds",
        "Seconds by phase",
        {label: [mean[index] for index in used] for label, mean in means.items()},
        [PHASE_TITLES[PHASES[index]] for index in used],
        part_text=lambda name, value: f"{name} {duration(value, precise=True)}",
        end_text=lambda row: duration(sum(row)),
        unit="seconds",
        caption="Wall-clock time, mean over seeds.",
    )


def bytes_sent(setting: SettingRuns, prefix: str) -> Figure | None:
    """Bytes to and from the server over all rounds, mean over seeds; None where nothing was sent."""
    means = {
        method.label: [spread_of(run.sent(direction) for run in method.counted).mean or 0.0 for direction in DIRECTIONS]
        for method in setting.methods
        if any(run.records for run in method.counted)
    }
    if not means:
        return None
    return stacked_bars(
        "Traffic",
        f"{prefix}-bytes",
        "Bytes sent",
        means,
        list(DIRECTIONS.values()),
        part_text=lambda name, value: f"{size(round(value))} {name}",
        end_text=lambda row: size(round(sum(row))),
        unit="MB",
        caption="Tensors over all rounds and clients, without message overhead; mean over seeds.",
        scale=1e6,
    )


def reinforcement(setting: SettingRuns, prefix: str) -> list[Figure]:
    """How the RL stage went, by round; nothing without one."""
    figures = []
    for key, title, axis, factor in RL_MEASURES:
        if curves := curves_of(setting.methods, key, "train", factor):
            name, what = f"{prefix}-rl-{key}", f"{title}, {axis}, by round"
            paint = partial(_paint_measure, curves, axis, is_share=key in SHARES)
            figures.append(draw_curves(title, name, what, curves, paint, height=2.6))
    return figures


def _paint_measure(curves: Sequence[Curve], axis: str, axes: Axes, *, is_share: bool) -> None:
    lines(axes, curves, axis)
    if is_share:
        widen_accuracy(axes)


def stacked_bars(
    title: str,
    name: str,
    what: str,
    rows: Mapping[str, Sequence[float]],
    parts: Sequence[str],
    *,
    part_text: Callable[[str, float], str],
    end_text: Callable[[Sequence[float]], str],
    unit: str,
    caption: str,
    scale: float = 1.0,
    height_of_row: float = 0.5,
) -> Figure:
    """Horizontal bars in parts, each below its label and with a text at its end; see `draw`.

    `rows` has by label a value for each part, `scale` of which are one unit of the axis. `part_text` puts the name and
    value of a part into words, for the description.
    """
    texts = {label: ", ".join(starmap(part_text, zip(parts, row, strict=True))) for label, row in rows.items()}
    description = f"{what}. {'; '.join(f'{label}: {text}' for label, text in texts.items())}"
    labels = [fill(label, LETTERS_OF_LABEL) for label in rows]
    more_lines = accumulate(label.count("\n") for label in labels)
    heights = [number + LINE / height_of_row * lines for number, lines in enumerate(more_lines)]

    def paint(axes: Axes) -> None:
        for label, row, y in zip(labels, rows.values(), heights, strict=True):
            begin = 0.0
            for style, value in enumerate(row):
                width = value / scale
                axes.barh(y, width, 0.44, left=begin, color=colour_of(style), edgecolor=PAPER, linewidth=0.7)
                begin += width
            axes.annotate(label, (0, y - 0.25), (0, 1), textcoords="offset points", va="bottom", color=INK)
            axes.annotate(end_text(row), (begin, y), (5, 0), textcoords="offset points", va="center", color=MUTED)
        axes.set_ylim(heights[-1] + 1 - 0.65, -0.8)
        longest = max(sum(value / scale for value in row) for row in rows.values()) or 1.0
        axes.set_xlim(0, 1.3 * longest)
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.01 * longest])
        axes.set_yticks([])
        axes.set_xlabel(unit)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    keys = [Key(part, style, "area") for style, part in enumerate(parts)]
    height = 0.75 + height_of_row * (heights[-1] + 1)
    return draw(title, name, description, paint, keys=keys, caption=caption, height=height)
