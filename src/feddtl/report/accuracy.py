"""Accuracy as figures: by round, base against novel, by client."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from feddtl.evaluate import accuracy, harmonic_mean
from feddtl.plots import weight_of_an_image, widen_accuracy
from feddtl.records import GLOBAL_SCORES, SCORE_HEADINGS
from feddtl.report.drawing import BAND, INK, MUTED, PAPER, RULE, SMALL, Figure, Key, Paint, colour_of, draw, marker_of
from feddtl.report.missing import as_shown, final_coverage, history
from feddtl.results.grouping import MethodRuns, SettingRuns, common_rounds
from feddtl.results.run import RunResult
from feddtl.results.statistics import Spread, spread_of
from feddtl.units import ClientNames, percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = SCORE_HEADINGS | {"harmonic_mean": "Harmonic mean"}
ZERO_SHOT = Key("Zero-shot", kind="dashes")
# More bars are too thin to distinguish.
MOST_BARS = 60
LETTERS_OF_CLIENT, LETTERS_ACROSS = 24, 8
"""Letters of a client's name below its bars, and of one that is written across."""
# Steps between the harmonic means whose lines are drawn, and how many lines can be distinguished.
STEPS, MOST_LINES = (1, 2, 5, 10, 20), 6
# A method, and its accuracy by client.
ByClient = tuple[MethodRuns, dict[int, float]]


@dataclass(frozen=True)
class Curve:
    """A method's means over seeds by round, and standard deviations, zero for one seed.

    Rounds in `hollow` are marked: their numbers are of fewer clients than those of other rounds.
    """

    label: str
    style: int
    rounds: list[int]
    means: list[float]
    deviations: list[float]
    hollow: frozenset[int] = frozenset()


def curves_of(methods: Iterable[MethodRuns], key: str, table: str = "headline", factor: float = 1.0) -> list[Curve]:
    """A curve for each method whose records have a measure; see `common_rounds`."""
    curves = []
    for method in methods:
        spreads = {
            number: spread_of(factor * value for value in values)
            for number, values in common_rounds(method.runs, key, table).items()
        }
        if spreads:
            means = [spread.mean or 0.0 for spread in spreads.values()]
            deviations = [spread.std or 0.0 for spread in spreads.values()]
            curves.append(Curve(method.label, method.style, list(spreads), means, deviations))
    return curves


def by_round(setting: SettingRuns, prefix: str) -> list[Figure]:
    """A figure for each measure, with a curve for each method and zero-shot as a level."""
    figures, shown = [], as_shown(setting)
    setting = shown.setting
    for key in (*GLOBAL_SCORES, "local"):
        if curves := curves_of(setting.methods, key):
            curves = [replace(curve, hollow=shown.hollow.get(key, frozenset())) for curve in curves]
            level, images = spread_of(scores[key] for scores in setting.zero_shot.values()), images_behind(setting)
            fewest = images.get(key, images.get("base", 0))
            if key == "harmonic_mean":
                fewest = min(images.values(), default=0)
            paint = partial(_paint_rounds, setting, curves, level, fewest)
            what = f"{TITLES[key]} accuracy by round, in percent"
            worth = weight_of_an_image(images.get(key, 0), f"{key} image", len(setting.seeds))
            caption = " ".join(filter(None, (shown.captions.get(key, ""), worth)))
            name = f"{prefix}-{key}"
            figures.append(draw_curves(TITLES[key], name, what, curves, paint, level=level, caption=caption))
    return figures


def images_behind(setting: SettingRuns) -> dict[str, int]:
    """Number of test images behind base and novel accuracy; halves without images are omitted."""
    data = setting.first.data
    found = {half: data.get(f"test_{half}_images") or 0 for half in ("base", "novel")}
    for run in setting.runs:
        for scored in history(run).values():
            found = {"base": max(found["base"], scored.base_images), "novel": max(found["novel"], scored.novel_images)}
    return {half: count for half, count in found.items() if count}


def draw_curves(
    title: str,
    name: str,
    what: str,
    curves: Sequence[Curve],
    paint: Paint,
    *,
    level: Spread | None = None,
    caption: str = "",
    height: float = 3.1,
) -> Figure:
    """A figure of curves, and of zero-shot as a level; it is described by the first and last value of every curve."""
    ends = [
        f"{curve.label}: {curve.means[0]:.4g} in round {curve.rounds[0]}, "
        f"{curve.means[-1]:.4g} in round {curve.rounds[-1]}"
        for curve in curves
    ]
    keys = [Key(curve.label, curve.style) for curve in curves]
    if level and level.n:
        ends.append(f"zero-shot: {percent(level.mean)}")
        keys.append(ZERO_SHOT)
    return draw(title, name, f"{what}. {'; '.join(ends)}", paint, keys=keys, caption=caption, height=height)


def _paint_rounds(setting: SettingRuns, curves: Sequence[Curve], level: Spread, images: int, axes: Axes) -> None:
    """Curves over so many test images, zero-shot as a level, and the RL rounds shaded where all runs share them."""
    runs = (run for method in setting.methods for run in method.counted)
    stages = {tuple(record.round for record in run.records if record.stage == "rl") for run in runs}
    if len(stages) == 1 and (rounds := stages.pop()):
        axes.axvspan(rounds[0] - 0.5, rounds[-1] + 0.5, color=BAND, linewidth=0, zorder=0)
        axes.text(rounds[0] - 0.4, 0.985, "RL", color=MUTED, va="top", transform=axes.get_xaxis_transform())
    if level.mean is not None:
        axes.axhline(level.mean, color=INK, linestyle="--", linewidth=1.1)
    lines(axes, curves, "accuracy in %")
    widen_accuracy(axes, images)


def lines(axes: Axes, curves: Sequence[Curve], ylabel: str) -> None:
    """Curves with bands of one standard deviation over seeds."""
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        colour, means, deviations = colour_of(curve.style), np.array(curve.means), np.array(curve.deviations)
        if deviations.any():
            axes.fill_between(
                curve.rounds, means - deviations, means + deviations, color=colour, alpha=0.18, linewidth=0
            )
        every = max(1, math.ceil(len(curve.rounds) / 12))
        axes.plot(curve.rounds, curve.means, color=colour, marker=marker_of(curve.style), markevery=every)
        marked = [(number, mean) for number, mean in zip(curve.rounds, means, strict=True) if number in curve.hollow]
        if marked:
            axes.plot(
                *zip(*marked, strict=True),
                marker_of(curve.style),
                markerfacecolor=PAPER,
                markeredgecolor=colour,
                markersize=7,
                zorder=3,
            )
    axes.set_xlabel("round")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    first, last = (end(number for curve in curves for number in curve.rounds) for end in (min, max))
    room = 0.04 * (last - first) or 0.5
    axes.set_xlim(first - room, last + room)


def base_against_novel(setting: SettingRuns, prefix: str) -> Figure | None:
    """A point for each run, zero-shot, and lines of equal harmonic mean; None without novel classes."""
    points = [
        (method, base, novel)
        for method in setting.methods
        for run in method.counted
        if (base := run.final.get("base")) is not None and (novel := run.final.get("novel")) is not None
    ]
    pairs = [(scores["base"], scores["novel"]) for scores in setting.zero_shot.values()]
    start = [(base, novel) for base, novel in pairs if base is not None and novel is not None]
    if not points and not start:
        return None

    def paint(axes: Axes) -> None:
        everything = [*start, *((base, novel) for _, base, novel in points)]
        left, right = _range([base for base, _ in everything])
        bottom, top = _range([novel for _, novel in everything])
        axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="base accuracy in %", ylabel="novel accuracy in %")
        _equal_harmonic_means(axes, left, right, bottom, top)
        for base, novel in sorted(set(start)):
            axes.plot(base, novel, marker="*", markersize=12, color=INK, linestyle="none")
        for method, base, novel in points:
            marker, colour = marker_of(method.style), colour_of(method.style)
            axes.plot(base, novel, marker=marker, markersize=7, color=colour, markeredgecolor=PAPER, linestyle="none")

    described = "; ".join(f"{method.label}: base {percent(b)}, novel {percent(n)}" for method, b, n in points)
    shown = {method.style for method, _, _ in points}
    keys = [Key(method.label, method.style, "point") for method in setting.methods if method.style in shown]
    description = f"Base against novel accuracy in percent, a point for each run. {described}"
    keys += [Key("Zero-shot", kind="star")] if start else []
    caption = "One point per run. Grey lines connect points of equal harmonic mean (HM)."
    of = dict.fromkeys(filter(None, (final_coverage(run) for method in setting.methods for run in method.counted)))
    caption += f" After the last round: {'; '.join(of)}." if of else ""
    name = f"{prefix}-scatter"
    return draw("Base against novel", name, description, paint, keys=keys, caption=caption, height=3.4)


def by_client(setting: SettingRuns, prefix: str) -> Figure | None:
    """Accuracy of each client's own model on its own share, of one seed; None where it is not recorded."""
    seed, methods = _seed_with_clients(setting)
    if not methods:
        return None
    before = next((zero_shot_by_client(run) for run in setting.with_predictions if run.seed == seed), {})
    bars = sum(len(values) for _, values in methods) <= MOST_BARS
    names = setting.first.client_names
    paint = partial(_paint_bars, methods, before, names) if bars else partial(_paint_sorted, methods, names)
    ranges = "; ".join(
        f"{method.label}: {percent(min(values.values()))} to {percent(max(values.values()))}"
        for method, values in methods
    )
    description = f"Local accuracy by {names.noun} in percent, seed {seed}. {ranges}"
    keys = [Key(method.label, method.style, "area" if bars else "marker") for method, _ in methods]
    if bars and before:
        keys.append(ZERO_SHOT)
    caption = f"Each {names.noun}'s own model on its own mixture of the base classes, seed {seed}."
    shown = {client for _, values in methods for client in values}
    caption += _clients_left_out(setting, shown)
    return draw(f"By {names.noun}", f"{prefix}-clients", description, paint, keys=keys, caption=caption, height=3.4)


def _clients_left_out(setting: SettingRuns, shown: Collection[int]) -> str:
    """Which clients are not shown, and the reasons that there may be."""
    absent = sorted(set(range(setting.first.experiment.data.client_count)) - set(shown))
    if not absent:
        return ""
    failed = {client for run in setting.runs if run.last_scored for client in run.last_scored.failures}
    why = (
        "lost in the last scored round" if set(absent) <= failed else f"no base {setting.scored}, not selected, or lost"
    )
    return f" Without {setting.first.client_names.all_of(absent)}: {why}."


def _paint_bars(methods: Sequence[ByClient], before: Mapping[int, float], names: ClientNames, axes: Axes) -> None:
    """A group of bars for each client, zero-shot as a dash across it."""
    width = 0.8 / len(methods)
    for number, (method, values) in enumerate(methods):
        at = [client + (number - (len(methods) - 1) / 2) * width for client in values]
        axes.bar(at, list(values.values()), width * 0.92, color=colour_of(method.style))
    if before:
        ends = [client - 0.45 for client in before], [client + 0.45 for client in before]
        axes.hlines(list(before.values()), *ends, color=INK, linestyle=(0, (3, 1.5)), linewidth=1.4, zorder=3)
    clients = sorted({client for _, values in methods for client in values})
    labels = [shortened(names.label(client), LETTERS_OF_CLIENT) for client in clients]
    axes.set_xticks(clients, labels, rotation=90 if max(map(len, labels)) > LETTERS_ACROSS else 0)
    axes.set(ylim=(0, 100), xlabel=names.noun, ylabel="local accuracy in %")
    axes.grid(visible=False, axis="x")


def _paint_sorted(methods: Sequence[ByClient], names: ClientNames, axes: Axes) -> None:
    """A curve for each method, with its clients from the worst to the best."""
    for method, values in methods:
        axes.plot(sorted(values.values()), color=colour_of(method.style), marker=marker_of(method.style), markersize=3)
    axes.set(xlabel=f"{names.noun}s, from the worst to the best", ylabel="local accuracy in %")
    widen_accuracy(axes)


def local_by_client(run: RunResult) -> dict[int, float]:
    """Local accuracy by client in the last scored round; empty where it is not recorded."""
    scores = run.last_scored.scores if run.last_scored else None
    values = scores.local_by_client if scores else {}
    return {client: value for client, value in sorted(values.items()) if not math.isnan(value)}


def zero_shot_by_client(run: RunResult) -> dict[int, float]:
    """Accuracy of zero-shot CLIP on each client's share; empty where the run kept no predictions."""
    if run.predictions is None:
        return {}
    hits, owners = run.predictions.zero_shot_hits, run.predictions.owners
    return {client: accuracy(hits[owners == client]) for client in sorted(set(owners.tolist()) - {-1})}


def _seed_with_clients(setting: SettingRuns) -> tuple[int, list[ByClient]]:
    """The lowest seed with local accuracies of any method, and the methods that have them."""
    for seed in setting.seeds:
        runs = ((method, run) for method in setting.methods for run in method.runs if run.seed == seed)
        if found := [(method, values) for method, run in runs if (values := local_by_client(run))]:
            return seed, found
    return 0, []


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis with room around the values, at least ten percent points wide."""
    middle, half = (min(values) + max(values)) / 2, max(5.0, 0.65 * (max(values) - min(values)))
    return max(0.0, middle - half), min(100.0, middle + half)


def _equal_harmonic_means(axes: Axes, left: float, right: float, bottom: float, top: float) -> None:
    """novel = HM · base / (2 · base - HM), with its value where the line leaves the figure at the right."""
    lowest, highest = harmonic_mean(left, bottom), harmonic_mean(right, top)
    step = next((step for step in STEPS if (highest - lowest) / step <= MOST_LINES), STEPS[-1])
    bases = [left + (right - left) * number / 100 for number in range(101)]
    axes.grid(visible=False)
    for level in range(step * math.ceil(lowest / step), math.ceil(highest), step):
        points = [(base, level * base / (2 * base - level)) for base in bases if 2 * base > level]
        inside = [(base, novel) for base, novel in points if bottom <= novel <= top]
        if len(inside) < 12:
            continue
        axes.plot(*zip(*inside, strict=True), color=RULE, linewidth=1)
        base, novel = inside[-1]
        axes.annotate(
            f"HM {level}", (base, novel), (-4, 4), textcoords="offset points", ha="right", color=MUTED, fontsize=SMALL
        )
