from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feddtl.config import DataConfig, PartitionKind
from feddtl.config.data import SITES
from feddtl.data.partition import Partition, deal, partition
from feddtl.data.shares import Cells, client_shares
from feddtl.data.table import Indices
from feddtl.errors import DataError

# Sites are not divided.
PARTITION_KINDS: tuple[PartitionKind, ...] = tuple(kind for kind in get_args(PartitionKind) if kind != SITES)


def cells(per_cell: int, classes: int, domains: int = 1) -> tuple[Indices, Indices]:
    """Labels and domains with the same number of images in every (domain, class) cell."""
    grid = np.indices((domains, classes)).reshape(2, -1)
    return np.repeat(grid[1], per_cell), np.repeat(grid[0], per_cell)


def divide(
    kind: PartitionKind,
    train: tuple[Indices, Indices],
    test: tuple[Indices, Indices],
    *,
    clients: int,
    alpha: float = 0.5,
    seed: int = 0,
    classes: int = 6,
    domains: int = 1,
    min_images: int = 0,
) -> Partition:
    config = DataConfig(partition=kind, clients=clients, alpha=alpha, min_images=min_images)
    return partition(Cells(*train, classes, domains), Cells(*test, classes, domains), config, seed)


def assert_exactly_once(parts: tuple[Indices, ...], size: int) -> None:
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(size))


images = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=12, max_size=150)


@settings(deadline=None, max_examples=80)
@given(images, images, st.sampled_from(PARTITION_KINDS), st.integers(1, 5), st.integers(0, 9))
def test_every_image_goes_to_one_client_and_none_is_empty(
    train_cells: list[tuple[int, int]], test_cells: list[tuple[int, int]], kind: PartitionKind, clients: int, seed: int
) -> None:
    train = np.array(train_cells).T
    test = np.array(test_cells).T
    try:
        parts = divide(kind, (train[0], train[1]), (test[0], test[1]), clients=clients, seed=seed, classes=5, domains=2)
    except DataError:
        if kind == "iid":
            raise
        assume(False)
    assert len(parts.train) == len(parts.test) == clients
    assert all(len(part) for part in parts.train)
    assert all((np.diff(part) > 0).all() for part in parts.train + parts.test)
    assert_exactly_once(parts.train, train.shape[1])
    assert_exactly_once(parts.test, test.shape[1])
    np.testing.assert_allclose(parts.shares.sum(axis=0), 1)


def test_same_seed_same_partition_in_another_process() -> None:
    script = (
        "import numpy as np\n"
        "from feddtl.config import DataConfig\n"
        "from feddtl.data.partition import partition; from feddtl.data.shares import Cells\n"
        "d, c = np.repeat(np.indices((4, 6)).reshape(2, -1), 9, axis=1)\n"
        "cells = Cells(c, d, 6, 4)\n"
        f"for kind in {PARTITION_KINDS}:\n"
        "    p = partition(cells, cells, DataConfig(partition=kind, clients=4, alpha=0.5), seed=3)\n"
        "    print([part.tolist() for part in p.train + p.test])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    train = cells(9, 6, 4)
    for kind, printed in zip(PARTITION_KINDS, run.stdout.splitlines(), strict=True):
        here = divide(kind, train, train, clients=4, seed=3, domains=4)
        assert printed == str([part.tolist() for part in here.train + here.test])


@pytest.mark.parametrize(("kind", "clients"), [(kind, 5 if "domain-" in kind else 3) for kind in PARTITION_KINDS])
def test_another_seed_gives_another_partition(kind: PartitionKind, clients: int) -> None:
    train = cells(20, 6, 4)
    one, other = (divide(kind, train, train, clients=clients, seed=seed, domains=4) for seed in (3, 4))
    assert any(not np.array_equal(a, b) for a, b in zip(one.train, other.train, strict=True))


def test_non_iid_deals_classes_disjointly_and_evenly() -> None:
    parts = divide("non-iid", cells(20, 10), cells(5, 10), clients=4, classes=10)
    present = parts.counts(cells(20, 10)[0], 10) > 0
    assert (present.sum(axis=0) == 1).all()
    assert sorted(present.sum(axis=1)) == [2, 2, 3, 3]


def test_non_iid_with_more_clients_than_classes_cuts_classes_evenly() -> None:
    """7 clients, 3 classes of 20: one class is cut among three clients, the others between two."""
    parts = divide("non-iid", cells(20, 3), cells(6, 3), clients=7, classes=3)
    counts = parts.counts(cells(20, 3)[0], 3)
    assert ((counts > 0).sum(axis=1) == 1).all()
    assert sorted(counts.sum(axis=1).tolist()) == [6, 7, 7, 10, 10, 10, 10]
    assert sum(len(part) for part in parts.test) == 18


def test_non_iid_gives_nobody_only_classes_without_images() -> None:
    labels = np.repeat([0, 1, 2], 4)
    for seed in range(20):
        train = (labels, np.zeros_like(labels))
        parts = divide("non-iid", train, cells(1, 9), clients=3, classes=9, seed=seed)
        assert [len(part) for part in parts.train] == [4, 4, 4]


def test_smaller_alpha_is_more_skewed() -> None:
    def top_share(alpha: float) -> float:
        train = cells(100, 10)
        parts = divide("dirichlet", train, cells(1, 10), clients=5, alpha=alpha, classes=10)
        counts = parts.counts(train[0], 10)
        return float((counts.max(axis=0) / counts.sum(axis=0)).mean())

    assert top_share(0.05) > 0.75 > top_share(1.0) > 0.35 > top_share(1000.0) > 0.19


@pytest.mark.parametrize("seed", range(20))
def test_dirichlet_reaches_the_minimum(seed: int) -> None:
    parts = divide("dirichlet", cells(16, 5), cells(4, 5), clients=5, alpha=0.1, classes=5, seed=seed)
    # 80 images, mean 16: a quarter of it is 4.
    assert min(map(len, parts.train)) >= 4
    parts = divide("dirichlet", cells(100, 5), cells(4, 5), clients=5, alpha=0.1, classes=5, seed=seed, min_images=20)
    assert min(map(len, parts.train)) >= 20


def test_dirichlet_gives_up_with_a_next_step() -> None:
    with pytest.raises(DataError, match="draws") as refused:
        divide("dirichlet", cells(100, 2), cells(1, 2), clients=30, alpha=0.001, classes=2)
    assert "Raise alpha, use fewer clients, or lower min_images" in refused.value.hint


def test_iid_sizes_differ_by_one_image_at_most_per_class_and_two_in_all() -> None:
    train = cells(16, 50)
    parts = divide("iid", train, cells(3, 50), clients=10, classes=50)
    assert set(parts.counts(train[0], 50).ravel()) == {1, 2}
    assert np.ptp([len(part) for part in parts.train]) <= 2


def test_remainders_favour_no_client() -> None:
    """One image per class for four equal clients: over seeds, each client gets a quarter."""
    images_of_classes = Cells(*cells(1, 6), 6, 1)
    shares = np.full((4, 1, 6), 0.25)
    totals = np.zeros(4)
    firsts = np.zeros(4)
    for seed in range(400):
        parts = deal(images_of_classes, shares, seed, "train")
        totals += [len(part) for part in parts]
        firsts += [0 in part for part in parts]
    # Six images: one or two for each client in every deal; 400 draws of a quarter have deviation 8.7.
    np.testing.assert_allclose(totals, 600, atol=60)
    np.testing.assert_allclose(firsts, 100, atol=40)


@given(st.integers(1, 6), st.integers(0, 40), st.integers(0, 5))
def test_every_cell_is_cut_at_its_quota_rounded_up_or_down(clients: int, size: int, seed: int) -> None:
    labels, domains = cells(size, 3, 2)
    shares = np.moveaxis(np.random.default_rng(seed).dirichlet(np.ones(clients), size=(2, 3)), -1, 0)
    for client, part in enumerate(deal(Cells(labels, domains, 3, 2), shares, seed, "test")):
        for domain, class_id in np.ndindex(2, 3):
            count = ((labels[part] == class_id) & (domains[part] == domain)).sum()
            assert abs(count - size * shares[client, domain, class_id]) < 1


def test_test_images_follow_the_shares_of_the_training_images() -> None:
    train, test = cells(400, 6), cells(200, 6)
    parts = divide("dirichlet", train, test, clients=4, alpha=0.3)
    of_train = parts.counts(train[0], 6) / 400
    of_test = np.stack([np.bincount(test[0][part], minlength=6) for part in parts.test]) / 200
    np.testing.assert_allclose(of_train, of_test, atol=0.02)


def test_more_test_images_leave_the_training_images_where_they_are() -> None:
    few, many = (divide("iid", cells(9, 6), cells(n, 6), clients=4) for n in (1, 50))
    for a, b in zip(few.train, many.train, strict=True):
        np.testing.assert_array_equal(a, b)


def test_domain_gives_each_client_its_domain() -> None:
    train = cells(5, 6, 4)
    parts = divide("domain", train, train, clients=4, domains=4)
    for client in range(4):
        assert set(train[1][parts.train[client]]) == set(train[1][parts.test[client]]) == {client}


def test_domain_with_fewer_clients_gives_several_domains_each() -> None:
    train = cells(5, 6, 5)
    parts = divide("domain", train, train, clients=2, domains=5)
    owned = [set(train[1][part]) for part in parts.train]
    assert owned[0].isdisjoint(owned[1])
    assert sorted(map(len, owned)) == [2, 3]


def test_domain_dirichlet_keeps_clients_inside_one_domain() -> None:
    train = cells(40, 6, 3)
    parts = divide("domain-dirichlet", train, train, clients=7, domains=3, alpha=0.3)
    owned = [set(train[1][part]) for part in parts.train]
    assert [len(domains) for domains in owned] == [1] * 7
    assert sorted(np.bincount([domains.pop() for domains in owned])) == [2, 2, 3]


@pytest.mark.parametrize(
    ("kind", "clients", "domains", "message", "hint"),
    [
        ("iid", 13, 1, "12 training images .* 13 clients", "at most 12"),
        ("domain", 3, 2, "3 clients and 2 domains", "'domain-dirichlet'"),
        ("domain", 3, 1, "needs domains, but the data has none", "'iid'"),
        ("domain-dirichlet", 1, 2, "1 clients and 2 domains", "'domain'"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    kind: PartitionKind, clients: int, domains: int, message: str, hint: str
) -> None:
    train = cells(2 // domains, 6, domains)
    with pytest.raises(DataError, match=message) as refused:
        divide(kind, train, train, clients=clients, domains=domains)
    assert hint in refused.value.hint


def test_a_domain_without_images_is_refused() -> None:
    train = cells(5, 6, 2)
    with pytest.raises(DataError, match="client 2 would be empty"):
        divide("domain", train, train, clients=3, domains=3)
    with pytest.raises(DataError, match="Domain 2 has 0"):
        divide("domain-dirichlet", train, train, clients=4, domains=3)


def test_ids_outside_the_classes_are_refused() -> None:
    train = cells(3, 7)
    with pytest.raises(DataError, match="class ids from 0 to 6"):
        divide("iid", train, train, clients=2)
    with pytest.raises(DataError, match="labels do not match"):
        divide("iid", (train[0], train[1][:-1]), train, clients=2)


def test_a_client_left_empty_by_rounding_gets_an_image_of_its_own_cells() -> None:
    """Client 1 owns a twentieth of every class; of four images per class rounding can leave it none."""
    labels = np.repeat(np.arange(2), 4)
    zeros = np.zeros_like(labels)
    for seed in range(30):
        parts = divide("dirichlet", (labels, zeros), (labels, zeros), clients=2, alpha=0.2, classes=2, seed=seed)
        assert min(map(len, parts.train)) >= 1
        assert_exactly_once(parts.train, 8)


def test_shares_of_each_kind_sum_to_one_in_empty_cells_too() -> None:
    labels, domains = cells(3, 4, 3)
    for kind in PARTITION_KINDS:
        config = DataConfig(partition=kind, clients=3, alpha=0.5)
        shares = client_shares(Cells(labels, domains, 6, 3), config, seed=0)
        assert shares.shape == (3, 3, 6)
        np.testing.assert_allclose(shares.sum(axis=0), 1)
