"""Loading and saving a CLIP folder, and the errors of incomplete ones."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from feddtl.backbones.clip import load_clip
from feddtl.errors import ModelError
from feddtl.models.backbone import save_backbone
from feddtl.models.text_tower import prompts_for


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_missing_folder_says_what_to_give(tmp_path):
    with pytest.raises(ModelError, match="There is no model folder") as caught:
        load_clip(str(tmp_path / "nowhere"))
    assert "openai/clip-vit-base-patch16" in caught.value.hint
    assert "tiny-clip" in caught.value.hint


def test_model_that_is_not_a_clip_is_refused_by_its_type(copy):
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a 'bert' model, not a CLIP"):
        load_clip(str(copy))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"no json at all"])
def test_damaged_file_is_a_model_error(copy, file, content):
    (copy / file).write_bytes(content)
    with pytest.raises(ModelError, match="Cannot load the model") as caught:
        load_clip(str(copy))
    assert str(copy) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_missing_file_is_a_model_error(copy, file):
    (copy / file).unlink()
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_clip(str(copy))


def test_truncated_weights_are_a_model_error(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_clip(str(copy))


def test_weights_of_another_shape_are_a_model_error(copy):
    change_weights(copy, lambda weights: weights.update({"visual_projection.weight": torch.ones(3, 3)}))
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_clip(str(copy))


def test_missing_weights_are_not_replaced_by_random_ones(copy):
    """transformers only logs them; the features would be noise."""
    change_weights(copy, lambda weights: weights.pop("vision_model.encoder.layers.1.mlp.fc1.weight"))
    with pytest.raises(ModelError, match=r"lacks 1 weights, among them vision_model\.encoder\.layers\.1\.mlp\.fc1"):
        load_clip(str(copy))


def test_configuration_with_impossible_heads_is_a_model_error(copy):
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_clip(str(copy))


def test_missing_tokenizer_is_not_replaced_by_an_empty_one(copy):
    """transformers then gives every letter the same id, so that all classes would have one embedding."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(ModelError, match=r"The tokenizer of .* does not fit the model"):
        load_clip(str(copy))


def test_tokenizer_that_does_not_end_texts_is_refused(copy):
    """Without an end of text the first token would be pooled, which is the same for all prompts."""
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"none that ends the text \(3\)"):
        load_clip(str(copy))


def test_saved_model_is_the_same_for_transformers_and_for_us(clip, tmp_path):
    save_backbone(clip, tmp_path / "saved")
    again = CLIPModel.from_pretrained(tmp_path / "saved").state_dict()
    weights = clip.model.state_dict()
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "saved")("A cat")["input_ids"] == clip.tokenizer("A cat")["input_ids"]
    )
    assert load_clip(str(tmp_path / "saved")).logit_scale == clip.logit_scale


def test_embedded_model_equals_transformers(tmp_path):
    clip = load_clip("tiny-clip")
    prompts = ["a photo of a red circle.", "a photo of a striped hexagon."]
    ids, ends = clip.text.tokenize(prompts)
    expected = clip.model.get_text_features(**clip.tokenizer(prompts, padding=True, return_tensors="pt")).pooler_output
    torch.testing.assert_close(clip.text.features(clip.text.embed(ids), ends, 0), expected, rtol=1e-5, atol=1e-5)
    assert 1 <= clip.logit_scale <= 100.01


def test_prompts_fill_the_template_and_read_underscores_as_blanks():
    assert prompts_for(["ice_cream", "owl"], "a {class}, {class}!") == ["a ice cream, ice cream!", "a owl, owl!"]
