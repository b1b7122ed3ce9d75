"""Context vectors of PromptFL and FedPGP: their number, their start, and the positions that the model has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from feddtl.backbones.clip import load_clip
from feddtl.errors import ConfigError
from feddtl.methods.catalog import build_method, method_entry

each_method = pytest.mark.parametrize("name", ["promptfl", "fedpgp"])


def built(federation, make_experiment, name, **settings):
    return build_method(
        federation.task, make_experiment(method=name, **{name: method_entry(name).settings(**settings)})
    )


@each_method
def test_a_text_decides_values_and_number(federation, make_experiment, name):
    """The rows of the embedding matrix that the tokenizer names; byte-level tokens, so "a photo of a" has 12."""
    clip = federation.task.clip
    ids = clip.tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    expected = clip.model.text_model.embeddings.token_embedding.weight[ids]
    method = built(federation, make_experiment, name, initial_text=" a photo of a ")
    context = method.initial_shared()["context"]
    assert context.shape == (12, 32)
    assert torch.equal(context, expected)
    if name == "fedpgp":
        assert method.initial_personal(0)["U"].shape == (12, 8)


@each_method
def test_an_initial_value_is_nobodys_alias(federation, make_experiment, name):
    method = built(federation, make_experiment, name, initial_text="a photo")
    method.initial_shared()["context"].zero_()
    assert method.initial_shared()["context"].abs().min() > 0


@each_method
def test_sixteen_random_vectors_by_default_and_the_same_if_asked_for(federation, make_experiment, name):
    default = built(federation, make_experiment, name).initial_shared()["context"]
    assert default.shape == (16, 32)
    assert torch.equal(default, built(federation, make_experiment, name, context_length=16).initial_shared()["context"])


@each_method
def test_a_number_that_contradicts_the_text_is_refused(federation, make_experiment, name):
    assert built(federation, make_experiment, name, initial_text="a cat", context_length=5)
    with pytest.raises(ConfigError, match=rf"{name}\.context_length = 4 contradicts .* 'a cat'.* 5 tokens") as caught:
        built(federation, make_experiment, name, initial_text="a cat", context_length=4)
    assert "set it to 5" in caught.value.hint


@each_method
def test_more_vectors_than_positions_are_refused_before_training(federation, make_experiment, name):
    """64 positions; "great crested grebe." has 20 bytes, with start and end 22 tokens: 42 vectors fit."""
    assert built(federation, make_experiment, name, context_length=42)
    with pytest.raises(ConfigError, match=r"context_length = 43 .*22 other tokens make 65; .* 64 positions") as caught:
        built(federation, make_experiment, name, context_length=43)
    assert "to 42 or less" in caught.value.hint


@each_method
def test_a_note_where_prompts_pass_the_texts_of_the_models_training(
    federation, make_experiment, clip_folder, tmp_path, name
):
    """22 tokens of the longest name: 8 vectors make 30, and 9 pass a training on 30."""
    assert built(federation, make_experiment, name).notes() == []  # nothing is known of this model's training
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["trained_tokens"] = 30
    (folder / "config.json").write_text(json.dumps(config))
    for towers in (None, ("image", "text")):
        known = replace(federation, task=replace(federation.task, clip=load_clip(str(folder), towers=towers)))
        assert built(known, make_experiment, name, context_length=8).notes() == []
        [note] = built(known, make_experiment, name, context_length=9).notes()
        assert "reach position 31" in note
        assert "at most 30 tokens" in note
        assert f"{name}.context_length = 8 stays within" in note


def test_the_embedded_model_knows_the_length_of_its_captions():
    """ "a clean photo of a red star." is eight words and marks, with start and end ten tokens."""
    clip = load_clip("tiny-clip")
    assert clip.text.trained_tokens == len(clip.tokenizer("a clean photo of a red star.")["input_ids"]) == 10
