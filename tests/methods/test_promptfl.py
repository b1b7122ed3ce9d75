"""PromptFL against transformers with the prompt put in by a hook, and against a plain SGD loop."""

from __future__ import annotations

import pytest
import torch
from compared import NAMES, all_tensors, assert_same_features, assert_same_round, in_float64
from slow_methods import SlowMethod, SlowPromptFL

from feddtl.errors import ModelError
from feddtl.methods.catalog import build_method
from feddtl.methods.promptfl.settings import PromptFLSettings
from feddtl.models.kernels import Kernels

SETTINGS = PromptFLSettings(context_length=5, init_std=0.3)


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


@pytest.fixture(scope="module")
def slow(double):
    return SlowPromptFL(double.task.clip, double.task.prompt_template)


@pytest.mark.parametrize("length", [1, 16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_features_are_those_of_transformers_with_the_prompt(double, slow, make_experiment, length, attention):
    experiment = make_experiment(method="promptfl", promptfl=PromptFLSettings(context_length=length))
    method = build_method(double.task, experiment)
    double.task.clip.use(Kernels(attention=attention))
    try:
        assert_same_features(double, method, slow, all_tensors(method))
    finally:
        double.task.clip.use(Kernels())


def test_a_round_is_plain_sgd(double, slow, make_experiment):
    experiment = make_experiment(method="promptfl", promptfl=SETTINGS, local={"learning_rate": 0.02})
    assert_same_round(double, experiment, slow)


def test_a_round_with_warmup_and_cosine(double, slow, make_experiment):
    """η · (1 + cos x)/2 = η · cos²(x/2): the rates of five epochs are 0.01, then 0.05 · (1, 0.905, 0.655, 0.345)."""
    local = {"epochs": 5, "learning_rate": 0.05, "rate_schedule": "cosine", "warmup_epochs": 1, "warmup_rate": 0.01}
    assert_same_round(double, make_experiment(method="promptfl", promptfl=SETTINGS, local=local), slow)


def test_the_prompt_of_a_written_text_is_that_text(double, make_experiment):
    """With the token embeddings of "a photo of a " as context, the features are those of the written prompt."""
    clip = double.task.clip
    context = clip.text.embed_words("a photo of a ")
    method = build_method(double.task, make_experiment(method="promptfl"))
    plain = SlowMethod(clip, "a photo of a {class}.")
    ours = method.text_features({"context": context}, NAMES)
    torch.testing.assert_close(ours, plain.text_features({}, NAMES), rtol=1e-9, atol=1e-9)


def test_initial_context_has_its_deviation_and_follows_the_seed(federation, make_experiment):
    """512 numbers: the sample deviation is within 5/√(2·512) = 16 % of 0.3."""
    method = build_method(federation.task, make_experiment(method="promptfl", promptfl=PromptFLSettings(16, 0.3)))
    context = method.initial_shared()["context"]
    assert context.shape == (16, 32)
    assert abs(context.std().item() / 0.3 - 1) < 0.16
    assert torch.equal(context, method.initial_shared()["context"])


def test_a_context_that_does_not_fit_is_refused_with_the_most_that_does(federation, make_experiment):
    """64 positions; the longest name has 19 bytes, a full stop, start and end: 22 tokens, so 42 vectors fit."""
    method = build_method(federation.task, make_experiment(method="promptfl"))
    with pytest.raises(ModelError, match="43 context vectors and prompts of 22 tokens make 65") as caught:
        method.text_features({"context": torch.zeros(43, 32)}, ["great crested grebe"])
    assert "at most 42" in caught.value.hint
    assert method.text_features({"context": torch.zeros(42, 32)}, ["great crested grebe"]).shape == (1, 24)
