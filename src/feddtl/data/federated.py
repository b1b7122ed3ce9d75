"""A data set divided among clients: base and novel classes, the regime's training images, the partition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from feddtl.config import DataConfig
from feddtl.data.partition import Partition, partition
from feddtl.data.shares import Cells
from feddtl.data.sources import load_dataset
from feddtl.data.splits import base_novel_classes, few_shot, short_classes_note
from feddtl.data.table import DEFAULT_PROMPT, ONE_DOMAIN, ImageTable
from feddtl.errors import DataError


@dataclass(frozen=True)
class FederatedData:
    """A data set and its partition among the clients.

    Attributes:
        name: The data set's name.
        base_names: Classes used for training, in label order.
        novel_names: Classes not used for training.
        domain_names: Name per domain id.
        prompt_template: Text with `{class}` in it.
        train: Training images of the base classes under the regime, labels in `base_names`.
        test_base: Test images of the base classes, labels in `base_names`.
        test_novel: Test images of the novel classes, labels in `novel_names`.
        partition: Indices into `train` and `test_base` of every client.
        notes: What the user should know.
    """

    name: str
    base_names: tuple[str, ...]
    novel_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    prompt_template: str
    train: ImageTable
    test_base: ImageTable
    test_novel: ImageTable
    partition: Partition
    notes: tuple[str, ...]

    @property
    def on_clients(self) -> bool:
        """Whether the images are on the clients; see `images_on_clients`."""
        return not len(self.train)


def images_on_clients(config: DataConfig) -> FederatedData:
    """What is known about data whose images are on the clients: names, and clients without any image."""
    base, novel = config.class_lists
    none = ImageTable(_no_image, *(np.empty(0, np.int64) for _ in range(3)))
    nobody = tuple(np.empty(0, np.int64) for _ in range(config.clients))
    parts = Partition(np.zeros((config.clients, 1, len(base))), nobody, nobody)
    prompt = config.prompt or DEFAULT_PROMPT
    return FederatedData(config.source, base, novel, ONE_DOMAIN, prompt, none, none, none, parts, ())


def _no_image(row: int) -> Image.Image:
    raise DataError(f"Image {row} is on a client.")


def load_federated_data(config: DataConfig, seed: int, copy: str = "") -> FederatedData:
    """Load, split and partition the data; a pure function of config, seed and the source's content.

    Args:
        config: Which images, and how to divide them.
        seed: Seed of the run.
        copy: Path of a copy on this machine, which replaces the source.

    Raises:
        DataError: The source cannot be used or divided as requested.
    """
    dataset = load_dataset(config, copy)
    base, novel = base_novel_classes(len(dataset.class_names))
    train = of_classes(dataset.train, base)
    test_base, test_novel = of_classes(dataset.test, base), of_classes(dataset.test, novel)
    base_names = tuple(dataset.class_names[label] for label in base)
    notes = list(dataset.notes)
    if config.regime == "few-shot":
        notes.append(short_classes_note(train.labels, config.shots, base_names))
        train = train.select(few_shot(train.labels, config.shots, seed))
    if config.partition == "non-iid" and config.clients > len(base):
        notes.append(
            f"{config.clients} clients and {len(base)} base classes: some classes are split among several clients."
        )
    of_train, of_test = (
        Cells(table.labels, table.domains, len(base), len(dataset.domain_names)) for table in (train, test_base)
    )
    return FederatedData(
        dataset.name,
        base_names,
        tuple(dataset.class_names[label] for label in novel),
        dataset.domain_names,
        dataset.prompt_template,
        train,
        test_base,
        test_novel,
        partition(of_train, of_test, config, seed),
        tuple(filter(None, notes)),
    )


def of_classes(table: ImageTable, classes: range) -> ImageTable:
    """Images of consecutive classes, with labels counted from the first of them."""
    kept = table.select(np.flatnonzero((table.labels >= classes.start) & (table.labels < classes.stop)))
    return ImageTable(kept.reader, kept.rows, kept.labels - classes.start, kept.domains)
