"""Hierarchical, paired bootstrap over seeds and test images.

A resample draws as many test images as there are, with replacement, base and novel images apart, and as many seeds as
there are, with replacement. Every model of a table is scored on the same resampled images with the same resampled
seeds, so the difference of two methods has only the noise that they do not share. The interval of a score or a
difference is the range between the 2.5th and the 97.5th percentile over the resamples.

Images are drawn from all base or all novel images and not within each class: with n images of a class, drawing within
it understates their variance by (n - 1)/n, which is half of it for two images.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13; Owen, The pigeonhole bootstrap, 2007,
for two crossed factors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from feddtl.results.hits import ModelHits
from feddtl.results.statistics import Interval

RESAMPLES = 2000
LEVEL = 0.95
TOGETHER = 2**24  # numbers of one array of resampled images, which bounds the memory
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, eq=False)
class Replicates:
    """The scores of one row of a table in every resample of the images.

    Attributes:
        seeds: S seeds.
        scores: (R, S) accuracy in percent by score; NaN in a resample without any image to score.
    """

    seeds: tuple[int, ...]
    scores: Mapping[str, Floats] = field(default_factory=dict)


def replicates(
    rows: Sequence[Mapping[int, ModelHits]], stream: str = "", resamples: int = RESAMPLES
) -> list[Replicates]:
    """Scores of the rows of a table in resamples of their images.

    Args:
        rows: By seed the hits of each row; those of a seed are on the same images, and all seeds have as many.
        stream: Names the draws; equal names and equal numbers of images give equal resamples.
        resamples: R, how many.
    """
    models = [row[seed] for row in rows for seed in sorted(row)]
    if not models:
        return [Replicates(()) for _ in rows]
    parts = [_scores(models, stream, start, end) for start, end in _chunks(models[0], resamples)]
    scores = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}  # (R, models)
    found, first = [], 0
    for row in rows:
        own = slice(first, first := first + len(row))
        known = {key: column[:, own] for key, column in scores.items() if row}
        if any(model.local is None for model in row.values()):
            known.pop("local", None)
        found.append(Replicates(tuple(sorted(row)), known))
    return found


def mean_replicates(members: Sequence[Replicates]) -> Replicates:
    """The mean over data sets in every resample, for the seeds and scores that all have."""
    seeds = tuple(seed for seed in members[0].seeds if all(seed in one.seeds for one in members))
    keys = [key for key in members[0].scores if all(key in one.scores for one in members)]
    means = {key: np.mean([_of_seeds(one, key, seeds) for one in members], axis=0) for key in keys} if seeds else {}
    return Replicates(seeds, means)


def interval(row: Replicates, key: str) -> Interval | None:
    """Of a score; None if it has no resamples."""
    return _interval(row.scores[key]) if key in row.scores else None


def difference_interval(row: Replicates, other: Replicates, key: str) -> Interval | None:
    """Of a row's score minus that of another, over the seeds that both have; None if they share none."""
    seeds = tuple(seed for seed in row.seeds if seed in other.seeds)
    if not seeds or key not in row.scores or key not in other.scores:
        return None
    return _interval(_of_seeds(row, key, seeds) - _of_seeds(other, key, seeds))


def _interval(scores: Floats) -> Interval:
    """Of the mean over seeds, from (R, S) scores; the seeds are resampled too."""
    resamples, seeds = scores.shape
    means = (_drawn_seeds(seeds, resamples) * scores).sum(axis=1) / seeds
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means[~np.isnan(means)], [tail, 100 - tail])
    return Interval(float(low), float(high))


@cache
def _drawn_seeds(count: int, resamples: int) -> Floats:
    return _draws("seeds", count, 0, resamples).astype(np.float64)


def _of_seeds(row: Replicates, key: str, seeds: Sequence[int]) -> Floats:
    found: Floats = row.scores[key][:, [row.seeds.index(seed) for seed in seeds]]
    return found


def _scores(models: Sequence[ModelHits], stream: str, start: int, end: int) -> dict[str, Floats]:
    """(resamples, models) accuracies in percent by score; `local` is NaN for a model without it."""
    counts, found = np.array([model.models for model in models]), {}
    drawn_base = _draws(f"{stream} base", len(models[0].base), start, end)
    drawn_novel = _draws(f"{stream} novel", len(models[0].novel), start, end)
    for key, drawn in (("base", drawn_base), ("novel", drawn_novel)):
        hits = np.stack([getattr(model, key) for model in models], axis=1).astype(np.float32)  # (N, models)
        if len(hits):
            # Sums of whole numbers below 2²⁴ are exact in float32, so equal models give equal numbers.
            found[key] = 100.0 * (drawn @ hits).astype(np.float64) / (len(hits) * counts)
    if len(found) == 2:
        found["harmonic_mean"] = _harmonic_mean(found["base"], found["novel"])
    if "base" in found:
        found["local"] = np.stack([_local(drawn_base, model) for model in models], axis=1)
    return found


def _local(drawn: Floats, model: ModelHits) -> Floats:
    """(resamples,) mean over the clients that have a resampled image of the accuracy on their resampled images."""
    if model.owners is None or model.local is None:
        return np.full(len(drawn), np.nan)
    clients = np.unique(model.owners[model.owners >= 0])
    mine = (model.owners[:, None] == clients).astype(np.float32)  # (N_b, clients)
    images = (drawn @ mine).astype(np.float64)
    right = (drawn @ (mine * model.local[:, None].astype(np.float32))).astype(np.float64)
    accuracies = np.divide(100.0 * right, images, out=np.zeros_like(images), where=images > 0)
    counted = (images > 0).sum(axis=1)
    sums: Floats = accuracies.sum(axis=1)
    means: Floats = np.divide(sums, counted, out=np.full(len(drawn), np.nan), where=counted > 0)
    return means


def _harmonic_mean(base: Floats, novel: Floats) -> Floats:
    total = base + novel
    found: Floats = np.divide(2 * base * novel, total, out=np.zeros_like(total), where=total > 0)
    return found


def _chunks(model: ModelHits, resamples: int) -> list[tuple[int, int]]:
    size = max(1, TOGETHER // max(1, len(model.base) + len(model.novel)))
    return [(start, min(start + size, resamples)) for start in range(0, resamples, size)]


@cache
def _seed_of(stream: str) -> int:
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")


def _draws(stream: str, count: int, start: int, end: int) -> Floats:
    """(resamples, count) how often each of `count` things is drawn, in resamples `start` to `end` of a stream."""
    found = np.empty((end - start, count), np.float32)
    for row, resample in enumerate(range(start, end)):
        generator = np.random.default_rng([_seed_of(stream), resample])
        found[row] = np.bincount(generator.integers(count, size=count), minlength=count)
    return found
