"""Folders that are not one whole CLIP: each is refused in words that say what to do, and no code in them is run."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from feddtl.backbones.catalog import load_backbone
from feddtl.backbones.clip import load_clip
from feddtl.errors import ModelError

PICKLED = "pytorch_model.bin"
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
BLOCK = "vision_model.encoder.layers.4.layer_norm1.weight"


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


def set_values(file, table="", **values):
    content = json.loads(file.read_text())
    (content[table] if table else content).update(values)
    file.write_text(json.dumps(content))


def set_weights(folder, **values):
    weights = load_file(folder / WEIGHTS) | values
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder, names):
    """The weights in two files, and an index that names these."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    half = len(weights) // 2
    parts = (list(weights)[:half], list(weights)[half:])
    for name, part in zip(names, parts, strict=True):
        save_file({key: weights[key] for key in part}, folder / name, metadata={"format": "pt"})
    index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def missing_shard(folder):
    shard(folder, ("model-1.safetensors", "model-2.safetensors"))
    (folder / "model-2.safetensors").unlink()


def shard_elsewhere(folder):
    shard(folder, ("model-1.safetensors", "../model-2.safetensors"))


def damaged_index(folder):
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def cut(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def other_name(folder):
    (folder / WEIGHTS).rename(folder / "clip.safetensors")


def broken_link(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "blobs" / "gone")


class Bomb:
    """A pickle that leaves a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "code ran")))


def pickled_values(content):
    def change(folder):
        (folder / WEIGHTS).unlink()
        torch.save(content, folder / PICKLED)

    return change


def cut_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / PICKLED)
    (folder / WEIGHTS).unlink()
    (folder / PICKLED).write_bytes((folder / PICKLED).read_bytes()[:-2000])


def other_library(folder):
    (folder / WEIGHTS).rename(folder / "tf_model.h5")


def one_more_block(folder):
    set_weights(folder, **{BLOCK: torch.ones(32)})


def quantised(folder):
    set_weights(folder, **{"visual_projection.weight": torch.ones(24, 32, dtype=torch.int8)})


def not_finite(value):
    def change(folder):
        weights = load_file(folder / WEIGHTS)
        weights["text_model.encoder.layers.1.mlp.fc1.weight"].view(-1)[5] = value
        set_weights(folder, **weights)

    return change


def infinite_scale(folder):
    set_weights(folder, logit_scale=torch.tensor(1000.0))


def larger_vocabulary(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["new"] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def configured(table="", **values):
    return lambda folder: set_values(folder / CONFIG, table, **values)


def processed(**values):
    return lambda folder: set_values(folder / PROCESSOR, **values)


def pointer(name):
    return lambda folder: (folder / name).write_text(POINTER)


WRONG = [
    (missing_shard, "1 of the 2 files in .*index.json are missing: model-2.safetensors"),
    (shard_elsewhere, r"index.json names \['../model-2.safetensors'\], not .safetensors files beside it"),
    (damaged_index, "index.json is damaged"),
    (cut, "model.safetensors is damaged or incomplete"),
    (other_name, "has neither model.safetensors nor pytorch_model.bin, only clip.safetensors"),
    (broken_link, "model.safetensors is a link to .*gone, which does not exist"),
    (pickled, "pytorch_model.bin .* is read only if it has tensors alone, because other contents can run code"),
    (pickled_values({"a": 1}), "pytorch_model.bin has something other than tensors by name"),
    (pickled_values([torch.ones(2)]), "pytorch_model.bin has something other than tensors by name"),
    (pickled_values({"a": torch.nn.Linear(1, 1)}), r"more than tensors in it \(torch.nn.modules.linear.Linear\)\. It"),
    (pickled_values({"a": torch.eye(2).to_sparse()}), "has a sparse tensor or one without values, a"),
    (pickled_values({"a": torch.ones(2, device="meta")}), "has a sparse tensor or one without values, a"),
    (cut_pickle, "pytorch_model.bin is damaged"),
    (other_library, "neither model.safetensors nor pytorch_model.bin, only tf_model.h5, which is not read"),
    (pointer(WEIGHTS), "model.safetensors is a pointer of Git LFS"),
    (pointer(CONFIG), "config.json is a pointer of Git LFS"),
    (pointer("tokenizer.json"), "tokenizer.json is a pointer of Git LFS"),
    (configured("vision_config", num_hidden_layers=3), "describes 3 blocks of the vision tower .*; the weights have 4"),
    (configured("text_config", num_hidden_layers=10**9), "describes 1000000000 blocks of the text tower"),
    (one_more_block, "describes 4 blocks of the vision tower .*; the weights have 5"),
    (configured("text_config", intermediate_size=64), r"mlp.fc1.bias has the shape \(64,\); in the weights it has"),
    (configured("text_config", vocab_size=100), r"token_embedding.weight has the shape \(100, 32\)"),
    (configured(projection_dim=8), "by config.json, text_projection.weight has the shape"),
    (configured("vision_config", num_attention_heads=5), "hidden_size|num_attention_heads|attention heads"),
    (configured("vision_config", num_channels=1), "takes images of 1 channels"),
    (configured("vision_config", image_size=4), "patches of 8 pixels are larger than its images of 4"),
    (configured("vision_config", patch_size=0), "vision_config.patch_size = 0"),
    (configured("vision_config", layer_norm_eps=math.nan), "vision_config.layer_norm_eps = nan"),
    (configured("text_config", eos_token_id=[1, 2]), r"text_config.eos_token_id = \[1, 2\], not one whole number"),
    (configured("text_config", eos_token_id=None), "text_config.eos_token_id = None"),
    (quantised, r"visual_projection.weight is quantised \(I8\)"),
    (not_finite(math.nan), "text_model.encoder.layers.1.mlp.fc1.weight has NaN or infinite values"),
    (not_finite(-math.inf), "text_model.encoder.layers.1.mlp.fc1.weight has NaN or infinite values"),
    (infinite_scale, "logit_scale is 1000.0"),
    (larger_vocabulary, "has tokens up to 260, and the model's vocabulary ends at 259"),
    (processed(crop_size=224, size=224), "makes images of 224×224 pixels; the model takes 16×16"),
    (processed(crop_size={"height": 16, "width": 8}), "makes images of 8×16 pixels"),
    (processed(do_center_crop=False), "has no centre crop"),
    (processed(do_center_crop=False, size={"height": 16, "width": 32}), "makes images of 32×16 pixels"),
    (processed(size={"shortest_edge": 0}), "has size = .*, not whole numbers above 0"),
    (processed(image_mean=[0.5, 0.5]), r"has image_mean = \[0.5, 0.5\], not three numbers"),
    (processed(image_std=[0.5, 0.5, 0.0]), "has image_std = .*, not three numbers above 0"),
    (processed(image_std="0.5"), "has image_std = 0.5"),
    (processed(rescale_factor=0), "has rescale_factor = 0"),
    (processed(resample=9), "has resample = 9"),
]


@pytest.mark.parametrize("towers", [None, {"image", "text"}], ids=["whole", "towers"])
@pytest.mark.parametrize(("change", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_folder_that_is_no_whole_model_is_refused(copy, change, problem, towers):
    change(copy)
    with pytest.raises(ModelError, match=problem) as caught:
        load_backbone(str(copy), towers=towers)
    assert str(copy) in caught.value.message
    assert caught.value.hint
    assert not (copy.parent / "code ran").exists()


@pytest.mark.parametrize("crop", [16, {"height": 16, "width": 16}])
def test_sizes_may_be_numbers_or_tables(clip, copy, crop):
    set_values(copy / PROCESSOR, size=16, crop_size=crop)
    image = Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 9).convert("RGB")
    assert torch.equal(load_clip(str(copy)).image.preprocess([image]), clip.image.preprocess([image]))


def test_images_that_the_patches_do_not_divide_are_as_in_transformers(copy):
    """A convolution leaves out the pixels after the last whole patch."""
    set_values(copy / CONFIG, "vision_config", image_size=21)
    set_values(copy / PROCESSOR, size=21, crop_size=21)
    pixels = torch.randn(2, 3, 21, 21, generator=torch.Generator().manual_seed(0))
    for ours in (load_clip(str(copy)), load_clip(str(copy), towers={"image"})):
        whole = load_clip(str(copy)).model
        expected = whole.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(ours.image.features(ours.image.embed(pixels), 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("file", [CONFIG, "tokenizer_config.json", PROCESSOR])
def test_code_beside_a_model_is_neither_run_nor_asked_about(clip, copy, tmp_path, monkeypatch, file):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked"))
    (copy / "own.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'code ran')!r}).touch()\n")
    classes = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")
    set_values(copy / file, auto_map=dict.fromkeys(classes, "own.Own"))
    assert load_clip(str(copy)).digest() == clip.digest()
    assert not (tmp_path / "code ran").exists()


@pytest.mark.parametrize(
    ("file", "values"),
    [
        (CONFIG, {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}),
    ],
)
def test_model_that_needs_its_own_code_is_refused(copy, tmp_path, monkeypatch, file, values):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked"))
    (copy / "own.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'code ran')!r}).touch()\n")
    set_values(copy / file, **values)
    if file == CONFIG:
        with pytest.raises(ModelError, match="'own' model"):
            load_backbone(str(copy))
    else:
        load_backbone(str(copy))
    assert not (tmp_path / "code ran").exists()


def test_weights_of_another_model_are_not_looked_for(clip, copy):
    """transformers would follow either to other weights."""
    set_values(copy / CONFIG, transformers_weights="elsewhere.safetensors")
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}')
    assert load_clip(str(copy)).digest() == clip.digest()


def test_finite_weights_are_looked_through_once(copy, tmp_path, monkeypatch):
    load_clip(str(copy), remembered_in=tmp_path)
    monkeypatch.setattr("feddtl.models.model_files.names_not_finite", lambda tensors: pytest.fail("looked again"))
    load_clip(str(copy), remembered_in=tmp_path)


@pytest.fixture
def hub_cache(clip_folder, tmp_path, monkeypatch):
    """The folder of someone/clip in a Hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--someone--clip"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    return shutil.copytree(clip_folder, model / "snapshots" / "abc")


def test_downloaded_model_needs_no_network(clip, hub_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *words, **more: pytest.fail("asked the Hub"))
    ours = load_backbone("someone/clip")
    assert (ours.source, ours.digest()) == ("someone/clip", clip.digest())


@pytest.mark.parametrize("file", [WEIGHTS, PROCESSOR, "tokenizer.json"])
def test_model_that_is_downloaded_in_part_is_completed(clip, clip_folder, hub_cache, monkeypatch, file):
    """Pickles and models in the formats of other libraries are not downloaded."""
    asked = []

    def download(source, allow_patterns):
        asked.append((source, "pytorch_model.bin" in allow_patterns))
        shutil.copy(clip_folder / file, hub_cache)
        return str(hub_cache)

    (hub_cache / file).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_backbone("someone/clip").digest() == clip.digest()
    assert asked == [("someone/clip", False)]


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("oldest", [False, True], ids=["archive", "before torch 1.6"])
@pytest.mark.parametrize("towers", [None, {"image", "text"}], ids=["whole", "towers"])
def test_pickled_weights_are_those_of_safetensors(clip, copy, files, oldest, towers):
    weights = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    names = [PICKLED] if files == 1 else ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    parts = [dict(list(weights.items())[number::files]) for number in range(files)]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, copy / name, _use_new_zipfile_serialization=not oldest)
    if files > 1:
        index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        (copy / f"{PICKLED}.index.json").write_text(json.dumps({"weight_map": index}))
    assert load_backbone(str(copy), towers=towers).digest() == clip.digest()


def test_pickled_weights_are_downloaded_where_there_are_no_others(clip, clip_folder, hub_cache, monkeypatch):
    asked = []

    def download(source, allow_patterns):
        asked.append(PICKLED in allow_patterns)
        if asked[-1]:
            torch.save(load_file(clip_folder / WEIGHTS), hub_cache / PICKLED)
        return str(hub_cache)

    (hub_cache / WEIGHTS).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_backbone("someone/clip").digest() == clip.digest()
    assert asked == [False, True]


def test_hub_model_in_other_formats_says_how_to_convert_it(hub_cache, monkeypatch):
    (hub_cache / WEIGHTS).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *words, **more: str(hub_cache))
    with pytest.raises(ModelError, match="someone/clip: it has neither") as caught:
        load_backbone("someone/clip")
    assert "CLIPModel.from_pretrained('someone/clip')" in caught.value.hint


def test_folder_with_the_form_of_a_hub_id_is_a_folder(clip, clip_folder, tmp_path, monkeypatch):
    shutil.copytree(clip_folder, tmp_path / "models" / "clip")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("models/clip").digest() == clip.digest()


def test_error_names_where_a_relative_folder_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="There is no model folder clip") as caught:
        load_backbone("clip")
    assert str(tmp_path / "clip") in caught.value.message
