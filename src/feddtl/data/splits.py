"""Base and novel classes, few-shot selection, and a held-out test split for sources without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feddtl.data.table import ImageDataset, Indices
from feddtl.errors import ConfigError, DataError
from feddtl.seeding import numpy_generator
from feddtl.units import first_few

HELD_OUT_SHARE = 0.2


def base_novel_classes(num_classes: int) -> tuple[range, range]:
    """Base and novel class ids: the first ⌈C/2⌉ in the data set's own order, and the rest.

    Training uses only base classes. Source: the base-to-novel protocol of CoCoOp (arXiv:2203.05557).

    Raises:
        DataError: There are fewer than two classes, so that one side would be empty.
    """
    if num_classes < 2:
        raise DataError(
            f"{num_classes} class(es) cannot be divided into base and novel classes.",
            "Use a data set with at least two classes.",
        )
    base = -(-num_classes // 2)
    return range(base), range(base, num_classes)


def few_shot(labels: Indices, shots: int, seed: int) -> Indices:
    """Seeded choice of at most `shots` images per class.

    Each class draws from its own random stream, so its choice does not change when other classes gain or
    lose images. A class with fewer images contributes all of them; `short_classes_note` names such classes.

    Args:
        labels: (N,) class ids.
        shots: Images per class, at least 1.
        seed: Seed of the run.

    Returns:
        Sorted indices into `labels`.
    """
    chosen = [np.empty(0, np.int64)]
    for class_id in np.unique(labels):
        rng = numpy_generator(seed, "few-shot", int(class_id))
        chosen.append(rng.permutation(np.flatnonzero(labels == class_id))[:shots])
    return np.sort(np.concatenate(chosen))


def short_classes_note(labels: Indices, shots: int, class_names: Sequence[str]) -> str:
    """A note that names the classes with fewer than `shots` images; '' if there is none.

    Args:
        labels: (N,) class ids below `len(class_names)`.
        shots: Requested images per class.
        class_names: Names of the classes to train, in class order.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    short = [f"{name} ({count})" for name, count in zip(class_names, counts, strict=True) if count < shots]
    return f"Fewer than {shots} training images, so all of them are used: {first_few(short, 10)}." if short else ""


def untested_classes_note(labels: Indices, class_names: Sequence[str], first: int = 0) -> str:
    """A note that names the classes without an image to score; '' if there is none.

    Args:
        labels: (N,) class ids of the images to score.
        class_names: Names of all classes, in class order.
        first: The first class that is looked at.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    lacking = [name for name, count in zip(class_names[first:], counts[first:], strict=True) if not count]
    return f"No test image, and so no accuracy, of: {first_few(lacking, 10)}." if lacking else ""


def with_fewer_test_images(
    dataset: ImageDataset, most: int, seed: int, scored: str = "test images", same: str = ", the same for every seed"
) -> ImageDataset:
    """The data set with a limited number of test images of each class in each domain, and a note about it.

    Each cell of class and domain draws from its own random stream, so its choice does not depend on the others.

    Args:
        dataset: Any data set; its training images do not change.
        most: Test images per class and domain; 0 for all.
        seed: The data set's seed, not the run's, so that all seeds of an experiment score the same images.
        scored: What the note calls the test images.
        same: What the note says of other seeds.
    """
    if not most:
        return dataset
    chosen = [np.empty(0, np.int64)]
    for domain, label in np.ndindex(len(dataset.domain_names), len(dataset.class_names)):
        cell = np.flatnonzero((dataset.test.labels == label) & (dataset.test.domains == domain))
        rng = numpy_generator(seed, "test images", label, domain)
        chosen.append(rng.permutation(cell)[:most])
    kept = np.sort(np.concatenate(chosen))
    if len(kept) == len(dataset.test):
        return dataset
    note = (
        f"{len(kept)} of {len(dataset.test)} {scored} are scored: at most {most} of each class in each domain{same} "
        "(data.test_images_per_class)."
    )
    return replace(dataset, test=dataset.test.select(kept), notes=(*dataset.notes, note))


def held_out_split(
    labels: Indices, domains: Indices, test_share: float = HELD_OUT_SHARE, seed: int = 0, purpose: str = "held-out"
) -> tuple[Indices, Indices]:
    """Holds out a test split, stratified by class and domain.

    Every class with at least two images contributes at least one to the test split and keeps at least one.

    Args:
        labels: (N,) class ids.
        domains: (N,) domain ids.
        test_share: Fraction of the images of each class, between 0 and 1 exclusive.
        seed: Seed of the run.
        purpose: Each has its own random streams.

    Returns:
        Sorted train and test indices; together they contain every index once.
    """
    if not 0 < test_share < 1:
        raise ConfigError(f"A test share of {test_share} is not between 0 and 1.", "Set it to, for example, 0.2.")
    in_test = np.zeros(len(labels), dtype=bool)
    for class_id in np.unique(labels):
        of_class = np.flatnonzero(labels == class_id)
        domain_ids, sizes = np.unique(domains[of_class], return_counts=True)
        wanted = _held_out_counts(sizes, test_share, numpy_generator(seed, purpose, int(class_id)))
        for domain_id, count in zip(domain_ids, wanted, strict=True):
            rng = numpy_generator(seed, purpose, int(class_id), int(domain_id))
            in_test[rng.permutation(of_class[domains[of_class] == domain_id])[:count]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def with_test_split(dataset: ImageDataset, seed: int) -> ImageDataset:
    """The data set itself or, if its test table is empty, with a held-out one and a note about it."""
    if len(dataset.test):
        return dataset
    train, test = held_out_split(dataset.train.labels, dataset.train.domains, seed=seed)
    note = (
        f"{dataset.name} has no test split: {len(test)} of its {len(test) + len(train)} images "
        f"({HELD_OUT_SHARE:.0%} per class and domain, seed {seed}) are held out for testing."
    )
    return replace(
        dataset,
        train=dataset.train.select(train),
        test=dataset.train.select(test),
        notes=(*dataset.notes, note),
    )


def _held_out_counts(sizes: Indices, test_share: float, rng: np.random.Generator) -> Indices:
    """Test images per domain of one class; largest remainders first, ties in random order."""
    total = int(sizes.sum())
    wanted = min(max(round(total * test_share), 1), total - 1)
    quotas = sizes * test_share
    counts: Indices = np.floor(quotas).astype(np.int64)
    order = np.lexsort((rng.permutation(len(sizes)), counts - quotas))
    counts[order[: wanted - int(counts.sum())]] += 1
    return counts
