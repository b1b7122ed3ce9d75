"""FedMaPLe against transformers with prompts put in by hooks, and against a plain SGD loop."""

from __future__ import annotations

import pytest
import torch
from compared import all_tensors, assert_same_features, assert_same_round, in_float64
from slow_methods import SlowFedMaPLe, SlowMethod

from feddtl.methods.catalog import build_method
from feddtl.methods.fedmaple.settings import FedMaPLeSettings
from feddtl.models.kernels import Kernels


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


def slow_of(federation, depth):
    return SlowFedMaPLe(federation.task.clip, federation.task.prompt_template, depth)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("asked", "depth"), [(1, 1), (2, 2), (9, 3)])
def test_features_are_those_of_transformers_with_the_prompts(double, make_experiment, asked, depth, attention):
    """The towers have 4 and 3 blocks, so 9 means 3 here."""
    method = build_method(double.task, make_experiment(method="fedmaple", fedmaple=FedMaPLeSettings(depth=asked)))
    double.task.clip.use(Kernels(attention=attention))
    try:
        assert_same_features(double, method, slow_of(double, depth), all_tensors(method))
    finally:
        double.task.clip.use(Kernels())


@pytest.mark.parametrize("blocks", [(2, 5), (5, 2)])
def test_towers_of_other_depths(federation, make_clip, make_experiment, blocks):
    folder = make_clip(image_blocks=blocks[0], text_blocks=blocks[1])
    double = in_float64(federation, folder)
    method = build_method(double.task, make_experiment(method="fedmaple"))
    assert_same_features(double, method, slow_of(double, 2), all_tensors(method))


def test_a_round_is_plain_sgd(double, make_experiment):
    experiment = make_experiment(method="fedmaple", local={"learning_rate": 0.02})
    assert_same_round(double, experiment, slow_of(double, 3))


def test_text_before_training_is_that_of_the_written_prompt(double, make_experiment):
    """Depth 1 changes no deeper token, and the context is that of "a photo"."""
    method = build_method(double.task, make_experiment(method="fedmaple", fedmaple=FedMaPLeSettings(depth=1)))
    written = SlowMethod(double.task.clip, "a photo of a {class}.").text_features({}, double.task.class_names)
    ours = method.text_features(method.initial_shared(), double.task.class_names)
    torch.testing.assert_close(ours, written, rtol=1e-9, atol=1e-9)


def test_names_of_the_tensors_and_their_shapes(federation, make_experiment):
    """Byte-level tokens: "a photo" is 7 of them. Width 32 in both towers, 3 blocks."""
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in build_method(federation.task, make_experiment(method="fedmaple")).initial_shared().items()
    }
    assert shapes == {
        **{f"text.{block}": (7, 32) for block in range(3)},
        **{f"map.{block}.weight": (32, 32) for block in range(3)},
        **{f"map.{block}.bias": (32,) for block in range(3)},
    }


def test_deeper_maps_start_as_copies_of_one(federation, make_experiment):
    """The first is another draw, and each copy is a tensor of its own."""
    tensors = build_method(federation.task, make_experiment(method="fedmaple")).initial_shared()
    for part in ("weight", "bias"):
        first, second, third = (tensors[f"map.{block}.{part}"] for block in range(3))
        assert torch.equal(second, third)
        assert second.data_ptr() != third.data_ptr()
        assert not torch.equal(first, second)
    assert not torch.equal(tensors["text.1"], tensors["text.2"])


def test_passes_make_room_for_the_prompts(federation, make_experiment):
    image = federation.task.clip.image
    method = build_method(federation.task, make_experiment(method="fedmaple"))
    assert method.images_per_pass == image.stack.sequences_per_pass(5 + 7)
    assert method.classifier(method.init_server()).images_per_pass == method.images_per_pass


def test_prompts_take_the_place_of_tokens_and_leave_the_input_alone(federation):
    hidden = torch.arange(12.0).view(2, 3, 2)
    before = hidden.clone()
    placed = federation.task.clip.text.replace_context(hidden, torch.tensor([[-1.0, -2.0]]))
    assert placed.tolist() == [[[0, 1], [-1, -2], [4, 5]], [[6, 7], [-1, -2], [10, 11]]]
    assert torch.equal(hidden, before)
