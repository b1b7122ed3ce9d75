"""Generated coloured shapes as a data set: 64 classes of a colour and a shape, no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from feddtl.config.data import NovelClasses
from feddtl.data.drawing import COLOURS, DOMAINS, FEDERATED_DOMAINS, SHAPES, ByteArray, render
from feddtl.data.table import ImageDataset, ImageTable
from feddtl.errors import DataError, did_you_mean
from feddtl.seeding import numpy_generator

# Whether a pair of colour and shape is novel, given their indices. With new pairs, each colour and each shape appears
# four times among the base classes and four times among the novel ones.
_IS_NOVEL: dict[NovelClasses, Callable[[int, int], bool]] = {
    "pairs": lambda colour, shape: (colour + shape) % 2 == 1,
    "shapes": lambda colour, shape: shape >= len(SHAPES) // 2,
    "colours": lambda colour, shape: colour >= len(COLOURS) // 2,
}


def class_pairs(novel: NovelClasses = "pairs") -> tuple[tuple[int, int], ...]:
    """(colour, shape) of each of the 64 classes: the 32 base classes, then the 32 novel ones."""
    is_novel = _IS_NOVEL[novel]
    pairs = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
    return tuple(sorted(pairs, key=lambda pair: is_novel(*pair)))


def class_names(pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Names such as 'red star'."""
    return tuple(f"{COLOURS[colour]} {SHAPES[shape]}" for colour, shape in pairs)


CLASS_PAIRS = class_pairs()
CLASS_NAMES = class_names(CLASS_PAIRS)


@dataclass(frozen=True)
class ArrayReader:
    """Reads rows of an image array; a class and not a closure, so that tables can be sent to other processes.

    Attributes:
        pixels: (N, height, width, 3) RGB, 0 to 255.
    """

    pixels: ByteArray

    def __call__(self, row: int) -> Image.Image:
        """RGB image of one row."""
        return Image.fromarray(self.pixels[row])


def shapes_dataset(
    domains: Sequence[str] = FEDERATED_DOMAINS,
    train_per_class: int = 64,
    test_per_class: int = 32,
    seed: int = 0,
    novel: NovelClasses = "pairs",
) -> ImageDataset:
    """The 64 classes as a data set; images are balanced over class x domain (equal to within one).

    Args:
        domains: Names from `DOMAINS`.
        train_per_class: Training images of each class.
        test_per_class: Test images of each class.
        seed: Seed of the images.
        novel: What is new in the second half of the classes. It changes the order of the classes and, as images are
            drawn class by class, the images.

    Raises:
        DataError: A domain is unknown or repeated, none is given, or a count is below one.
    """
    _check(domains, train_per_class, test_per_class)
    pairs = class_pairs(novel)
    return ImageDataset(
        name="shapes",
        train=_table(pairs, domains, train_per_class, seed, "shapes train"),
        test=_table(pairs, domains, test_per_class, seed, "shapes test"),
        class_names=class_names(pairs),
        domain_names=tuple(domains),
    )


def _check(domains: Sequence[str], train_per_class: int, test_per_class: int) -> None:
    """Raise DataError naming the first argument that cannot be used."""
    for name in domains:
        if name not in DOMAINS:
            raise DataError(f"Unknown shapes domain '{name}'.", did_you_mean(name, DOMAINS))
    if not domains or len(set(domains)) < len(domains):
        raise DataError(f"Shapes domains must be distinct, with at least one, not {list(domains)}.")
    for what, count in (("train_per_class", train_per_class), ("test_per_class", test_per_class)):
        if count < 1:
            raise DataError(f"Shapes {what} is {count}.", "Use at least 1 image per class.")


def _table(
    classes: Sequence[tuple[int, int]], domains: Sequence[str], per_class: int, seed: int, purpose: str
) -> ImageTable:
    """Images of one split, class by class."""
    labels = np.repeat(np.arange(len(classes)), per_class)
    # The class shifts the order of domains, so that a remainder does not always go to the first domains.
    domain_ids = (np.tile(np.arange(per_class), len(classes)) + labels) % len(domains)
    pairs = np.asarray(classes)[labels]
    drawn_as = np.asarray([DOMAINS.index(name) for name in domains])[domain_ids]
    pixels = render(pairs[:, 0], pairs[:, 1], drawn_as, numpy_generator(seed, purpose))
    return ImageTable(ArrayReader(pixels), np.arange(len(labels)), labels, domain_ids)
