"""The training images of a regime, and the images to score: test images, or some that are held back from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feddtl.config import DataConfig
from feddtl.config.running import SCORED_IMAGES
from feddtl.data.sources import load_dataset
from feddtl.data.splits import few_shot, held_out_split, with_fewer_test_images
from feddtl.data.table import ImageDataset, ImageTable
from feddtl.units import first_few

HELD_BACK = SCORED_IMAGES["held-back"]


def load_all(config: DataConfig, copy: str = "", *, held_back: float = 0.0, partial: bool = False) -> ImageDataset:
    """`load_dataset`, where `data.test_images_per_class` limits the test images only if they are the ones to score."""
    return load_dataset(replace(config, test_images_per_class=0) if held_back else config, copy, partial=partial)


def under_regime(dataset: ImageDataset, config: DataConfig, seed: int, held_back: float = 0.0) -> ImageDataset:
    """The data set with the regime's training images, and with the images to score in place of its test images.

    Few-shot images are drawn first, and the held-back ones are taken from them, so that a choice between settings
    knows no image that training would not have had. Novel classes lose as many: nobody trains on what is left.

    Args:
        dataset: All images, see `load_all`.
        config: Regime, shots, and the number of images to score.
        seed: Seed of the run; each class, and each domain in it, draws from its own random stream.
        held_back: Share of the training images of each class and domain that is scored instead of the test images,
            at least one image of each class that has two; 0: the test images are scored.
    """
    train = dataset.train
    if config.regime == "few-shot":
        train = train.select(few_shot(train.labels, config.shots, seed))
    if not held_back:
        return replace(dataset, train=train)
    kept, held = held_out_split(train.labels, train.domains, held_back, seed, "held-back")
    divided = replace(dataset, train=train.select(kept), test=train.select(held))
    return with_fewer_test_images(divided, config.test_images_per_class, seed, HELD_BACK, "")


def held_back_notes(
    train: ImageTable, base: ImageTable, novel: ImageTable, class_names: Sequence[str], share: float
) -> list[str]:
    """Notes on what is scored in place of the test images.

    Args:
        train: Training images of the base classes that are left.
        base: Held-back images of the base classes.
        novel: Held-back images of the novel classes.
        class_names: Names of the base classes.
        share: The share that is held back.
    """
    found = [
        f"Scored on {HELD_BACK}, not on test images (evaluation.images): {len(base)} images of the base classes, "
        f"{100 * share:g}% of each class and domain, are taken out of training, which has {len(train)} left."
    ]
    if len(novel):
        found.append(f"Novel classes are scored on {len(novel)} of their training images, which nobody trains on.")
    counts = np.bincount(base.labels, minlength=len(class_names))
    lacking = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if lacking:
        found.append(f"No image can be held back of classes with fewer than two: {first_few(lacking, 10)}.")
    return found
