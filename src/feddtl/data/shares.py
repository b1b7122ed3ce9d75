"""How each kind of partition divides every (domain, class) cell of images among the clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from feddtl.config import DataConfig
from feddtl.data.table import Indices
from feddtl.errors import DataError
from feddtl.seeding import numpy_generator

Shares = NDArray[np.float64]
Counts = NDArray[np.int64]

DIRICHLET_TRIES = 20_000
# The usual minimum for a Dirichlet partition; rounds with clients smaller than a batch are meaningless.
DIRICHLET_MIN_IMAGES = 8


@dataclass(frozen=True)
class Cells:
    """The (domain, class) cell of every image.

    Attributes:
        labels: (N,) class ids below `num_classes`.
        domains: (N,) domain ids below `num_domains`.
        num_classes: C, number of classes to divide.
        num_domains: D, 1 if the data has no domains.

    Raises:
        DataError: An id is out of range, or the arrays differ in length.
    """

    labels: Indices
    domains: Indices
    num_classes: int
    num_domains: int

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.domains):
            raise DataError(f"{len(self.labels)} labels do not match {len(self.domains)} domains.")
        for name, ids, limit in (
            ("class", self.labels, self.num_classes),
            ("domain", self.domains, self.num_domains),
        ):
            if len(ids) and (ids.min() < 0 or ids.max() >= limit):
                raise DataError(f"{name} ids from {ids.min()} to {ids.max()} are outside 0 to {limit - 1}.")

    def __len__(self) -> int:
        return len(self.labels)

    def sizes(self) -> Counts:
        """(D, C) images per domain and class."""
        flat = np.bincount(self.domains * self.num_classes + self.labels, minlength=self.num_domains * self.num_classes)
        return flat.reshape(self.num_domains, self.num_classes)


def client_shares(train: Cells, config: DataConfig, seed: int) -> Shares:
    """(K, D, C) share of each (domain, class) cell per client; arguments and errors as for `partition`."""
    sizes, kind, clients = train.sizes(), config.partition, config.client_count
    rng = numpy_generator(seed, f"partition/{kind}", clients)
    shape = (clients, *sizes.shape)
    if kind == "iid":
        return np.full(shape, 1.0 / clients)
    if kind == "domain":
        owners = _domain_owners(sizes.sum(axis=1), clients, rng)
        return np.broadcast_to(np.eye(clients)[:, owners, None], shape).copy()
    if kind == "domain-dirichlet":
        return _domain_dirichlet(sizes, config, rng)
    class_sizes = sizes.sum(axis=0)
    if kind == "non-iid":
        per_class = _class_shares(class_sizes, clients, rng)
    else:
        per_class = _dirichlet(class_sizes, clients, config, rng)
    return np.broadcast_to(per_class[:, None, :], shape).copy()


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


def _domain_dirichlet(sizes: Counts, config: DataConfig, rng: np.random.Generator) -> Shares:
    """(K, D, C) shares: clients spread evenly over the domains, with a Dirichlet division of classes in each."""
    clients, num_domains = config.client_count, len(sizes)
    if clients < num_domains:
        _refuse_domains(num_domains, clients, "at least one client per domain", "'domain'")
    shares = np.zeros((clients, *sizes.shape))
    for domain, members in enumerate(np.array_split(np.arange(clients), num_domains)):
        if sizes[domain].sum() < len(members):
            raise DataError(
                f"Domain {domain} has {sizes[domain].sum()} training images of the base classes for "
                f"{len(members)} clients.",
                "Use fewer clients, use more shots per class, or exclude this domain.",
            )
        shares[members, domain] = _dirichlet(sizes[domain], len(members), config, rng)
    return shares


def _dirichlet(class_sizes: Counts, clients: int, config: DataConfig, rng: np.random.Generator) -> Shares:
    """(K, C) shares, per class ~ Dir(α·1_K), redrawn until every client's quota reaches the minimum."""
    floor = dirichlet_floor(int(class_sizes.sum()), clients, config.min_images)
    best = 0.0
    for _ in range(DIRICHLET_TRIES):
        shares = rng.dirichlet(np.full(clients, config.alpha), size=len(class_sizes))  # (C, K)
        smallest = float((class_sizes @ shares).min())
        if smallest >= floor:
            return shares.T
        best = max(best, smallest)
    raise DataError(
        f"In {DIRICHLET_TRIES} draws, no Dirichlet({config.alpha:g}) division of {class_sizes.sum()} images among "
        f"{clients} clients gave every client {floor} (in the best draw, the smallest client had {best:.1f}).",
        "Raise alpha, use fewer clients, or lower min_images.",
    )


def dirichlet_floor(images: int, clients: int, min_images: int) -> int:
    """Minimum images per client: the requested number (8 if 0), at most a quarter of the mean, at least 1."""
    return max(1, min(min_images or DIRICHLET_MIN_IMAGES, images // (4 * clients)))


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
