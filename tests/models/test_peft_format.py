"""The same adapter through PEFT and through our towers."""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from feddtl.backbones.clip import load_clip
from feddtl.errors import ModelError
from feddtl.models.lora import Lora
from feddtl.models.peft_format import load_adapter, save_adapter

TARGETS = ("q_proj", "v_proj", "out_proj", "fc2")
PROMPTS = ["a photo of a cat.", "two dogs"]


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def our_features(clip, pixels, lora, tower):
    if tower == "image":
        return clip.image.features(clip.image.embed(pixels), 0, lora)
    ids, ends = clip.text.tokenize(PROMPTS)
    return clip.text.features(clip.text.embed(ids), ends, 0, lora)


def transformers_features(model, clip, pixels, tower):
    if tower == "image":
        return model.get_image_features(pixel_values=pixels).pooler_output
    return model.get_text_features(**clip.tokenizer(PROMPTS, padding=True, return_tensors="pt")).pooler_output


@pytest.mark.parametrize(("tower", "other"), [("image", "text"), ("text", "image")])
def test_saved_adapter_gives_the_same_features_in_peft(
    clip, clip_folder, random_factors, pixels, tmp_path, tower, other
):
    """PEFT adapts exactly the layers of our file: the tower it is for changes as ours does, the other not at all."""
    shapes = getattr(clip, tower).stack.layer_shapes(1, TARGETS)
    lora = Lora(random_factors(shapes, dtype=torch.float32), 1.25)
    save_adapter(tmp_path, lora, "some/clip")
    fresh = load_clip(str(clip_folder))
    adapted = PeftModel.from_pretrained(fresh.model, tmp_path).base_model.model
    with torch.no_grad():
        theirs = transformers_features(adapted, clip, pixels, tower)
        ours = our_features(clip, pixels, lora, tower)
        plain = our_features(clip, pixels, None, tower)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)
        assert (ours - plain).abs().max() > 0.1
        assert torch.equal(
            transformers_features(adapted, clip, pixels, other), transformers_features(clip.model, clip, pixels, other)
        )
    adapted_layers = {
        name.removesuffix(".lora_A.default") for name, _ in adapted.named_modules() if name.endswith("lora_A.default")
    }
    assert adapted_layers == set(shapes)


def test_adapter_written_by_peft_is_loaded(clip, clip_folder, pixels, tmp_path):
    fresh = load_clip(str(clip_folder))
    config = LoraConfig(r=3, lora_alpha=6, target_modules=r".*vision_model.*\.(k_proj|fc1)", init_lora_weights=False)
    peft_model = get_peft_model(fresh.model, config)
    peft_model.save_pretrained(tmp_path)
    lora = load_adapter(tmp_path)
    assert lora.scaling == 2.0
    assert len(lora.factors) == 2 * 2 * 4
    with torch.no_grad():
        theirs = transformers_features(peft_model.base_model.model, clip, pixels, "image")
        ours = our_features(clip, pixels, lora, "image")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)


def test_own_file_loads_bit_for_bit(clip, random_factors, tmp_path):
    factors = random_factors(clip.text.stack.layer_shapes(0, TARGETS), dtype=torch.float32)
    save_adapter(tmp_path / "new" / "folder", Lora(factors, 0.5), "some/clip")
    loaded = load_adapter(tmp_path / "new" / "folder")
    assert loaded.scaling == 0.5
    assert loaded.factors.keys() == factors.keys()
    assert all(torch.equal(loaded.factors[name], factors[name]) for name in factors)
    config = json.loads((tmp_path / "new" / "folder" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/clip"
    assert (config["r"], config["lora_alpha"]) == (3, 1.5)


@pytest.fixture
def adapter_folder(clip, random_factors, tmp_path):
    factors = random_factors(clip.image.stack.layer_shapes(3, TARGETS), dtype=torch.float32)
    save_adapter(tmp_path, Lora(factors, 1.0), "some/clip")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"fc2": 7}},
        {"rank_pattern": {"q_proj": 2}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_adapter_that_another_formula_reads_is_refused(adapter_folder, change):
    """Each would load with a wrong scaling or a missing part, and give wrong features without a word."""
    path = adapter_folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match="not a plain LoRA"):
        load_adapter(adapter_folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        '{"peft_type": "LORA", "r": 4}',
        '{"peft_type": "LORA", "r": 0, "lora_alpha": 4}',
        '{"peft_type": "LORA", "r": 4, "lora_alpha": "x"}',
    ],
)
def test_config_without_the_needed_keys_is_refused(adapter_folder, content):
    (adapter_folder / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"not a plain LoRA|table of keys|lora_alpha = "):
        load_adapter(adapter_folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapter_that_is_not_finite_is_refused_naming_the_tensor(adapter_folder, value):
    tensors = load_file(adapter_folder / "adapter_model.safetensors")
    name = max(tensors)
    tensors[name][0, 0] = value
    save_file(tensors, adapter_folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=rf"{re.escape(name)} has NaN or infinite values"):
        load_adapter(adapter_folder)


def test_adapter_with_tensors_beside_the_factors_is_refused(adapter_folder):
    path = adapter_folder / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.visual_projection.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match="not a plain LoRA"):
        load_adapter(adapter_folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_config.json", None),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"\xff\xfe\x00"),
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b"garbage"),
    ],
)
def test_missing_or_damaged_file_is_an_error_that_names_the_folder(adapter_folder, file, content):
    if content is None:
        (adapter_folder / file).unlink()
    else:
        (adapter_folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="Cannot read the adapter") as caught:
        load_adapter(adapter_folder)
    assert str(adapter_folder) in caught.value.message
