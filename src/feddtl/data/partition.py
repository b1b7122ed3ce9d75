"""Divides images among clients: each client's share of every (domain, class) cell.

A partition is a matrix of shares (clients, domains, classes). The same matrix divides the training images and the
test images of the local metric, so a client is tested on the same mixture that it is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feddtl.data.shares import PARTITION_KINDS, Counts, Shares, client_shares, dirichlet_floor
from feddtl.data.table import Indices
from feddtl.errors import ConfigError, DataError, did_you_mean
from feddtl.seeding import numpy_generator

__all__ = ["PARTITION_KINDS", "Counts", "Partition", "Shares", "client_shares", "deal", "partition"]


@dataclass(frozen=True)
class Partition:
    """The images of every client.

    Attributes:
        shares: (K, D, C) share of each (domain, class) cell per client; sums to 1 over the clients.
        train: Per client, sorted positions into the training arrays; never empty.
        test: Per client, sorted positions into the test arrays; empty if a client's share of a small test set
            rounds to zero.
    """

    shares: Shares
    train: tuple[Indices, ...]
    test: tuple[Indices, ...]

    def counts(self, labels: Indices, num_classes: int) -> Counts:
        """(K, C) training images per client and class, for a heat map. `labels`: the partitioned labels."""
        return np.stack([np.bincount(labels[part], minlength=num_classes) for part in self.train])


def partition(
    train_labels: Indices,
    train_domains: Indices,
    test_labels: Indices,
    test_domains: Indices,
    *,
    kind: str,
    num_classes: int,
    num_domains: int,
    clients: int,
    alpha: float,
    seed: int,
    min_samples: int | None = None,
) -> Partition:
    """Assigns every training and test image to exactly one client; every client gets training images.

    Args:
        train_labels: (N,) class ids below `num_classes` (the base classes).
        train_domains: (N,) domain ids below `num_domains`.
        test_labels: (M,) class ids of the test images.
        test_domains: (M,) domain ids of the test images.
        kind: One of `PARTITION_KINDS`.
        num_classes: C, number of classes to distribute.
        num_domains: D, 1 if the data has no domains.
        clients: K, number of clients.
        alpha: Dirichlet concentration; small values give skewed partitions. Only for the two Dirichlet kinds.
        seed: Seed of the run.
        min_samples: Minimum number of training images per client in the Dirichlet kinds, None for 8; at most a quarter
            of the mean.

    Raises:
        ConfigError: Unknown kind or a number out of range.
        DataError: The data cannot be divided in this way; the message explains what to change.
    """
    _check_numbers(kind, clients, alpha, min_samples)
    _check_ids(train_labels, train_domains, num_classes, num_domains)
    _check_ids(test_labels, test_domains, num_classes, num_domains)
    if len(train_labels) < clients:
        raise DataError(
            f"{len(train_labels)} training images of the base classes are too few for {clients} clients.",
            f"Use at most {len(train_labels)} clients, more shots per class, or more images.",
        )
    shares = client_shares(
        kind,
        train_labels,
        train_domains,
        num_classes=num_classes,
        num_domains=num_domains,
        clients=clients,
        alpha=alpha,
        seed=seed,
        min_samples=min_samples,
    )
    train = deal(train_labels, train_domains, shares, seed, "train")
    _top_up(train, train_labels, train_domains, shares, _floors(kind, train_domains, shares, min_samples))
    test = deal(test_labels, test_domains, shares, seed, "test")
    return Partition(shares, tuple(map(np.sort, train)), tuple(map(np.sort, test)))


def deal(labels: Indices, domains: Indices, shares: Shares, seed: int, purpose: str) -> list[Indices]:
    """Divides every (domain, class) cell by the shares; each position goes to exactly one client.

    A client gets its quota of a cell rounded down or up. The images left over by rounding go to the clients
    that lost most by rounding in the cells so far, with ties in random order. Therefore, no client is favoured
    if cells have few images.

    Args:
        labels: (N,) class ids.
        domains: (N,) domain ids.
        shares: (K, D, C) shares that sum to 1 over the clients.
        seed: Seed of the run.
        purpose: `train` or `test`; each has its own random stream.

    Returns:
        Per client, positions into `labels` in no particular order.
    """
    clients, num_domains, num_classes = shares.shape
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    owed = np.zeros(clients)
    for domain, class_id in np.ndindex(num_domains, num_classes):
        members = np.flatnonzero((labels == class_id) & (domains == domain))
        rng = numpy_generator(seed, f"deal/{purpose}", domain, class_id)
        counts = _round_quotas(len(members) * shares[:, domain, class_id], owed, rng)
        pieces = np.split(rng.permutation(members), np.cumsum(counts)[:-1])
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _round_quotas(quotas: NDArray[np.float64], owed: NDArray[np.float64], rng: np.random.Generator) -> Counts:
    """(K,) integers, each quota rounded down or up, with the same sum. Adds the rounding loss to `owed`."""
    # Shares sum to 1 only up to rounding; a quota of 2.9999999 means 3.
    quotas = np.round(quotas, 6)
    counts = np.floor(quotas).astype(np.int64)
    left = round(float(quotas.sum())) - int(counts.sum())
    owed += quotas - counts
    order = np.lexsort((rng.permutation(len(quotas)), -np.round(owed, 6), quotas == counts))
    counts[order[:left]] += 1
    owed[order[:left]] -= 1
    return counts


def _floors(kind: str, domains: Indices, shares: Shares, min_samples: int | None) -> Counts:
    """(K,) minimum number of training images of every client after rounding."""
    clients, num_domains, _ = shares.shape
    if kind == "dirichlet":
        return np.full(clients, dirichlet_floor(len(domains), clients, min_samples))
    floors = np.ones(clients, np.int64)
    if kind == "domain-dirichlet":
        for domain, size in enumerate(np.bincount(domains, minlength=num_domains)):
            members = np.flatnonzero(shares[:, domain].any(axis=1))
            floors[members] = dirichlet_floor(int(size), len(members), min_samples)
    return floors


def _top_up(parts: list[Indices], labels: Indices, domains: Indices, shares: Shares, floors: Counts) -> None:
    """Gives a client that rounding left short more images of its own cells, from the largest clients; in place."""
    for client, part in enumerate(parts):
        for _ in range(max(0, int(floors[client]) - len(part))):
            allowed = [shares[client, domains[other], labels[other]] > 0 for other in parts]
            spare = [len(other) - floors[i] if i != client and allowed[i].any() else 0 for i, other in enumerate(parts)]
            donor = int(np.argmax(spare))
            if spare[donor] <= 0:
                raise DataError(
                    f"Client {client} gets {len(parts[client])} images but needs {floors[client]}, "
                    "and no other client can spare one.",
                    "Use fewer clients, a larger alpha, or more images.",
                )
            at = int(np.flatnonzero(allowed[donor])[0])
            parts[client] = np.append(parts[client], parts[donor][at])
            parts[donor] = np.delete(parts[donor], at)


def _check_numbers(kind: str, clients: int, alpha: float, min_samples: int | None) -> None:
    if kind not in PARTITION_KINDS:
        raise ConfigError(f"Unknown partition '{kind}'.", did_you_mean(kind, PARTITION_KINDS))
    if clients < 1:
        raise ConfigError(f"clients = {clients} is too few.", "Set clients to 1 or more.")
    if "dirichlet" in kind and not alpha > 0:
        raise ConfigError(f"alpha = {alpha} is not a valid Dirichlet concentration.", "Set alpha above 0, e.g. 0.1.")
    if min_samples is not None and min_samples < 1:
        raise ConfigError(f"min_samples = {min_samples} is too few.", "Set min_samples to 1 or more.")


def _check_ids(labels: Indices, domains: Indices, num_classes: int, num_domains: int) -> None:
    if len(labels) != len(domains):
        raise DataError(f"{len(labels)} labels do not match {len(domains)} domains.")
    for name, ids, limit in (("class", labels, num_classes), ("domain", domains, num_domains)):
        if len(ids) and (ids.min() < 0 or ids.max() >= limit):
            raise DataError(f"{name} ids from {ids.min()} to {ids.max()} are outside 0 to {limit - 1}.")
