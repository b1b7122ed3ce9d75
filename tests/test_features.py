"""The plain activations that faster ones are compared with: transformers' own, in the order of the table."""

from __future__ import annotations

import pytest
import torch
from plain_activations import frozen_activations


@pytest.fixture
def table(make_images):
    return make_images([0, 1, 2, 3, 4] * 5, seed=1, size=(20, 18))


@pytest.mark.parametrize("block", [0, 1, 3])
def test_activations_are_the_input_of_the_block(clip, table, block):
    """Image by image through transformers' own modules."""
    activations = frozen_activations(clip.image, table, block)
    assert activations.shape == (25, 5, 32)
    assert activations.dtype == torch.float32
    for index in (0, 7, 24):
        pixels = clip.processor(images=table.read(index), return_tensors="pt")["pixel_values"]
        vision = clip.model.vision_model
        states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(activations[index], states[block][0], rtol=0, atol=4e-6)


def test_batch_size_does_not_change_the_result(clip, table):
    whole = frozen_activations(clip.image, table, 2)
    for size in (1, 4, 25):
        torch.testing.assert_close(frozen_activations(clip.image, table, 2, batch=size), whole, rtol=0, atol=4e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_is_the_rounding_of_the_float32_result(clip, table, dtype):
    """Arithmetic stays in float32; only the result is rounded."""
    exact = frozen_activations(clip.image, table, 2)
    kept = frozen_activations(clip.image, table, 2, dtype=dtype)
    assert kept.dtype == dtype
    assert torch.equal(kept, exact.to(dtype))


def test_selected_table_gives_the_selected_rows(clip, table):
    chosen = table.select([24, 3, 3, 10])
    whole = frozen_activations(clip.image, table, 2)
    torch.testing.assert_close(frozen_activations(clip.image, chosen, 2), whole[[24, 3, 3, 10]], rtol=0, atol=4e-6)
    assert not torch.allclose(whole[24], whole[3])


def test_empty_table_gives_no_rows(clip, table):
    assert len(frozen_activations(clip.image, table.select([]), 2)) == 0


def test_no_gradient_is_kept(clip, table):
    assert not frozen_activations(clip.image, table, 2).requires_grad
