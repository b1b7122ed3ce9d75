"""Merging: a model with the weights W_0 + scaling · B·A computes the same as the adapted one."""

from __future__ import annotations

import pytest
import torch

from feddtl.backbones.clip import load_clip
from feddtl.export import merge
from feddtl.models.lora import Lora

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.mark.parametrize("residual", [False, True])
def test_merged_model_equals_the_adapted_towers(clip_folder, random_factors, residual):
    clip = load_clip(str(clip_folder))
    clip.model.double()
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    shapes = clip.image.stack.layer_shapes(2, TARGETS)
    added = random_factors(shapes, rank=7, seed=4) if residual else {}
    image_lora = Lora(random_factors(shapes, seed=1), 1.5, added)
    text_lora = Lora(random_factors(clip.text.stack.layer_shapes(1, TARGETS), seed=2), 0.5)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    prompts = ["a photo of a cat.", "two dogs"]
    ids, ends = clip.text.tokenize(prompts)
    image = clip.image.features(clip.image.embed(pixels), 0, image_lora)
    text = clip.text.features(clip.text.embed(ids), ends, 0, text_lora)

    merge(clip.model, image_lora)
    merge(clip.model, text_lora)

    tokens = clip.tokenizer(prompts, padding=True, return_tensors="pt")
    torch.testing.assert_close(clip.model.get_image_features(pixel_values=pixels).pooler_output, image)
    torch.testing.assert_close(clip.model.get_text_features(**tokens).pooler_output, text)
    changed = {name for name, tensor in clip.model.state_dict().items() if not torch.equal(tensor, before[name])}
    adapted = {*clip.image.stack.layer_shapes(2, TARGETS), *clip.text.stack.layer_shapes(1, TARGETS)}
    assert changed == {f"{name}.weight" for name in adapted}
