"""Both towers against transformers' own forward pass, cut at every block."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from PIL import Image
from torch.func import functional_call

from feddtl.backbones.clip import load_clip
from feddtl.errors import ConfigError, ModelError
from feddtl.models.lora import Lora
from feddtl.models.towers import Changes, mask_up_to, tokens_at

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PROMPTS = ["a photo of a cat.", "a", "an oil painting of a great crested grebe.", "zebra, or the like"]
EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def text_features(clip, prompts, cut=0, lora=None):
    ids, ends = clip.text.tokenize(prompts)
    return clip.text.features(clip.text.stack.run(clip.text.embed(ids), 0, stop=cut), ends, cut, lora)


def transformers_text_features(clip, prompts, padding=True):
    tokens = clip.tokenizer(prompts, padding=padding, return_tensors="pt")
    return clip.model.get_text_features(**tokens).pooler_output


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 4), (5, 8)])
def test_image_tower_equals_transformers_at_every_cut(make_double_clip, pixels, blocks, heads):
    clip = make_double_clip(image_blocks=blocks, heads=heads)
    expected = clip.model.get_image_features(pixel_values=pixels).pooler_output
    assert len(clip.image.stack) == blocks
    for cut in range(blocks):
        activations = clip.image.stack.run(clip.image.embed(pixels), 0, stop=cut)
        torch.testing.assert_close(clip.image.features(activations, cut), expected, **EXACT)


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 4), (5, 8)])
def test_text_tower_equals_transformers_at_every_cut(make_double_clip, blocks, heads):
    clip = make_double_clip(text_blocks=blocks, heads=heads)
    expected = transformers_text_features(clip, PROMPTS)
    for cut in range(blocks):
        torch.testing.assert_close(text_features(clip, PROMPTS, cut), expected, **EXACT)


@pytest.mark.parametrize("blocks", [1, 3])
def test_what_never_changes_of_texts_is_the_whole_tower_behind_the_last_block(make_double_clip, blocks):
    """Up to any block, and after the last one the projected features."""
    clip = make_double_clip(text_blocks=blocks)
    expected = transformers_text_features(clip, PROMPTS)
    for stop in range(blocks + 1):
        hidden, ends = clip.text.prefix(tuple(PROMPTS), stop)
        torch.testing.assert_close(clip.text.features(hidden, ends, stop), expected, **EXACT)
    assert hidden.shape == expected.shape


@pytest.mark.parametrize("prompts", [1, 4])
def test_context_vectors_of_a_texts_own_tokens_change_nothing(double_clip, prompts):
    """The embeddings of the first tokens after the start, removed from the text and inserted again as context."""
    text = double_clip.text
    ids, ends = text.tokenize(["a photo of a cat."])
    context = text.embed_words("a photo of a cat.")[:prompts]
    placed, positions = text.with_context(["a photo of a cat."], context, instead_of=prompts)
    assert torch.equal(positions, ends)
    torch.testing.assert_close(placed, text.embed(ids), **EXACT)
    torch.testing.assert_close(
        text.features(placed, ends, 0), text_features(double_clip, ["a photo of a cat."]), **EXACT
    )


def test_towers_equal_transformers_in_single_precision(clip, pixels):
    """A model as users load it; unit vectors, so that 1e-6 is an absolute error of the embedding."""
    pixels = pixels.float()
    image = torch.nn.functional.normalize(clip.image.features(clip.image.embed(pixels), 0), dim=-1)
    text = torch.nn.functional.normalize(text_features(clip, PROMPTS), dim=-1)
    expected_image = torch.nn.functional.normalize(clip.model.get_image_features(pixel_values=pixels).pooler_output)
    expected_text = torch.nn.functional.normalize(transformers_text_features(clip, PROMPTS))
    assert (image - expected_image).abs().max() < 1e-6
    assert (text - expected_text).abs().max() < 1e-6


def test_text_cut_at_the_longest_prompt_equals_text_padded_to_the_context(double_clip):
    ids, _ = double_clip.text.tokenize(PROMPTS)
    assert ids.shape == (4, 2 + len(PROMPTS[2]))
    padded = transformers_text_features(double_clip, PROMPTS, padding="max_length")
    torch.testing.assert_close(text_features(double_clip, PROMPTS), padded, **EXACT)


def test_prompt_feature_does_not_depend_on_the_other_prompts(double_clip):
    together = text_features(double_clip, PROMPTS)
    alone = torch.cat([text_features(double_clip, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, **EXACT)


def test_legacy_end_of_text_is_pooled_at_the_largest_id(make_double_clip):
    """A configuration with eos_token_id = 2, as OpenAI's CLIP has: id 2 is <bos> here, which must not be pooled."""
    clip = make_double_clip(legacy_eos=True)
    assert clip.model.config.text_config.eos_token_id == 2 == clip.tokenizer.bos_token_id
    ids, ends = clip.text.tokenize(PROMPTS)
    assert ends.tolist() == [1 + len(prompt) for prompt in PROMPTS]
    assert ids[torch.arange(4), ends].tolist() == [clip.tokenizer.eos_token_id] * 4
    torch.testing.assert_close(text_features(clip, PROMPTS), transformers_text_features(clip, PROMPTS), **EXACT)


def test_end_of_text_that_is_not_the_largest_id_is_found(double_clip):
    ids, ends = double_clip.text.tokenize(["ab", "abcd"])
    assert double_clip.tokenizer.eos_token_id == 3 < int(ids.max())
    assert ends.tolist() == [3, 5]
    assert ids[0].tolist()[4:] == [0, 0]


def test_prompt_that_fills_the_context_is_taken_and_one_token_more_is_refused(double_clip):
    """The context is 64: <bos>, 62 letters, <eos>."""
    ids, ends = double_clip.text.tokenize(["x" * 62])
    assert ids.shape == (1, 64)
    assert ends.tolist() == [63]
    with pytest.raises(ModelError, match=r"The prompt 'x{63}' has 65 tokens; the model allows 64") as caught:
        double_clip.text.tokenize(["short", "x" * 63, "y"])
    assert "data.prompt" in caught.value.hint


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_token_of_the_last_block_equals_all_tokens(double_clip, random_factors, tower):
    """Only the token that is read goes through the last block; adapters on every layer, every position read once."""
    stack = getattr(double_clip, tower).stack
    lora = Lora(random_factors(stack.layer_shapes(1, ALL_TARGETS)), 0.7)
    hidden = torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    everything = stack.run(hidden, 1, Changes(lora))
    positions = torch.tensor([3, 0, 5, 1, 4, 2])
    read = stack.run_and_read(hidden, 1, positions, Changes(lora))
    torch.testing.assert_close(read, everything[torch.arange(6), positions], **EXACT)


def test_text_tower_reads_no_later_token(double_clip):
    stack = double_clip.text.stack
    hidden = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    changed = hidden.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(stack.run(hidden, 0)[:, :4], stack.run(changed, 0)[:, :4], **EXACT)
    assert not torch.allclose(stack.run(hidden, 0)[:, 4:], stack.run(changed, 0)[:, 4:])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_adapted_tower_and_its_gradients_equal_dense_weights(double_clip, random_factors, dense_weights, pixels, tower):
    """Autograd through W_0 + s·B·A in transformers' model is the definition; all six layers, two blocks."""
    model, scaling = double_clip.model, 1.5
    shapes = getattr(double_clip, tower).stack.layer_shapes(1, ALL_TARGETS)
    leaves = {name: tensor.requires_grad_() for name, tensor in random_factors(shapes, seed=4).items()}
    lora = Lora(leaves, scaling)
    if tower == "image":
        ours = double_clip.image.features(
            double_clip.image.stack.run(double_clip.image.embed(pixels), 0, stop=1), 1, lora
        )
        read = "vision_model", "visual_projection", (), {"pixel_values": pixels}
    else:
        ours = text_features(double_clip, PROMPTS, 1, lora)
        read = (
            "text_model",
            "text_projection",
            (),
            dict(double_clip.tokenizer(PROMPTS, padding=True, return_tensors="pt")),
        )
    part, projection, arguments, inputs = read
    dense = {name.removeprefix(part + "."): weight for name, weight in dense_weights(model, lora).items()}
    pooled = functional_call(getattr(model, part), dense, arguments, inputs).pooler_output
    expected = getattr(model, projection)(pooled)
    torch.testing.assert_close(ours, expected, **EXACT)

    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad((ours * direction).sum(), list(leaves.values()))
    expected_gradients = torch.autograd.grad((expected * direction).sum(), list(leaves.values()))
    for name, gradient, expected_gradient in zip(leaves, gradients, expected_gradients, strict=True):
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_adapter_of_one_tower_leaves_the_other_unchanged(double_clip, random_factors, pixels):
    both = {
        tower: random_factors(getattr(double_clip, tower).stack.layer_shapes(0, ALL_TARGETS))
        for tower in ("image", "text")
    }
    hidden = double_clip.image.embed(pixels)
    assert torch.equal(
        double_clip.image.features(hidden, 0, Lora(both["text"], 1.0)), double_clip.image.features(hidden, 0)
    )
    assert torch.equal(
        text_features(double_clip, PROMPTS, lora=Lora(both["image"], 1.0)), text_features(double_clip, PROMPTS)
    )
    assert not torch.allclose(
        double_clip.image.features(hidden, 0, Lora(both["image"], 1.0)), double_clip.image.features(hidden, 0)
    )


def test_blocks_count_from_either_end_and_others_are_refused(clip):
    stack = clip.image.stack
    assert [stack.resolve(block, "k") for block in (-4, -1, 0, 3)] == [0, 3, 0, 3]
    for block in (-5, 4):
        with pytest.raises(ConfigError, match=f"lora.first_image_block = {block} ") as caught:
            stack.resolve(block, "lora.first_image_block")
        assert "-4 to 3" in caught.value.hint


@pytest.mark.parametrize("tower", ["image", "text"])
def test_layer_shapes_are_those_of_the_state_dict(clip, tower):
    stack = getattr(clip, tower).stack
    shapes = stack.layer_shapes(1, ALL_TARGETS)
    weights = clip.model.state_dict()
    assert len(shapes) == 6 * (len(stack) - 1)
    assert {name: tuple(weights[f"{name}.weight"].shape) for name in shapes} == shapes
    assert not any(".0." in name for name in shapes)


def test_tokens_at_takes_one_token_of_each_sequence():
    hidden = torch.arange(12.0).view(2, 3, 2)
    assert tokens_at(hidden, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_mask_ends_at_the_position():
    """Token 0 attends to itself only; token 2 of 4 attends to three tokens."""
    mask = mask_up_to(torch.tensor([0, 2]), 4)
    assert mask.shape == (2, 1, 4)
    assert mask[:, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def test_preprocessing_is_resize_crop_and_normalise_without_augmentation(clip):
    """A grey of value 51 is 0.2; CLIP's means and deviations give (0.2 - mean) / std in each channel."""
    pixels = clip.image.preprocess([Image.new("RGB", (40, 20), (51, 51, 51)), Image.new("RGB", (9, 30), (51, 51, 51))])
    assert pixels.shape == (2, 3, 16, 16)
    expected = [
        (0.2 - mean) / std
        for mean, std in ((0.48145466, 0.26862954), (0.4578275, 0.26130258), (0.40821073, 0.27577711))
    ]
    torch.testing.assert_close(pixels, torch.tensor(expected).view(1, 3, 1, 1).expand(2, 3, 16, 16), rtol=0, atol=1e-5)


def test_loaded_model_is_frozen_and_gives_its_logit_scale(clip_folder):
    """The fixture stores log 20, and exp(log 20) is the scale."""
    loaded = load_clip(str(clip_folder))
    assert loaded.logit_scale == pytest.approx(20.0, rel=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_a_tower_that_nobody_uses_is_freed_at_once(clip_folder):
    """A comparison loads many models; each must not wait for the garbage collector with its weights."""
    model = load_clip(str(clip_folder))
    model.text.prefix(("a red star",), 1)
    tower = weakref.ref(model.text)
    gc.disable()
    try:
        del model
        assert tower() is None
    finally:
        gc.enable()
