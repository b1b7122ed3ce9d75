"""Divides images among clients: each client's share of every (domain, class) cell.

A partition is a matrix of shares (clients, domains, classes). The same matrix divides the training images and the
test images of the local metric, so a client is tested on the same mixture that it is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feddtl.config import DataConfig
from feddtl.data.shares import Cells, Counts, Shares, client_shares, dirichlet_floor
from feddtl.data.table import Indices
from feddtl.errors import DataError
from feddtl.seeding import numpy_generator


@dataclass(frozen=True)
class Partition:
    """The images of every client.

    Attributes:
        shares: (K, D, C) share of each (domain, class) cell per client; sums to 1 over the clients.
        train: Per client, sorted indices into the training arrays; never empty.
        test: Per client, sorted indices into the test arrays; empty if a client's share of a small test set
            rounds to zero.
        novel: The same into the novel test images; empty where these belong to no client.
    """

    shares: Shares
    train: tuple[Indices, ...]
    test: tuple[Indices, ...]
    novel: tuple[Indices, ...] = ()

    def counts(self, labels: Indices, num_classes: int) -> Counts:
        """(K, C) training images per client and class, for a heat map. `labels`: the partitioned labels."""
        return np.stack([np.bincount(labels[part], minlength=num_classes) for part in self.train])


def partition(train: Cells, test: Cells, config: DataConfig, seed: int) -> Partition:
    """Assigns every training and test image to exactly one client; every client gets training images.

    Args:
        train: Cells of the training images.
        test: Cells of the test images, with as many classes and domains.
        config: Kind of the partition, number of clients, and the settings of the Dirichlet kinds.
        seed: Seed of the run.

    Raises:
        DataError: The data cannot be divided as the settings ask; the message explains what to change.
    """
    if len(train) < config.client_count:
        raise DataError(
            f"{len(train)} training images of the base classes are too few for {config.client_count} clients.",
            f"Use at most {len(train)} clients, more shots per class, or more images.",
        )
    shares = client_shares(train, config, seed)
    train_parts = deal(train, shares, seed, "train")
    _top_up(train_parts, train, shares, _floors(train, shares, config))
    test_parts = deal(test, shares, seed, "test")
    return Partition(shares, tuple(map(np.sort, train_parts)), tuple(map(np.sort, test_parts)))


def deal(cells: Cells, shares: Shares, seed: int, purpose: str) -> list[Indices]:
    """Divides every (domain, class) cell by the shares; each image goes to exactly one client.

    A client gets its quota of a cell rounded down or up. The images left over by rounding go to the clients
    that lost most by rounding in the cells so far, with ties in random order. Therefore, no client is favoured
    if cells have few images.

    Args:
        cells: Cells of the images.
        shares: (K, D, C) shares that sum to 1 over the clients.
        seed: Seed of the run.
        purpose: `train` or `test`; each has its own random stream.

    Returns:
        Per client, indices of its images in no particular order.
    """
    parts: list[list[Indices]] = [[] for _ in shares]
    owed = np.zeros(len(shares))
    for domain, class_id in np.ndindex(*shares.shape[1:]):
        members = np.flatnonzero((cells.labels == class_id) & (cells.domains == domain))
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


def _floors(cells: Cells, shares: Shares, config: DataConfig) -> Counts:
    """(K,) minimum number of training images of every client after rounding."""
    if config.partition == "dirichlet":
        return np.full(len(shares), dirichlet_floor(len(cells), len(shares), config.min_images))
    floors = np.ones(len(shares), np.int64)
    if config.partition == "domain-dirichlet":
        for domain, size in enumerate(cells.sizes().sum(axis=1)):
            members = np.flatnonzero(shares[:, domain].any(axis=1))
            floors[members] = dirichlet_floor(int(size), len(members), config.min_images)
    return floors


def _top_up(parts: list[Indices], cells: Cells, shares: Shares, floors: Counts) -> None:
    """Gives a client that rounding left short more images of its own cells, from the largest clients; in place."""
    for client, part in enumerate(parts):
        for _ in range(max(0, int(floors[client]) - len(part))):
            allowed = [shares[client, cells.domains[other], cells.labels[other]] > 0 for other in parts]
            spare = [len(other) - floors[i] if i != client and allowed[i].any() else 0 for i, other in enumerate(parts)]
            donor = int(np.argmax(spare))
            if spare[donor] <= 0:
                raise DataError(
                    f"Client {client} gets {len(parts[client])} images but needs {floors[client]}, "
                    "and no other client can spare one.",
                    "Use fewer clients, a larger alpha, or more images.",
                )
            first = int(np.flatnonzero(allowed[donor])[0])
            parts[client] = np.append(parts[client], parts[donor][first])
            parts[donor] = np.delete(parts[donor], first)
