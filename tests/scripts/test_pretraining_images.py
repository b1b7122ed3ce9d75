"""The halves of CIFAR-10: equal in size, disjoint, and the same whoever makes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import DataConfig
from feddtl.data.sources import load_dataset
from feddtl.errors import DataError
from pretraining.images import FEDERATION, PRETRAINING, Pixels, halves, joined, load_images, write_halves


def noise(labels: list[int], names: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> Pixels:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3)).astype(np.uint8)
    return Pixels(images, np.array(labels, np.int64), names)


def contents(pixels: Pixels) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(pixels.images, pixels.labels, strict=True))


@pytest.fixture(autouse=True)
def own_loader_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_five_thousand_images_of_a_class_become_twice_2500() -> None:
    pixels = noise([0, 1] * 5000)
    pretraining, federation = halves(pixels)
    for half in (pretraining, federation):
        assert np.bincount(half.labels).tolist() == [2500, 2500]
    assert not {image for image, _ in contents(pretraining)} & {image for image, _ in contents(federation)}
    assert sorted(contents(pretraining) + contents(federation)) == contents(pixels)


@given(labels=st.lists(st.integers(0, 2), max_size=12), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(labels: list[int], order: Random) -> None:
    pixels = noise(labels, ("cat", "dog", "fox"))
    at = list(range(len(labels)))
    order.shuffle(at)
    for half, of_shuffled in zip(halves(pixels), halves(pixels.select(np.array(at, np.int64))), strict=True):
        assert contents(half) == contents(of_shuffled)


def test_the_rule_is_the_documented_one() -> None:
    """Sorted by BLAKE2b of the RGB bytes, 16 bytes long, with the size as personal string: done here by hand."""
    pixels = noise([0, 1, 1, 0, 0, 1, 0, 0])

    def digest(at: int) -> bytes:
        size = b"32 x 32".ljust(16)
        return hashlib.blake2b(pixels.images[at].tobytes(), digest_size=16, person=size).digest()

    cats = sorted((0, 3, 4, 6, 7), key=digest)
    dogs = sorted((1, 2, 5), key=digest)
    pretraining, federation = halves(pixels)
    assert contents(pretraining) == contents(pixels.select(np.array(cats[:2] + dogs[:1])))
    assert contents(federation) == contents(pixels.select(np.array(cats[2:] + dogs[1:])))


def test_written_halves_are_sources_and_a_lossless_copy_gives_the_same_halves(tmp_path: Path) -> None:
    pixels, test = noise([0, 1, 0, 1, 0, 1, 1]), noise([1, 0], seed=1)
    pretraining, federation = halves(pixels)
    write_halves(tmp_path / "halves", pretraining, federation, test)
    source = load_dataset(DataConfig(source=str(tmp_path / "halves" / FEDERATION)))
    assert source.class_names == ("cat", "dog")
    assert (len(source.train), len(source.test)) == (len(federation), len(test))
    read, read_test = load_images(FEDERATION, tmp_path / "halves")
    assert contents(read) == contents(federation)
    assert contents(read_test) == contents(test)
    # Without a test split the loader holds some images out; together they are the half.
    copy = joined([read, *load_images(PRETRAINING, tmp_path / "halves")])
    assert [contents(half) for half in halves(copy)] == [contents(half) for half in (pretraining, federation)]


def test_a_folder_with_the_name_of_a_catalogue_entry_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_halves(tmp_path / "halves", noise([0, 1]), noise([0, 1, 1]), noise([0, 1]))
    (tmp_path / "halves" / FEDERATION).rename(tmp_path / "cifar10")
    monkeypatch.chdir(tmp_path)
    assert len(load_images("cifar10", Path())[0]) == 3


def test_sets_are_joined_by_class_name() -> None:
    both = joined([noise([0, 1, 1]), noise([0, 1], ("fox", "cat"))])
    assert both.class_names == ("cat", "dog", "fox")
    assert both.labels.tolist() == [0, 1, 1, 2, 0]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*cifar10"):
        load_images("cifar10", tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("train/cat/0.png", "train/dog/0.png", "test/cat/1.png", "test/dog/1.png"):
        path = tmp_path / "cifar10" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 32)).save(path)
    with pytest.raises(DataError, match="has 40 x 32 pixels"):
        load_images("cifar10", tmp_path)
