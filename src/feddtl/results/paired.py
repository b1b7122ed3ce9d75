"""Intervals of the rows of a table, and which row is distinguishable from every other one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from feddtl.config.running import SCORED_IMAGES
from feddtl.records import SCORES, Headline
from feddtl.results.bootstrap import RESAMPLES, Replicates, difference_interval, interval, replicates
from feddtl.results.hits import ModelHits
from feddtl.results.run import RunResult
from feddtl.results.statistics import Interval
from feddtl.units import listed

BySeed = Mapping[int, float]
HitsBySeed = Mapping[int, ModelHits]
# Behind the label of a method whose clients keep a part of their model.
PERSONAL = " †"
PERSONAL_NOTE = (
    "†: each client keeps a part of its model. Base, Novel and HM are of the global model without these parts; Local "
    "is of the clients' own models{see}."
)
# Fewer seeds say little about what other seeds would give.
ENOUGH_SEEDS = 5


def interval_notes(seeds: Sequence[int], known: Mapping[str, bool], scored: str = SCORED_IMAGES["test"]) -> list[str]:
    """What the numbers of a table over these seeds are: intervals where hits are known, else standard deviations.

    Args:
        seeds: All seeds of the table.
        known: For the label of each row, whether it has intervals.
        scored: What the table's numbers are measured on.
    """
    if not seeds:
        return []
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over seeds {listed(list(map(str, seeds)))}"
    if not any(known.values()):
        spread = "" if len(seeds) == 1 else of_seeds.replace("mean", "mean ± standard deviation", 1)
        return [
            f"After the last round, {spread or of_seeds}.",
            f"No intervals and nothing in bold: these results do not record which {scored} were right.",
        ]
    if len(seeds) == 1:
        notes = [
            f"After the last round, {of_seeds}, with the 95 % interval of a bootstrap over {scored} alone, "
            f"{RESAMPLES:,} resamples; it does not cover other seeds."
        ]
    else:
        notes = [
            f"After the last round, {of_seeds}, with the 95 % interval of a hierarchical bootstrap over {scored} "
            f"and seeds, {RESAMPLES:,} resamples."
        ]
    if 1 < len(seeds) < ENOUGH_SEEDS:
        notes.append(f"{len(seeds)} seeds say little about others: take {ENOUGH_SEEDS} where a difference is claimed.")
    notes.append("Bold: above every other row, with paired intervals of the differences that exclude zero.")
    if missing := [label for label, has_interval in known.items() if not has_interval]:
        notes.append(f"Which {scored} were right is not recorded for {listed(missing)}.")
    return notes


def final_hits(runs: Iterable[RunResult]) -> dict[int, ModelHits]:
    """By seed, hits of each run's models after training; empty if one of the runs does not know its hits."""
    found = {run.seed: run.hits and run.hits.after_training for run in runs}
    return {} if None in found.values() else {seed: hits for seed, hits in found.items() if hits}


def zero_shot_hits(runs: Iterable[RunResult], seeds: Iterable[int]) -> dict[int, ModelHits]:
    """By seed, hits before training, of one run each; empty if a seed has no run that knows them."""
    found = {run.seed: run.hits.before_training for run in runs if run.hits}
    wanted = list(seeds)
    return {seed: found[seed] for seed in wanted} if all(seed in found for seed in wanted) else {}


def client_model_hits(runs: Iterable[RunResult]) -> dict[int, ModelHits]:
    """By seed, hits of the clients' own models; empty if one of the runs with such scores does not know them."""
    found = {run.seed: run.hits and run.hits.client_models for run in runs if run.client_models}
    return {} if None in found.values() else {seed: hits for seed, hits in found.items() if hits}


def is_personal(run: RunResult) -> bool:
    """Whether each client keeps a part of its model, so that the global model is nobody's."""
    parameters = run.summary.trainable_parameters if run.summary else None
    return isinstance(parameters, Mapping) and bool(parameters.get("personal"))


def personal_notes(*, any_personal: bool, own_models: bool) -> list[str]:
    """What the mark of a personal method means; `own_models`: whether a table of the clients' own models exists."""
    see = "; see also the table of these" if own_models else ""
    return [PERSONAL_NOTE.format(see=see)] if any_personal else []


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table of scores.

    Attributes:
        label: Its label.
        scores: Values by score and seed.
        hits: By seed, what the values are of; empty if it is not known for every seed.
        competes: Whether it may be the best, and must be beaten by the best.
    """

    label: str
    scores: Mapping[str, BySeed]
    hits: HitsBySeed
    competes: bool = True


@dataclass(frozen=True, eq=False)
class Compared:
    """What the resamples say about a row.

    Attributes:
        replicates: Its scores in every resample.
        intervals: By score, of the mean over seeds, where hits are known for the same seeds.
        leads: The scores in which it is above every other row, with intervals of the differences above zero.
    """

    replicates: Replicates
    intervals: Mapping[str, Interval]
    leads: frozenset[str]


def by_score(by_seed: Mapping[int, Headline]) -> dict[str, BySeed]:
    """Scores by score and seed, without those that were not measured."""
    found = {
        key: {seed: value for seed, scores in by_seed.items() if (value := scores.get(key)) is not None}
        for key in SCORES
    }
    return {key: values for key, values in found.items() if values}


def compared(rows: Sequence[Row], dataset: str) -> list[Compared]:
    """Intervals of the rows, and who leads, in the same resamples.

    Rows on other images of a seed than those of the first row that has it get none. Held-back images differ between
    seeds; the resamples then draw as many places as there are images, the same for all seeds.
    """
    found = [(seed, hits) for row in rows for seed, hits in row.hits.items()]
    first = found[0][1] if found else None
    images: dict[int, str] = {}
    for seed, hits in found:
        images.setdefault(seed, hits.images)

    def alike(seed: int, hits: ModelHits) -> bool:
        return hits.images == images[seed] and first is not None and hits.size == first.size

    known = [row.hits if all(alike(*pair) for pair in row.hits.items()) else {} for row in rows]
    return compared_in(rows, replicates(known, f"{dataset} {first.images if first else ''}"))


def compared_in(rows: Sequence[Row], found: Sequence[Replicates]) -> list[Compared]:
    """The same, with the resamples of each row."""
    leading = {key: _leader(rows, found, key) for key in SCORES}
    return [
        Compared(own, _intervals(row, own), frozenset(key for key, leader in leading.items() if leader == index))
        for index, (row, own) in enumerate(zip(rows, found, strict=True))
    ]


def _intervals(row: Row, own: Replicates) -> dict[str, Interval]:
    found = {key: interval(own, key) for key, values in row.scores.items() if set(values) == set(own.seeds)}
    return {key: one for key, one in found.items() if one is not None}


def _leader(rows: Sequence[Row], found: Sequence[Replicates], key: str) -> int | None:
    """Position of the row that is distinguishable from every other competing one and above it; None for none."""
    competing = [index for index, row in enumerate(rows) if row.competes and row.scores.get(key)]
    if len(competing) < 2:
        return None
    top = max(competing, key=lambda index: statistics.mean(rows[index].scores[key].values()))
    others = [difference_interval(found[top], found[index], key) for index in competing if index != top]
    return top if all(one is not None and one.low > 0 for one in others) else None
