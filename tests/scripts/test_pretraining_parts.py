"""Loss, schedule, calibration and views of the training from scratch, against numbers from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretraining.fitting import calibrate_projection, contrastive_loss, rate_factor
from pretraining.views import LONGEST_SHIFT, colour, cover, random_views, warp, warp_matrices


def test_the_loss_is_the_one_derived_by_hand() -> None:
    """Three images of the classes 0, 0, 1; class 2 has a caption but no image.

    By image, softmax over the captions:      (3, 1, 1)/5 → 3/5;  (1, 1, 1)/3 → 1/3;  (1, 4, 1)/6 → 2/3.
    By caption 0, softmax over the images:    (3, 1, 1)/5, of which images 0 and 1 are right in equal parts:
                                              −(ln 3/5 + ln 1/5)/2.
    By caption 1:                             (1, 1, 4)/6 → −ln 2/3. Caption 2 has nothing to find and does not count.
    """
    logits = torch.tensor([[3.0, 1, 1], [1, 1, 1], [1, 4, 1]]).log()
    by_image = -(math.log(3 / 5) + math.log(1 / 3) + math.log(2 / 3)) / 3
    by_text = (-(math.log(3 / 5) + math.log(1 / 5)) / 2 - math.log(2 / 3)) / 2
    found = contrastive_loss(logits, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx((by_image + by_text) / 2, abs=1e-6)


def test_images_of_one_class_do_not_repel_each_other() -> None:
    """Two images of one class and nothing else: all similarities may grow alike without any loss from the texts."""
    logits = torch.zeros(2, 1, requires_grad=True)
    contrastive_loss(logits, torch.tensor([0, 0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(2, 1))


def test_the_rate_climbs_over_a_tenth_and_falls_to_zero() -> None:
    factors = [rate_factor(step, 100, 500) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == 1
    assert factors[11:] == sorted(factors[11:], reverse=True)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert rate_factor(4, 100, 5) == 1


def test_calibration_sets_the_norm_and_leaves_predictions_alone(clip_folder: object) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip_folder).eval()  # type: ignore[call-overload]
    pixel_values = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    texts = torch.tensor([[2, 40, 41, 3], [2, 50, 51, 3]])
    before = model(pixel_values=pixel_values, input_ids=texts).logits_per_image
    calibrate_projection(model, pixel_values)
    norms = model.get_image_features(pixel_values=pixel_values).pooler_output.norm(dim=-1)
    assert norms.mean().item() == pytest.approx(model.logit_scale.exp().item() / 10, rel=1e-4)
    torch.testing.assert_close(model(pixel_values=pixel_values, input_ids=texts).logits_per_image, before)


def pictures(count: int, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def still(count: int) -> torch.Tensor:
    """Draws that change nothing: not mirrored, no shift, not warped."""
    return torch.tensor([[0.9, 0.5, 0.5, 0.9, 0.5, 0.5, 0.5]]).repeat(count, 1)


def test_draws_that_change_nothing_change_nothing() -> None:
    images = pictures(2)
    torch.testing.assert_close(warp(images, warp_matrices(still(2), 32)), images)
    torch.testing.assert_close(colour(images, torch.tensor([[0.9, 0.0, 1.0, 0.0]] * 2)), images)
    assert torch.equal(cover(images, torch.tensor([[0.9, 1.0, 0.5, 0.5]] * 2)), images)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("right", "down"), [(0, 3), (-4, 1), (4, -4)])
def test_a_shift_is_a_crop_of_the_padded_image(mirrored: bool, right: int, down: int) -> None:
    """Oracle: NumPy's padding with mirrored edges, a slice, and a flip."""
    images = pictures(1)
    draws = still(1)
    draws[0, 0] = 0.1 if mirrored else 0.9
    draws[0, 1:3] = (torch.tensor([right, down]) + LONGEST_SHIFT + 0.5) / (2 * LONGEST_SHIFT + 1)
    padded = np.pad(images[0].numpy(), ((0, 0), (4, 4), (4, 4)), mode="symmetric")
    cut = padded[:, 4 + down : 36 + down, 4 + right : 36 + right]
    wanted = cut[:, :, ::-1] if mirrored else cut
    found = warp(images, warp_matrices(draws, 32))[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turn_alone_keeps_lengths_and_a_mirror_reverses(mirrored: bool) -> None:
    """The largest turn is 20°; sheared or scaled views are no rotations."""
    draws = still(3)
    draws[:, 0] = 0.1 if mirrored else 0.9
    draws[0, 3:5] = torch.tensor([0.0, 1.0])
    draws[1, 3:6] = torch.tensor([0.0, 0.5, 1.0])
    draws[2, 3:7] = torch.tensor([0.0, 0.5, 0.5, 1.0])
    turned, sheared, scaled = warp_matrices(draws, 32)[:, :, :2]
    torch.testing.assert_close(turned @ turned.t(), torch.eye(2))
    assert turned[1, 1].item() == pytest.approx(math.cos(math.radians(20)))
    assert turned.det().item() == pytest.approx(-1 if mirrored else 1)
    assert sheared[0, 1].item() == pytest.approx(0.2)
    torch.testing.assert_close(scaled.abs(), 1.2 * torch.eye(2))


def test_colours_change_by_their_formulas() -> None:
    """Draws of 1 give the factor 1.4, draws of 1/2 the factor 1; one pair of pixels, worked out by hand.

    Brightness of (0.1, 0.2, 0.3), (0.3, 0.2, 0.1): times 1.4. Contrast about the mean 0.2. Saturation about each
    pixel's grey, 0.2 for both.
    """
    image = torch.tensor([[[0.1, 0.3]], [[0.2, 0.2]], [[0.3, 0.1]]])[None]
    moved = 0.2 + 1.4 * (image - 0.2)
    for place, wanted in ((1, 1.4 * image), (2, moved), (3, moved)):
        draws = torch.full((1, 4), 0.5)
        draws[0, place] = 1
        torch.testing.assert_close(colour(image, draws), wanted)


def test_a_hole_is_a_grey_square() -> None:
    images = torch.ones(1, 3, 32, 32)
    covered = cover(images, torch.tensor([[0.1, 0.5, 0.5, 0.25]]))  # side 8 around column 16, row 8
    wanted = images.clone()
    wanted[:, :, 4:12, 12:20] = 0.5
    assert torch.equal(covered, wanted)


def test_views_follow_from_the_generator_alone() -> None:
    images = (pictures(6) * 255).byte()
    first, again, other = (random_views(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
