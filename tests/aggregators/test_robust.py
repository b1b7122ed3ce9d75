"""Aggregators that bound hostile clients: against slow loops, their bounds, and what each client counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feddtl.aggregators.catalog import ROBUST, build_aggregator
from feddtl.config import ServerConfig
from feddtl.messages import Update

SHAPES = {"a": (2, 3), "b": (4,)}
HONEST, HOSTILE = 8, 2
SHARE = HOSTILE / (HONEST + HOSTILE)
EACH = pytest.mark.parametrize(("name", "mixing"), [(name, mixing) for name in ROBUST for mixing in (False, True)])


def updates_of(points):
    """Clients whose tensors are the parts of these rows, with very different numbers of images."""
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    return [
        Update(
            client,
            10 ** (client % 5),
            {
                name: part.view(shape)
                for (name, shape), part in zip(SHAPES.items(), torch.split(row, sizes), strict=True)
            },
        )
        for client, row in enumerate(torch.as_tensor(points))
    ]


def aggregate(points, name, mixing=False, share=SHARE):
    """The aggregate as one row, and the shares."""
    config = ServerConfig(aggregator=name, trim_share=share, nearest_neighbour_mixing=mixing)
    found = build_aggregator(config).combine(updates_of(points))
    return np.concatenate([tensor.numpy().ravel() for tensor in found.tensors.values()]), np.array(found.shares)


def drawn(clients, seed, scale=1.0):
    """Rows of clients around a common point far from zero, as weights are."""
    source = np.random.default_rng(seed)
    return 5.0 + scale * source.standard_normal((clients, sum(math.prod(shape) for shape in SHAPES.values())))


def slow_median(rows):
    return np.median(rows, axis=0)


def slow_trimmed_mean(rows, dropped):
    columns = (sorted(column)[dropped : len(rows) - dropped] for column in rows.T)
    return np.array([sum(column) / len(column) for column in columns])


def slow_multi_krum(rows, dropped):
    """Blanchard et al. 2017: the K - f rows with the smallest sums of the K - f - 2 smallest squared distances."""
    scores = []
    for i, row in enumerate(rows):
        apart = sorted(float(((row - other) ** 2).sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(apart[: len(rows) - dropped - 2]))
    best = sorted(range(len(rows)), key=scores.__getitem__)[: len(rows) - dropped]
    return sum(rows[i] for i in best) / len(best)


def slow_centred_clipping(rows):
    """Karimireddy et al. 2021, one step, from the median, with the lower median of the distances as the radius."""
    centre = np.median(rows, axis=0)
    away = [math.dist(row, centre) for row in rows]
    radius = sorted(away)[(len(rows) - 1) // 2]
    steps = [(row - centre) * (min(1.0, radius / d) if d else 1.0) for row, d in zip(rows, away, strict=True)]
    return centre + sum(steps) / len(rows)


def is_geometric_median(found, rows):
    """Whether the unit vectors to all rows cancel, as they do where the sum of the distances is smallest."""
    away = np.linalg.norm(rows - found, axis=1)
    return np.linalg.norm(((rows - found) / away[:, None]).sum(axis=0)) <= 1e-4


def slow_mixing(rows, dropped):
    """Allouah et al. 2023: each row becomes the mean of its K - f nearest ones, itself among them."""
    nearest = (sorted(rows, key=lambda other, row=row: math.dist(row, other))[: len(rows) - dropped] for row in rows)
    return np.stack([np.mean(near, axis=0) for near in nearest])


@EACH
@settings(max_examples=10)
@given(clients=st.integers(5, 9), seed=st.integers(0, 10**6))
def test_each_equals_its_formula(name, mixing, clients, seed):
    rows, dropped = drawn(clients, seed), int(0.2 * clients)
    slow = {
        "median": slow_median,
        "trimmed-mean": lambda rows: slow_trimmed_mean(rows, dropped),
        "multi-krum": lambda rows: slow_multi_krum(rows, dropped),
        "centred-clipping": slow_centred_clipping,
    }
    found, shares = aggregate(rows, name, mixing, share=0.2)
    seen = slow_mixing(rows, dropped) if mixing else rows
    if name == "geometric-median":
        np.testing.assert_allclose(found, aggregate(seen, name)[0], rtol=1e-9)
        assert mixing or is_geometric_median(found, rows)  # mixed rows may be equal, and the median one of them
    else:
        np.testing.assert_allclose(found, slow[name](seen), rtol=1e-12)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)


@EACH
@settings(max_examples=10)
@given(order=st.permutations(range(HONEST + HOSTILE)), seed=st.integers(0, 10**6))
def test_the_order_of_clients_changes_nothing(name, mixing, order, seed):
    """Not even with clients that are exactly alike, between which only their order could decide."""
    rows = drawn(HONEST + HOSTILE, seed)
    rows[1::3] = rows[1]
    (found, shares), (same, counted) = aggregate(rows[order], name, mixing), aggregate(rows, name, mixing)
    np.testing.assert_allclose(found, same, rtol=1e-9)
    np.testing.assert_allclose(shares, counted[order], rtol=1e-6)


@EACH
@pytest.mark.parametrize("clients", [1, 2, 3, 4, 10])
def test_equal_updates_give_that_update_and_count_alike(name, mixing, clients):
    """Also with so few clients left in a round that nothing can be dropped."""
    [row] = drawn(1, 3)
    found, shares = aggregate(np.stack([row] * clients), name, mixing)
    np.testing.assert_allclose(found, row, rtol=1e-12)
    np.testing.assert_allclose(shares, 1 / clients)


@EACH
@settings(max_examples=15)
@given(
    size=st.floats(-1e30, 1e30),
    together=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_hostile_clients_move_an_aggregate_no_further_than_its_bound(name, mixing, size, together, seed):
    """Distances from the mean of the honest updates, of which no two are further apart than `wide`.

    median, trimmed-mean: each coordinate stays between the honest ones, so the distance is at most the diagonal of
    their box. centred-clipping: from such a point one step of the radius, which some honest client reaches.
    geometric-median: 2·(1 - h)/(1 - 2h) times the honest distances for a share h (Pillutla et al. 2022, Lemma 3).
    multi-krum: a hostile update that is kept has an honest one among its neighbours, and no larger score than the
    honest one that is dropped. Mixing averages K - f updates, which are no further from a honest one than its farthest
    honest neighbour, so it can only move an honest update by `wide`.
    """
    honest = drawn(HONEST, seed)
    source = np.random.default_rng(seed)
    attack = source.standard_normal((1 if together else HOSTILE, honest.shape[1])) * size
    rows = np.concatenate([honest, np.broadcast_to(attack, (HOSTILE, honest.shape[1]))])
    found, _ = aggregate(rows, name, mixing)
    wide = max(math.dist(one, other) for one in honest for other in honest)
    box = float(np.linalg.norm(honest.max(axis=0) - honest.min(axis=0)))
    bound = {
        "median": box,
        "trimmed-mean": box,
        "centred-clipping": 2 * box,
        "geometric-median": 2 * (1 - SHARE) / (1 - 2 * SHARE) * wide,
        "multi-krum": wide * math.sqrt(HONEST),
    }[name]
    assert math.dist(found, honest.mean(axis=0)) <= (3 if mixing else 1) * bound


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("name", ROBUST)
def test_a_hostile_client_far_away_counts_little(name, mixing):
    """Those that send the same huge update are known by their shares; the honest ones count almost alike."""
    rows = np.concatenate([drawn(HONEST, 0, scale=0.1), np.full((HOSTILE, 10), 1e6)])
    _, shares = aggregate(rows, name, mixing)
    assert shares[HONEST:].max() < 0.02 < shares[:HONEST].min()
    if name == "multi-krum" or mixing:
        assert shares[HONEST:].max() < 1e-6
