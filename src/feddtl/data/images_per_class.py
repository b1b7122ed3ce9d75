"""How many images stand behind each class, each client and each accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from feddtl.config.running import SCORED_IMAGES, ScoredImages
from feddtl.data.federated import FederatedData
from feddtl.units import LEAST_FOR_PERCENT, NUMBERED, ClientNames, first_few

MOST_NAMES = 10


@dataclass(frozen=True)
class ClassImages:
    """The images of one class.

    Attributes:
        name: The class.
        use: 'trained', 'novel', or 'unused' where it takes no part.
        train: Training images of each client, (K,); none of a class that is not trained.
        test: Images to score.
    """

    name: str
    use: str
    train: tuple[int, ...] = ()
    test: int = 0


def images_per_class(data: FederatedData) -> list[ClassImages]:
    """All classes: the base classes, then the novel ones, then those that take no part."""
    base, novel = len(data.base_names), len(data.novel_names)
    trained = data.partition.counts(data.train.labels, base).T.tolist()
    test_base, test_novel = (
        np.bincount(table.labels, minlength=size).tolist()
        for table, size in ((data.test_base, base), (data.test_novel, novel))
    )
    rows = [
        ClassImages(name, "trained", tuple(train), test)
        for name, train, test in zip(data.base_names, trained, test_base, strict=True)
    ]
    rows += [ClassImages(name, "novel", (), test) for name, test in zip(data.novel_names, test_novel, strict=True)]
    return rows + [ClassImages(name, "unused") for name in data.unused_names]


@dataclass(frozen=True)
class ScoredCounts:
    """Numbers of images behind the accuracies of a run; an accuracy that does not exist has no number, or 0.

    Attributes:
        base: Of the base classes.
        novel: Of the novel classes.
        clients: By client, base images of its own.
        domains: By domain, (base, novel) images, where there are several.
        names: What the clients are called.
    """

    base: int
    novel: int
    clients: Mapping[int, int] = field(default_factory=dict)
    domains: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    names: ClientNames = NUMBERED


def scored_counts(data: FederatedData) -> ScoredCounts:
    """The numbers of images that are scored in this process."""
    clients = {client: len(share) for client, share in enumerate(data.partition.test)}
    tables = (data.test_base, data.test_novel)
    several = enumerate(data.domain_names) if len(data.domain_names) > 1 else ()
    domains = {name: tuple(int((table.domains == i).sum()) for table in tables) for i, name in several}
    names = ClientNames(data.sites)
    return ScoredCounts(len(data.test_base), len(data.test_novel), clients, domains, names)


def few_images(counts: ScoredCounts, scored: ScoredImages = "test") -> str:
    """One sentence on the accuracies of fewer than ten images; '' if there is none."""
    found = [f"{half} ({n})" for half, n in (("base", counts.base), ("novel", counts.novel)) if _is_few(n)]
    if clients := {client: n for client, n in counts.clients.items() if _is_few(n)}:
        found.append(f"local of {counts.names.all_of(sorted(clients))} ({_range(list(clients.values()))})")
    found += [
        f"{half} of domain {name} ({n})"
        for name, both in counts.domains.items()
        for half, n in zip(("base", "novel"), both, strict=True)
        if _is_few(n)
    ]
    what = SCORED_IMAGES[scored]
    parts = [f"accuracies of fewer than {LEAST_FOR_PERCENT} {what}: {first_few(found, MOST_NAMES)}"] if found else []
    if none := sorted(client for client, n in counts.clients.items() if not n):
        parts.append(f"no {what} of {counts.names.all_of(none)}")
    return "; ".join(parts)


def _is_few(images: int) -> bool:
    return 0 < images < LEAST_FOR_PERCENT


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least}–{most}"
