"""A CLIP of which one tower is loaded: the same numbers, half of the weights, no transformers, and clear refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from feddtl.backbones.clip import ClipModules, load_clip
from feddtl.errors import ModelError
from feddtl.features import prefix_identity
from feddtl.models.backbone import BOTH_TOWERS
from feddtl.models.model_files import MODELS

PROMPTS = ("a photo of a cat.", "a photo of a great crested grebe.")


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def assert_images_equal(ours, theirs, pixels):
    for block in (0, 2, len(theirs.stack)):
        hidden = theirs.prefix(pixels, block)
        assert torch.equal(ours.prefix(pixels, block), hidden)
        assert torch.equal(ours.features(hidden, block), theirs.features(hidden, block))


def assert_texts_equal(ours, theirs):
    for block in (0, 1, len(theirs.stack)):
        (hidden, ends), (expected, expected_ends) = ours.prefix(PROMPTS, block), theirs.prefix(PROMPTS, block)
        assert torch.equal(hidden, expected)
        assert torch.equal(ends, expected_ends)
        assert torch.equal(ours.features(hidden, ends, block), theirs.features(expected, ends, block))


def parameters_in_memory(clip):
    """Number of parameters whose values are in memory."""
    return sum(parameter.numel() for parameter in clip.model.parameters() if not parameter.is_meta)


@pytest.mark.parametrize("source", ["random", "tiny-clip"])
def test_towers_are_equal_to_those_of_the_whole_model_in_every_bit(clip_folder, pixels, source):
    source = str(clip_folder) if source == "random" else source
    whole = load_clip(source)
    side = whole.model.config.vision_config.image_size
    pixels = pixels.repeat(1, 1, side // 16, side // 16)
    image, text, both = (load_clip(source, towers=towers) for towers in ({"image"}, {"text"}, BOTH_TOWERS))
    for ours in (image, both):
        assert_images_equal(ours.image, whole.image, pixels)
    for ours in (text, both):
        assert_texts_equal(ours.text, whole.text)
    assert image.logit_scale == text.logit_scale == whole.logit_scale


def test_each_tower_loads_only_its_own_weights(clip):
    """Together they load each weight once, except the logit scale, a single number, which both have."""
    image, text = (load_clip(clip.source, towers={tower}) for tower in ("image", "text"))
    model = clip.model
    vision = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
    assert parameters_in_memory(image) == 1 + sum(parameter.numel() for parameter in vision)
    assert parameters_in_memory(image) + parameters_in_memory(text) == 1 + sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert not any(parameter.requires_grad for parameter in image.model.parameters() if not parameter.is_meta)


def test_shapes_of_a_tower_that_is_not_loaded_are_known(clip):
    """The server of FedDTL draws the first LoRA of an image tower that it has not got."""
    text = load_clip(clip.source, towers={"text"})
    assert not text.image.stack.is_loaded
    assert (text.image.width, text.image.feature_width, text.image.tokens) == (32, 24, 5)
    assert text.image.stack.layer_shapes(2, ("q_proj", "fc1")) == clip.image.stack.layer_shapes(2, ("q_proj", "fc1"))
    assert text.image.device == torch.device("cpu")


def test_what_is_not_loaded_is_refused_by_name(clip, pixels):
    image, text = (load_clip(clip.source, towers={tower}) for tower in ("image", "text"))
    with pytest.raises(ModelError, match="The weights of the text tower were not loaded") as caught:
        image.text.prefix(PROMPTS, 0)
    assert "client_towers" in caught.value.hint
    with pytest.raises(ModelError, match="image tower"):
        text.image.prefix(pixels, 0)
    hidden = torch.zeros(1, 5, 32)
    with pytest.raises(ModelError, match=r"vision_model\.encoder\.layers"):
        text.image.features(hidden, 2)


def test_hashes_are_the_same_whichever_towers_are_loaded(clip, tmp_path):
    image, text = (load_clip(clip.source, towers={t}, remembered_in=tmp_path) for t in ("image", "text"))
    assert image.digest() == text.digest() == clip.digest()
    assert image.identity() == text.identity() == clip.identity()
    for stop in (0, 2, 4):
        assert prefix_identity(image.image, stop, "float16") == prefix_identity(clip.image, stop, "float16")


def test_hash_follows_every_weight(clip, copy, tmp_path):
    """Also one of a tower that is not loaded, and although the hashes of the file before are remembered."""
    before = load_clip(str(copy), towers={"image"}, remembered_in=tmp_path).digest()
    weights = load_file(copy / "model.safetensors")
    weights["text_model.final_layer_norm.bias"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_clip(str(copy), towers={"image"}, remembered_in=tmp_path).digest() != before == clip.digest()


def test_hashes_of_an_unchanged_file_are_not_computed_again(copy, tmp_path, monkeypatch):
    first = load_clip(str(copy), towers={"image"}, remembered_in=tmp_path).digest()
    monkeypatch.setattr("feddtl.models.digests.tensor_digest", lambda tensor: pytest.fail("hashed again"))
    assert load_clip(str(copy), towers={"text"}, remembered_in=tmp_path).digest() == first
    status = (copy / "model.safetensors").stat()
    os.utime(copy / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        load_clip(str(copy), towers={"text"}, remembered_in=tmp_path).digest()


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}'])
def test_damaged_memory_is_found_out_again(copy, clip, tmp_path, content):
    (tmp_path / MODELS).write_text(content)
    assert load_clip(str(copy), towers={"image"}, remembered_in=tmp_path).digest() == clip.digest()
    assert str(copy.resolve()) in json.loads((tmp_path / MODELS).read_text())


def test_weights_in_several_files(clip, tmp_path, pixels):
    clip.model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    clip.tokenizer.save_pretrained(tmp_path / "sharded")
    clip.processor.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    ours = load_clip(str(tmp_path / "sharded"), towers={"image"})
    assert isinstance(ours.model, ClipModules)
    assert_images_equal(ours.image, clip.image, pixels)
    assert ours.digest() == clip.digest()


def test_weights_in_half_precision_compute_in_float32_as_the_whole_model_does(clip, copy, pixels):
    weights = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    whole, ours = load_clip(str(copy)), load_clip(str(copy), towers={"image"})
    assert isinstance(ours.model, ClipModules)
    assert_images_equal(ours.image, whole.image, pixels)
    assert ours.digest() == whole.digest() != clip.digest()


def test_rare_activation_is_loaded_whole(copy):
    """`ClipModules` does not have it."""
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (copy / "config.json").write_text(json.dumps(config))
    assert isinstance(load_clip(str(copy), towers={"image"}).model, CLIPModel)


@pytest.mark.parametrize("towers", [{"image"}, {"text"}])
def test_missing_weight_is_refused_in_either_tower(copy, towers):
    weights = load_file(copy / "model.safetensors")
    del weights["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, among them vision_model\.encoder\.layers\.1\.mlp\.fc1"):
        load_clip(str(copy), towers=towers)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_damaged_file_is_a_model_error(copy, file):
    (copy / file).write_bytes(b"{")
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_clip(str(copy), towers={"image"})


def test_second_process_imports_no_transformers_before_it_reads_an_image(clip, tmp_path):
    """Settings, hashes and the name in the cache are remembered by the first."""
    load_clip(clip.source, towers={"image"}, remembered_in=tmp_path).identity()
    code = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "from feddtl.features import prefix_identity; from feddtl.backbones.clip import load_clip\n"
        f"clip = load_clip({clip.source!r}, towers=['image'], remembered_in=Path({str(tmp_path)!r}))\n"
        "clip.identity(); prefix_identity(clip.image, 2, 'float16')\n"
        "print('transformers' in sys.modules, 'torch._dynamo' in sys.modules)\n"
        "print(tuple(clip.image.preprocess([Image.new('RGB', (16, 16))]).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False", "(1, 3, 16, 16)"]
