"""Generated shapes: equal everywhere for a seed, balanced, and split so that novel pairs are unseen."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from feddtl.data import shapes
from feddtl.data.drawing import COLOURS, DOMAINS, FEDERATED_DOMAINS, PRETRAIN_DOMAINS, SHAPES, render
from feddtl.data.shapes import CLASS_NAMES, class_pairs, shapes_dataset
from feddtl.errors import DataError

DIGEST = """
import hashlib
from feddtl.data.shapes import shapes_dataset
data = shapes_dataset(train_per_class=4, test_per_class=2, seed=5)
print(hashlib.sha256(b"".join(data.train.read(i).tobytes() for i in range(len(data.train)))).hexdigest())
"""


def pixels(table: shapes.ImageTable) -> np.ndarray:
    return np.stack([np.asarray(table.read(index)) for index in range(len(table))])


def test_images_are_equal_in_another_process() -> None:
    data = shapes_dataset(train_per_class=4, test_per_class=2, seed=5)
    here = hashlib.sha256(pixels(data.train).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_seed_and_split_give_different_images() -> None:
    first = shapes_dataset(train_per_class=4, test_per_class=4, seed=0)
    second = shapes_dataset(train_per_class=4, test_per_class=4, seed=1)
    sets = [
        {image.tobytes() for image in pixels(table)} for table in (first.train, first.test, second.train, second.test)
    ]
    assert all(len(images) == 256 for images in sets)
    assert len(set.union(*sets)) == 4 * 256


def test_both_halves_of_the_classes_hold_every_colour_and_shape_four_times() -> None:
    assert len(set(CLASS_NAMES)) == 64
    for half in (CLASS_NAMES[:32], CLASS_NAMES[32:]):
        words = [name.split() for name in half]
        assert all(sum(colour == word[0] for word in words) == 4 for colour in COLOURS)
        assert all(sum(shape == word[1] for word in words) == 4 for shape in SHAPES)


@pytest.mark.parametrize(("novel", "new", "shared"), [("shapes", 1, 0), ("colours", 0, 1)])
def test_new_shapes_or_colours_are_in_no_base_class(novel: str, new: int, shared: int) -> None:
    names = shapes_dataset(train_per_class=1, test_per_class=1, novel=novel).class_names
    assert set(names) == set(CLASS_NAMES)
    base, unseen = ([name.split() for name in half] for half in (names[:32], names[32:]))
    assert {words[new] for words in base} == set((COLOURS, SHAPES)[new][:4])
    assert {words[new] for words in unseen} == set((COLOURS, SHAPES)[new][4:])
    assert {words[shared] for words in base} == {words[shared] for words in unseen} == set((COLOURS, SHAPES)[shared])


def test_classes_of_new_pairs_are_the_checkerboard_of_colours_and_shapes() -> None:
    """The order on which all results so far are based."""
    black = [(colour, shape) for colour in range(8) for shape in range(8) if (colour + shape) % 2 == 0]
    white = [(colour, shape) for colour in range(8) for shape in range(8) if (colour + shape) % 2]
    assert list(class_pairs()) == list(class_pairs("pairs")) == black + white
    assert shapes_dataset(train_per_class=1, test_per_class=1).class_names[:2] == ("red circle", "red triangle")


def test_the_images_of_the_standard_domains_are_unchanged() -> None:
    data = shapes_dataset()
    digest = hashlib.sha256(data.train.reader.pixels.tobytes() + data.test.reader.pixels.tobytes()).hexdigest()
    assert digest == "7ec5e1536e57dc3642898a9790442da728f4433cb3e0ee4e0a21c3f021a8573e"


def test_shifted_domain_is_texture_with_each_channel_mixed_with_the_one_before_it() -> None:
    kinds = np.random.default_rng(2).integers(0, 8, (2, 150))
    texture, shifted = (
        render(*kinds, np.full(150, DOMAINS.index(name)), np.random.default_rng(3)).astype(int)
        for name in ("texture", "shifted")
    )
    red, green, blue = np.moveaxis(texture, -1, 0)
    expected = np.stack([0.6 * red + 0.4 * blue, 0.6 * green + 0.4 * red, 0.6 * blue + 0.4 * green], axis=-1)
    # Both are rounded to whole numbers: 0.5 here, and 0.6 or 0.4 of 0.5 in each of the two channels.
    assert np.abs(shifted - expected).max() <= 1


def test_the_shifted_domain_is_neither_pretrained_nor_a_default() -> None:
    assert "shifted" in DOMAINS
    assert "shifted" not in (*PRETRAIN_DOMAINS, *FEDERATED_DOMAINS)
    assert shapes_dataset(train_per_class=4, test_per_class=4).domain_names == FEDERATED_DOMAINS
    assert shapes_dataset(("shifted",), train_per_class=1, test_per_class=1).domain_names == ("shifted",)


@pytest.mark.parametrize("novel", ["pairs", "shapes", "colours"])
def test_class_name_tells_what_is_drawn(novel: str) -> None:
    data = shapes_dataset(("plain",), train_per_class=1, test_per_class=64, novel=novel)
    for colour in ("red", "green", "blue"):
        rows = np.flatnonzero(data.test.labels == data.class_names.index(f"{colour} square"))
        image = pixels(data.test.select(rows)).astype(float)
        # The background is nearly grey, so the strongest departure from grey comes from the shape.
        surplus = (image - image.mean(axis=-1, keepdims=True)).max(axis=(1, 2)).mean(axis=0)
        assert surplus.argmax() == ("red", "green", "blue").index(colour)


@pytest.mark.parametrize("domains", [("plain",), ("texture", "night", "fog"), FEDERATED_DOMAINS])
def test_classes_and_domains_are_balanced(domains: tuple[str, ...]) -> None:
    data = shapes_dataset(domains, train_per_class=12, test_per_class=5)
    assert data.domain_names == domains
    for table, per_class in ((data.train, 12), (data.test, 5)):
        counts = np.zeros((64, len(domains)), int)
        np.add.at(counts, (table.labels, table.domains), 1)
        assert (counts.sum(1) == per_class).all()
        assert counts.max() - counts.min() <= 1
        assert np.ptp(counts.sum(0)) <= 64 // len(domains)


def test_data_set_describes_itself() -> None:
    data = shapes_dataset()
    assert (data.name, data.prompt_template) == ("shapes", "a photo of a {class}.")
    assert data.class_names == CLASS_NAMES
    assert len(data.train) == 64 * 64
    assert len(data.test) == 64 * 32
    image = data.train.read(0)
    assert (image.mode, image.size) == ("RGB", (32, 32))


def test_table_can_be_sent_to_a_process() -> None:
    table = shapes_dataset(train_per_class=1, test_per_class=1).test
    assert (pixels(pickle.loads(pickle.dumps(table))) == pixels(table)).all()


def test_render_returns_bytes_for_any_mix_of_domains() -> None:
    count = 300
    generator = np.random.default_rng(0)
    images = render(*generator.integers(0, [[8], [8], [len(DOMAINS)]], (3, count)), generator)
    assert images.shape == (count, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images.std(axis=(1, 2, 3)) > 2).all()


def test_no_images_give_an_empty_array() -> None:
    none = np.zeros(0, np.int64)
    assert render(none, none, none, np.random.default_rng(0)).shape == (0, 32, 32, 3)


def test_domains_look_different() -> None:
    circle = np.zeros(64, np.int64)
    brightness, roughness = {}, {}
    for index, name in enumerate(DOMAINS):
        images = render(circle, circle, np.full(64, index), np.random.default_rng(1)).astype(float)
        brightness[name] = images.mean()
        roughness[name] = abs(np.diff(images, axis=2)).mean()
    assert brightness["night"] < 0.5 * min(brightness[name] for name in DOMAINS if name != "night")
    assert brightness["sketch"] > brightness["fog"] > brightness["plain"]
    assert roughness["texture"] > 2 * max(roughness["plain"], roughness["fog"])


def test_thousands_of_images_a_second() -> None:
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 8, (2, 2000))
    started = time.perf_counter()
    render(kinds[0], kinds[1], np.arange(2000) % len(DOMAINS), generator)
    assert time.perf_counter() - started < 2


def test_unknown_domain_is_named_with_a_suggestion() -> None:
    with pytest.raises(DataError, match="Unknown shapes domain 'skech'") as caught:
        shapes_dataset(("plain", "skech"))
    assert caught.value.hint == "Did you mean 'sketch'?"


@pytest.mark.parametrize("domains", [(), ("fog", "fog")])
def test_domains_must_be_distinct_and_given(domains: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="distinct"):
        shapes_dataset(domains)


def test_counts_must_be_positive() -> None:
    with pytest.raises(DataError, match="test_per_class is 0"):
        shapes_dataset(test_per_class=0)
