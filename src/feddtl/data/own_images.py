"""The images of one client: its part of a partition, or a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from feddtl.config import DataConfig
from feddtl.config.names import name_key
from feddtl.data.classes import in_order_of
from feddtl.data.regime import held_back_notes, load_all, under_regime
from feddtl.data.table import ONE_DOMAIN, ImageDataset, ImageTable, of_classes
from feddtl.errors import ClassMismatchError, ClientError, DataError
from feddtl.units import counted, first_few

if TYPE_CHECKING:
    from feddtl.data.federated import FederatedData

MOST_NAMES = 20
WHY_REFUSED = "At a client or a site this is an error, because the class may be one of theirs under another name."


@dataclass(frozen=True)
class OwnImages:
    """The data of one client.

    Attributes:
        train: Training images of the base classes under the regime, labels in the base class names.
        test_base: Test images of the base classes, labels in the base class names.
        test_novel: Test images of the novel classes, labels in the novel class names.
        notes: What the user should know.
    """

    train: ImageTable
    test_base: ImageTable
    test_novel: ImageTable
    notes: tuple[str, ...] = ()


def part_of(data: FederatedData, client: int) -> OwnImages:
    """A client's part of a data set that is divided among all clients; novel test images may belong to no client.

    Raises:
        ClientError: There is no such client.
    """
    parts = data.partition
    if client >= len(parts.train):
        raise ClientError(f"This node is client {client}; the experiment has 0 to {len(parts.train) - 1}.")
    return OwnImages(
        data.train.select(parts.train[client]),
        data.test_base.select(parts.test[client]),
        data.test_novel.select(parts.novel[client] if parts.novel else []),
    )


def load_own_images(config: DataConfig, path: str, seed: int, *, held_back: float = 0.0) -> OwnImages:
    """A folder or parquet files of one client, with the class names of the experiment.

    Case and underscores in class names are ignored. The client may lack classes. Without a test split, some training
    images become one. All domains count as one.

    Args:
        config: The experiment's data settings.
        path: Location of this client's images.
        seed: Seed of the run, for the few-shot choice.
        held_back: Share of its training images that is scored instead of its test images, see `under_regime`.

    Raises:
        ClientError: No path is given.
        DataError: The images cannot be used, belong to a class that the experiment does not have, or include no
            training image of a base class.
    """
    if not path:
        raise ClientError(
            "This client has no path to its images, which data.source = 'clients' requires.",
            'Start it with `feddtl client --data PATH`, or with data="PATH" in its node configuration.',
        )
    everything = load_all(config, path, held_back=held_back, partial=True)
    return own_images_of(everything, config.class_lists, config, path, seed, held_back)


def own_images_of(
    everything: ImageDataset,
    class_lists: tuple[Sequence[str], Sequence[str]],
    config: DataConfig,
    where: str,
    seed: int,
    held_back: float = 0.0,
) -> OwnImages:
    """The images of one client among all that its place has.

    Args:
        everything: All images of the place, see `load_all`.
        class_lists: Names of the base classes and of the novel ones.
        config: Regime, shots, and the number of images to score.
        where: The place's name in errors.
        seed: Seed of the run.
        held_back: As for `load_own_images`.

    Raises:
        DataError: As `load_own_images`.
    """
    everything = of_experiment(*class_lists, everything, where)
    base, novel = map(len, class_lists)
    dataset = under_regime(everything, config, seed, held_back)
    train, test_base, test_novel = (
        of_classes(table, classes)
        for table, classes in (
            (dataset.train, range(base)),
            (dataset.test, range(base)),
            (dataset.test, range(base, base + novel)),
        )
    )
    unused = len(of_classes(everything.train, range(base, base + novel)))
    if not len(train) and unused:
        raise DataError(
            f"{where} has no training images of a base class, and nobody trains on the {unused} of novel classes.",
            f"To train there, add images of {_listed(class_lists[0])}, or name more classes in data.classes. Otherwise "
            "leave this place out of the run, and score the model on its images afterwards: `feddtl evaluate RUN "
            "--data.source FOLDER`.",
        )
    if not len(train):
        raise DataError(f"{where} has no training images of a base class.", f"Add images of {_listed(class_lists[0])}.")
    notes = list(dataset.notes)
    untested = np.isin(dataset.train.labels, dataset.test.labels, invert=True)
    if held_back:
        notes += held_back_notes(train, test_base, test_novel, class_lists[0], held_back)
    elif untested.any():
        there = [dataset.class_names[label] for label in np.unique(dataset.train.labels[untested])]
        notes.append(f"No test image, and so no accuracy, of: {first_few(there, MOST_NAMES)}.")
    if unused and not held_back:
        notes.append(unused_images_note(unused))
    return OwnImages(train, test_base, test_novel, tuple(notes))


def of_experiment(base: Sequence[str], novel: Sequence[str], dataset: ImageDataset, path: str) -> ImageDataset:
    """The data set with labels in the given names, and a single domain; names without images are not checked.

    Args:
        base: Names of the first labels.
        novel: Names of the others.
        dataset: The data set; case and underscores in its class names are ignored.
        path: Its name in errors.

    Raises:
        ClassMismatchError: Some images belong to a class in neither list.
    """
    names = (*base, *novel)
    if unknown := unknown_classes(names, dataset):
        raise ClassMismatchError(
            f"{path} has images of {_listed(unknown)}, which data.classes and data.novel_classes do not name. "
            f"{WHY_REFUSED}",
            f"Rename the class as it is named there, have it named in data.novel_classes, which scores it, or move its "
            f"images elsewhere. Allowed: {_listed(names)}.",
        )
    ordered = in_order_of(names, dataset)
    train, test = (replace(table, domains=np.zeros_like(table.domains)) for table in (ordered.train, ordered.test))
    return replace(ordered, train=train, test=test, domain_names=ONE_DOMAIN)


def unknown_classes(names: Sequence[str], dataset: ImageDataset) -> list[str]:
    """Classes of which there are images, and which are none of the names."""
    known = set(map(name_key, names))
    return [name for name in present_classes(dataset) if name_key(name) not in known]


def present_classes(dataset: ImageDataset) -> list[str]:
    """Names of the classes of which there are images."""
    labels = np.unique(np.concatenate([dataset.train.labels, dataset.test.labels]))
    return [dataset.class_names[label] for label in labels]


def unused_images_note(images: int) -> str:
    """A note on training images of novel classes; '' for none."""
    return f"{counted(images, 'training image')} of novel classes are not trained on." if images else ""


def require_same_classes(names: Sequence[str], data: FederatedData, path: str) -> None:
    """Raise ClassMismatchError unless this machine's copy of a data set has the server's base classes in their order.

    Args:
        names: The server's base classes, in label order.
        data: The copy.
        path: Its name in errors.
    """
    if list(names) == list(data.base_names):
        return
    lacking, more = set(names) - set(data.base_names), set(data.base_names) - set(names)
    parts = [f"{what} {_listed(sorted(found))}" for what, found in (("lacks", lacking), ("has", more)) if found]
    raise ClassMismatchError(
        f"{path} does not have the base classes of the server: it "
        f"{' and '.join(parts) or 'has them in another order'}.",
        "Give every machine the same copy of the data set.",
    )


def _listed(names: Sequence[str]) -> str:
    return first_few([f"'{name}'" for name in names], MOST_NAMES)
