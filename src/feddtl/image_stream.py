"""Any number of images through a model, in constant memory: threads read and resize while the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from feddtl.data.given_images import GivenImage
from feddtl.data.loading import read_ahead, thread_count
from feddtl.errors import DataError
from feddtl.methods.classifier import Classifier
from feddtl.models.image_tower import ImageTower

# More images per pass are hardly faster, and each thread holds as many pixels.
MOST_TOGETHER = 32
OnDamaged = Callable[[DataError], None]
Loaded = tuple[list[GivenImage], list[Tensor], list[DataError]]


def embedded(
    tower: ImageTower,
    first_block: int,
    classifier: Classifier,
    images: Iterable[GivenImage],
    damaged: OnDamaged | None = None,
) -> Iterator[tuple[list[GivenImage], Tensor]]:
    """Images in order, pass by pass, each pass with its unit embeddings (B, e) on the device.

    Args:
        tower: The frozen image tower.
        first_block: First block that `classifier` changes.
        classifier: Encodes from that block on.
        images: Read slightly ahead; never all in memory.
        damaged: Called for each image that cannot be read, which is then left out; None: that is an error.

    Raises:
        DataError: An image cannot be read.
    """

    def load(chunk: list[GivenImage]) -> Loaded:
        read: Loaded = ([], [], [])
        for image in chunk:
            try:
                read[1].append(tower.preprocessing.cut(image.decode()))
                read[0].append(image)
            except DataError as error:
                if damaged is None:
                    raise
                read[2].append(error)
        return read

    upcoming, together = iter(images), min(tower.images_per_pass, MOST_TOGETHER)
    chunks = iter(lambda: list(islice(upcoming, together)), [])
    for found, pixels, errors in read_ahead(load, chunks, threads=thread_count(0)):
        for error in errors:
            if damaged is not None:
                damaged(error)
        if found:
            yield found, _embed(tower, first_block, classifier, torch.stack(pixels))


@torch.no_grad()
def _embed(tower: ImageTower, first_block: int, classifier: Classifier, pixels: Tensor) -> Tensor:
    values = tower.preprocessing.finish(pixels.to(tower.device))
    return classifier.image_features(tower.prefix(values, first_block))
