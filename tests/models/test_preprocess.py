"""The fast test transform is transformers' own, to the last bit; random views are frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feddtl.models.preprocess import CROP_AREA, CROP_RATIO, Preprocessing, plain_transform, random_box, view_key


def processor(**settings_of_it):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**settings_of_it)


def picture(width, height, seed=0, mode="RGB"):
    """Noise over a gradient, so that neither resampling nor rounding is trivial."""
    generator = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width * height).reshape(height, width, 1)
    pixels = np.clip(slope + generator.integers(0, 56, (height, width, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def expected(its_processor, images):
    return its_processor(images=images, return_tensors="pt")["pixel_values"]


@settings(max_examples=25)
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 9))
def test_any_size_equals_the_processor_in_every_bit(width, height, seed):
    image = picture(width, height, seed)
    its_processor = processor()
    assert torch.equal(Preprocessing.of(its_processor)([image]), expected(its_processor, [image]))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (224, 224), (225, 224), (2400, 31), (1600, 1200)])
def test_extreme_sizes_equal_the_processor(size):
    its_processor = processor()
    assert torch.equal(Preprocessing.of(its_processor)([picture(*size)]), expected(its_processor, [picture(*size)]))


SIZES = {
    "larger": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    "crop within": {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 40}},
    "exact size": {"size": {"height": 30, "width": 50}, "crop_size": {"height": 30, "width": 41}},
    "bilinear": {"resample": 2},
    "other statistics": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.5, 0.4]},
}


@pytest.mark.parametrize("changes", SIZES.values(), ids=SIZES)
def test_settings_are_followed(changes):
    its_processor = processor(**changes)
    images = [picture(90, 61), picture(61, 90, seed=1)]
    assert plain_transform(its_processor) is not None
    assert torch.equal(Preprocessing.of(its_processor)(images), expected(its_processor, images))


UNUSUAL = {
    "crop larger than image": {"size": {"shortest_edge": 20}, "crop_size": {"height": 30, "width": 30}},
    "longest edge": {"size": {"shortest_edge": 20, "longest_edge": 25}, "crop_size": {"height": 20, "width": 20}},
    "no normalisation": {"do_normalize": False},
    "no rescaling": {"do_rescale": False},
    "odd factor": {"rescale_factor": 0.00391},
    "one mean for all": {"image_mean": 0.5, "image_std": 0.5},
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_settings_are_left_to_the_processor(changes):
    its_processor = processor(**changes)
    images = [picture(90, 61), picture(61, 90, seed=1)]
    assert plain_transform(its_processor) is None
    ours = Preprocessing.of(its_processor)
    assert torch.equal(ours(images), expected(its_processor, images))
    assert ours.view(images[0], 1, b"k" * 16).shape == ours.view(images[0], 0, b"").shape


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_modes_become_rgb(mode):
    its_processor = processor()
    image = picture(300, 240, mode=mode)
    assert torch.equal(Preprocessing.of(its_processor)([image]), expected(its_processor, [image]))


def test_identity_tells_settings_apart():
    identities = [Preprocessing.of(processor(**changes)).identity for changes in ({}, *SIZES.values())]
    assert all(first != second for at, first in enumerate(identities) for second in identities[:at])
    assert identities[0] == Preprocessing.of(processor()).identity


# --- random views ------------------------------------------------------------------------------------


def test_view_0_is_the_test_transform_and_the_others_differ():
    ours, image = Preprocessing.of(processor()), picture(300, 240)
    views = [ours.view(image, view, view_key(b"d" * 16, view)) for view in range(4)]
    assert torch.equal(views[0], ours.cut(image))
    assert len({view.numpy().tobytes() for view in views}) == 4
    assert {view.shape for view in views} == {(224, 224, 3)}


def test_a_view_depends_on_content_and_number_alone():
    ours, image = Preprocessing.of(processor()), picture(300, 240)
    key = view_key(b"d" * 16, 1)
    torch.manual_seed(0)
    np.random.seed(0)
    first = ours.view(image, 1, key)
    torch.manual_seed(1)
    assert torch.equal(ours.view(image, 1, key), first)
    assert not torch.equal(ours.view(image, 1, view_key(b"e" * 16, 1)), first)


def test_a_view_is_the_crop_resized_and_half_of_them_are_mirrored():
    """The crop's box is drawn first, the flip next, so the box is known and either orientation must match."""
    ours, image = Preprocessing.of(processor()), picture(300, 240)
    mirrored = 0
    for view in range(1, 41):
        key = view_key(b"d" * 16, view)
        box = random_box(image.size, np.random.Generator(np.random.PCG64(int.from_bytes(key))))
        plain = image.crop(box)
        both = [part.resize((224, 224), 3) for part in (plain, plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
        match = [np.array_equal(np.asarray(part), ours.view(image, view, key).numpy()) for part in both]
        assert any(match)
        mirrored += match[1]
    assert 8 <= mirrored <= 32


@pytest.mark.parametrize("size", [(500, 375), (40, 400), (7, 5)])
def test_random_crops_lie_in_the_image_and_keep_their_area_and_proportions(size):
    generator = np.random.default_rng(0)
    width, height = size
    areas = []
    for _ in range(300):
        left, top, right, bottom = random_box(size, generator)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (width * height))
        if min(size) > 100:
            assert CROP_RATIO[0] * 0.97 <= (right - left) / (bottom - top) <= CROP_RATIO[1] * 1.03
            assert CROP_AREA[0] * 0.95 <= areas[-1] <= CROP_AREA[1]
    if min(size) > 100:
        # Uniform in the area, but for large crops that do not fit in some proportions.
        assert min(areas) < 0.15
        assert max(areas) > 0.85


@pytest.mark.parametrize(("size", "box"), [((1, 900), (0, 449, 1, 450)), ((900, 1), (449, 0, 450, 1))])
def test_an_image_without_a_fitting_crop_gives_its_middle(size, box):
    assert random_box(size, np.random.default_rng(0)) == box
