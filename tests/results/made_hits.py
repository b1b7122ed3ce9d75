"""Hits of made-up models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feddtl.results.hits import ModelHits, RunHits


def model_hits(
    base: Sequence[int] | np.ndarray,
    novel: Sequence[int] | np.ndarray = (),
    *,
    images: str = "x",
    models: int = 1,
    owners: Sequence[int] | None = None,
    local: Sequence[int] | None = None,
) -> ModelHits:
    columns = [None if column is None else np.array(column, np.int64) for column in (base, novel, owners, local)]
    assert columns[0] is not None
    assert columns[1] is not None
    return ModelHits(images, columns[0], columns[1], models, columns[2], columns[3])


def random_hits(
    generator: np.random.Generator, base: int, novel: int, accuracy: float = 0.7, clients: int = 3
) -> ModelHits:
    """Independent hits with this probability; the images belong to clients in turn."""
    columns = [(generator.random(count) < accuracy).astype(int) for count in (base, novel, base)]
    return model_hits(columns[0], columns[1], owners=[i % clients for i in range(base)], local=columns[2].tolist())


def run_hits_of(accuracy: float, count: int = 200, *, images: str = "x", seed: int = 0) -> RunHits:
    """As many right as this percentage says, at random places; half of the images are base images."""
    half = count // 2
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(half), (2, 1)), axis=1).reshape(-1)
    final = (order < round(half * accuracy / 100)).astype(np.int64)
    before = (np.tile(np.arange(half), 2) < half * 0.4).astype(np.int64)
    owners = np.where(np.arange(count) < half, np.arange(count) % 5, -1)
    local = np.where(owners >= 0, final, -1)
    return RunHits(images, half, owners, before, final, local, final * 5, 5)
