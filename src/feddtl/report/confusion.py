"""Predictions for test images: how many became right or wrong, and which names are confused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feddtl.predictions import ImagePredictions
from feddtl.report.drawing import Figure
from feddtl.report.resources import stacked_bars
from feddtl.results.grouping import MethodRuns, SettingRuns
from feddtl.results.tables import Cell, Column, Table
from feddtl.units import share

MOST_PAIRS = 8
OUTCOMES = ("right", "another name of its half", "a name of the other half")

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """A class and another one that is predicted for its images, choosing among all classes.

    The halves are 'base' or 'novel'; `before` and `after` training, the prediction is made for so many of the `images`
    of the class, added up over so many seeds.
    """

    name: str
    half: str
    taken_for: str
    taken_half: str
    before: int
    after: int
    images: int
    seeds: int = 1

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """Before and after as cells of a table."""
        before, after = (Cell(*share(count, self.images, self.seeds)) for count in (self.before, self.after))
        return before, after


def changed_images(setting: SettingRuns) -> Table | None:
    """How many test images became right or wrong with each method, choosing among the names of their half.

    None where no run kept predictions.
    """
    rows = []
    for method in setting.methods:
        if kept := _kept(method):
            corrected, broken = (np.concatenate(flags) for flags in zip(*map(corrected_and_broken, kept), strict=True))
            rows.append(
                (method.label, tuple(Cell(str(count)) for count in (corrected.sum(), broken.sum(), len(broken))))
            )
    title = setting.scored.capitalize() + (", added up over seeds" if len(setting.seeds) > 1 else "")
    columns = ("became right", "became wrong", "images")
    return Table(title, tuple(map(Column, columns)), tuple(rows)) if rows else None


def halves_figure(setting: SettingRuns, prefix: str) -> Figure | None:
    """Bars of right, wrong within the half, and wrong across halves; None without novel classes or predictions."""
    methods = [(method, kept) for method in setting.methods if (kept := _kept(method))]
    if not methods or not setting.has_novel_classes:
        return None
    boundary = setting.first.base_classes
    models = [("Zero-shot", [(p.labels, p.zero_shot.among_all) for p in methods[0][1]])]
    models += [(method.label, [(p.labels, p.final.among_all) for p in kept]) for method, kept in methods]
    rows = {}
    for half, title in enumerate(("base", "novel")):
        for label, pairs in models:
            truth, taken = (np.concatenate([np.asarray(pair[side]) for pair in pairs]) for side in (0, 1))
            mine = (truth >= boundary) == bool(half)
            if mine.any():
                rows[f"{label}, {title} images"] = _outcome_shares(truth[mine], taken[mine], boundary)
    return stacked_bars(
        "Base and novel names together",
        f"{prefix}-halves",
        f"Predictions for {setting.scored} among all names",
        rows,
        OUTCOMES,
        part_text=lambda name, value: f"{value:.1f} % {name}",
        end_text=lambda row: f"{row[0]:.1f} %",
        unit=f"{setting.scored} in %",
        caption="The model chooses among all names at once, so accuracies are lower than in the table. "
        "The number at the end is the percentage of correct predictions.",
        height_of_row=0.46,
    )


def confused_pairs(method: MethodRuns) -> list[Pair]:
    """The pairs of classes that are confused most often after training, over the seeds of a method."""
    kept = _kept(method)
    if not kept:
        return []
    run = method.runs[0]
    names, boundary = run.class_names, run.base_classes
    labels = np.concatenate([np.asarray(p.labels) for p in kept])
    before, after = (
        Counter(zip(labels.tolist(), np.concatenate(taken).tolist(), strict=True))
        for taken in ([p.zero_shot.among_all for p in kept], [p.final.among_all for p in kept])
    )
    of_name = Counter(labels.tolist())
    wrong = sorted((-count, pair) for pair, count in after.items() if pair[0] != pair[1])
    return [
        Pair(
            names[name],
            "base" if name < boundary else "novel",
            names[other],
            "base" if other < boundary else "novel",
            before[name, other],
            after[name, other],
            of_name[name],
            len(kept),
        )
        for _, (name, other) in wrong[:MOST_PAIRS]
    ]


def by_class(setting: SettingRuns) -> Table | None:
    """Accuracy of each class with zero-shot and every method, choosing among the names of its half.

    The class with the most errors of the first method comes first, so that a class of few images does not. None where
    no run kept predictions.
    """
    kept = [run.predictions for run in setting.with_predictions if run.predictions]
    if not kept:
        return None
    names, boundary = setting.first.class_names, setting.first.base_classes
    hits = {"zero-shot": [(p.labels.numpy(), p.zero_shot_hits.numpy()) for p in kept]}
    for method in setting.methods:
        if own := _kept(method):
            hits[method.label] = [(p.labels.numpy(), p.final_hits.numpy()) for p in own]
    counts = {label: _counts_of_classes(pairs, len(names)) for label, pairs in hits.items()}
    right, images = counts[list(counts)[min(1, len(counts) - 1)]]
    each = np.bincount(kept[0].labels.numpy(), minlength=len(names))
    rows = []
    for c in np.argsort(right - images, kind="stable").tolist():
        cells = [
            Cell(*share(int(mine[c]), int(all_images[c]), len(hits[label])))
            for label, (mine, all_images) in counts.items()
        ]
        rows.append((f"{names[c]} ({'base' if c < boundary else 'novel'})", (Cell(str(each[c])), *cells)))
    seeds = ", added up over seeds" if len(setting.seeds) > 1 else ""
    title = f"{setting.scored.capitalize()} that are right, in %{seeds}"
    return Table(title, tuple(map(Column, ("images", *hits))), tuple(rows), corner="class")


def _counts_of_classes(
    pairs: Iterable[tuple[NDArray[np.int64], Flags]], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(C,) hits and (C,) images of each class, of labels and hits of several runs."""
    labels, hits = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return np.bincount(labels[hits], minlength=classes), np.bincount(labels, minlength=classes)


def corrected_and_broken(predictions: ImagePredictions) -> tuple[Flags, Flags]:
    """(N,) images that became right, and (N,) images that became wrong, choosing among the names of their half."""
    before, after = predictions.zero_shot_hits.numpy(), predictions.final_hits.numpy()
    return ~before & after, before & ~after


def _kept(method: MethodRuns) -> list[ImagePredictions]:
    return [run.predictions for run in method.counted if run.predictions]


def _outcome_shares(truth: NDArray[np.int64], taken: NDArray[np.int64], boundary: int) -> list[float]:
    """Percent of images by `OUTCOMES`; labels from `boundary` on are novel."""
    right = truth == taken
    own_half = (truth >= boundary) == (taken >= boundary)
    return [100 * float(flags.mean()) for flags in (right, ~right & own_half, ~own_half)]
