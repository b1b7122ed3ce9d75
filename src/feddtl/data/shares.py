"""How each kind of partition divides every (domain, class) cell of images among the clients."""

from __future__ import annotations

from typing import NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from feddtl.config import PartitionKind
from feddtl.data.table import Indices
from feddtl.errors import DataError
from feddtl.seeding import numpy_generator

PARTITION_KINDS: tuple[str, ...] = get_args(PartitionKind)
Shares = NDArray[np.float64]
Counts = NDArray[np.int64]

DIRICHLET_TRIES = 20_000
# The usual minimum for a Dirichlet partition; rounds with clients smaller than a batch are meaningless.
DIRICHLET_MIN_SAMPLES = 8


def client_shares(
    kind: str,
    labels: Indices,
    domains: Indices,
    *,
    num_classes: int,
    num_domains: int,
    clients: int,
    alpha: float,
    seed: int,
    min_samples: int | None = None,
) -> Shares:
    """(K, D, C) share of each (domain, class) cell per client; arguments as for `partition`."""
    cells = _cell_sizes(labels, domains, num_classes, num_domains)
    rng = numpy_generator(seed, f"partition/{kind}", clients)
    shape = (clients, num_domains, num_classes)
    if kind == "iid":
        return np.full(shape, 1.0 / clients)
    if kind == "non-iid":
        per_class = _class_shares(cells.sum(axis=0), clients, rng)
        return np.broadcast_to(per_class[:, None, :], shape).copy()
    if kind == "dirichlet":
        per_class = _dirichlet(cells.sum(axis=0), clients, alpha, min_samples, rng)
        return np.broadcast_to(per_class[:, None, :], shape).copy()
    if kind == "domain":
        owners = _domain_owners(cells.sum(axis=1), clients, rng)
        return np.broadcast_to(np.eye(clients)[:, owners, None], shape).copy()
    return _domain_dirichlet(cells, clients, alpha, min_samples, rng)


def _class_shares(class_sizes: Counts, clients: int, rng: np.random.Generator) -> Shares:
    """(K, C) shares: whole classes, assigned in turn; with more clients than classes, several share one evenly.

    Classes with images are assigned first, so that no client gets only empty classes.
    """
    present = int((class_sizes > 0).sum())
    shuffled = rng.permutation(len(class_sizes))
    order = shuffled[np.argsort(class_sizes[shuffled] == 0, kind="stable")]
    shares = np.zeros((clients, len(class_sizes)))
    if present >= clients:
        shares[np.arange(len(order)) % clients, order] = 1
        return shares
    shares[np.arange(clients), order[np.arange(clients) % present]] = 1
    shares[0, order[present:]] = 1  # classes without training images may still have test images
    shares /= shares.sum(axis=0)
    return shares


def _domain_owners(domain_sizes: Counts, clients: int, rng: np.random.Generator) -> Indices:
    """(D,) client of each domain: domain k to client k, or shuffled if a client gets several."""
    num_domains = len(domain_sizes)
    if clients > num_domains:
        _refuse_domains(num_domains, clients, "one domain per client", "'domain-dirichlet'")
    owners = np.arange(num_domains) % clients
    if clients < num_domains:
        owners = rng.permutation(owners)
    empty = np.flatnonzero(np.bincount(owners, weights=domain_sizes, minlength=clients) == 0)
    if len(empty):
        raise DataError(
            f"Domains {np.flatnonzero(owners == empty[0]).tolist()} have no training images of the base "
            f"classes, so client {empty[0]} would be empty.",
            "Exclude these domains, or use fewer clients.",
        )
    return owners


def _domain_dirichlet(
    cells: Counts, clients: int, alpha: float, min_samples: int | None, rng: np.random.Generator
) -> Shares:
    """(K, D, C) shares: clients spread evenly over the domains, with a Dirichlet division of classes in each."""
    num_domains, num_classes = cells.shape
    if clients < num_domains:
        _refuse_domains(num_domains, clients, "at least one client per domain", "'domain'")
    shares = np.zeros((clients, num_domains, num_classes))
    for domain, members in enumerate(np.array_split(np.arange(clients), num_domains)):
        if cells[domain].sum() < len(members):
            raise DataError(
                f"Domain {domain} has {cells[domain].sum()} training images of the base classes for "
                f"{len(members)} clients.",
                "Use fewer clients, use more shots per class, or exclude this domain.",
            )
        shares[members, domain] = _dirichlet(cells[domain], len(members), alpha, min_samples, rng)
    return shares


def _dirichlet(
    class_sizes: Counts, clients: int, alpha: float, min_samples: int | None, rng: np.random.Generator
) -> Shares:
    """(K, C) shares, per class ~ Dir(α·1_K), redrawn until every client's quota reaches the minimum."""
    floor = dirichlet_floor(int(class_sizes.sum()), clients, min_samples)
    best = 0.0
    for _ in range(DIRICHLET_TRIES):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(class_sizes))  # (C, K)
        smallest = float((class_sizes @ shares).min())
        if smallest >= floor:
            return shares.T
        best = max(best, smallest)
    raise DataError(
        f"In {DIRICHLET_TRIES} draws, no Dirichlet({alpha:g}) division of {class_sizes.sum()} images among "
        f"{clients} clients gave every client {floor} (in the best draw, the smallest client had {best:.1f}).",
        "Raise alpha, use fewer clients, or lower min_samples.",
    )


def dirichlet_floor(images: int, clients: int, min_samples: int | None) -> int:
    """Minimum images per client: the requested number (8 by default), at most a quarter of the mean, at least 1."""
    wish = DIRICHLET_MIN_SAMPLES if min_samples is None else min_samples
    return max(1, min(wish, images // (4 * clients)))


def _cell_sizes(labels: Indices, domains: Indices, num_classes: int, num_domains: int) -> Counts:
    """(D, C) images per domain and class."""
    flat = np.bincount(domains * num_classes + labels, minlength=num_domains * num_classes)
    return flat.reshape(num_domains, num_classes)


def _refuse_domains(num_domains: int, clients: int, rule: str, other_kind: str) -> NoReturn:
    if num_domains == 1:
        raise DataError(
            "This partition needs domains, but the data has none.",
            "Use 'iid', 'dirichlet' or 'non-iid', or a data set with domains.",
        )
    raise DataError(
        f"{clients} clients and {num_domains} domains do not fit {rule}.",
        f"Set clients to {num_domains}, or use the partition {other_kind}.",
    )
