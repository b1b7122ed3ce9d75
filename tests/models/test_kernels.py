"""The arithmetic of the blocks: attention kernels, precision, the one-token last block, and the choice among them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from feddtl.backbones.clip import load_clip
from feddtl.models import kernel_choice
from feddtl.models.blocks import freeze
from feddtl.models.kernel_choice import (
    HOPELESS,
    REMEMBERED,
    best_seconds,
    bfloat16_is_hopeless,
    choose_kernels,
    prefer,
)
from feddtl.models.kernels import Kernels, as_kernels, attend, choice_line, names_of
from feddtl.models.lora import Lora, grouped
from feddtl.models.towers import Changes

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture
def own_clip(clip_folder):
    """A model that a test may set to other kernels."""
    return load_clip(str(clip_folder))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_kernels_agree_with_a_loop(causal):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 5, 4, generator=generator, dtype=torch.float64)
    expected = torch.empty_like(query)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                seen = i + 1 if causal else 5
                scores = torch.stack([query[b, h, i] @ key[b, h, j] / 2 for j in range(seen)])
                expected[b, h, i] = scores.softmax(dim=0) @ value[b, h, :seen]
    for kernel in ("sdpa", "eager"):
        found = attend(query, key, value, kernel, causal=causal)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_token_of_the_last_block_is_that_of_the_whole_block(make_double_clip, random_factors, tower):
    """Values, and gradients of the adapters of two owners and of the input, with adapters on all six layers."""
    stack = getattr(make_double_clip(), tower).stack
    last = len(stack) - 1
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 6, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([0, 5, 2, 3])
    shapes = stack.layer_shapes(last, ALL_TARGETS)
    members = [Lora({n: t.requires_grad_() for n, t in random_factors(shapes, seed=s).items()}, 1.5) for s in (1, 2)]
    adapter = grouped(members, torch.tensor([0, 1, 1, 0]))
    ours = stack.run_and_read(hidden, last, positions, Changes(adapter))
    whole = stack.run(hidden, last, Changes(adapter))[torch.arange(4), positions]
    torch.testing.assert_close(ours, whole, rtol=1e-11, atol=1e-12)
    leaves = [hidden, *(factor for member in members for factor in member.factors.values())]
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((result * weights).sum(), leaves) for result in (ours, whole)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_frozen_block_keeps_the_activation_of_the_model(own_clip, activation):
    """quick_gelu becomes silu between rescaled weights; any other activation is unchanged."""
    from transformers.activations import ACT2FN

    layer = own_clip.model.vision_model.encoder.layers[0].double()
    layer.mlp.activation_fn = ACT2FN[activation]
    block = freeze(layer, None)
    inputs = 3 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = block.fc2(block.activation(block.fc1(inputs)))
    torch.testing.assert_close(ours, layer.mlp(inputs), rtol=1e-12, atol=1e-12)
    assert block.gain == (1.702 if activation == "quick_gelu" else 1.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_blocks_are_near_float32_and_give_float32_features(own_clip, federation, attention):
    """8 significant bits a step: cosines of the embeddings above 0.999."""
    pixels = federation.pixels(0)
    exact = own_clip.image.prefix(pixels, len(own_clip.image.stack))
    ids, ends = own_clip.text.tokenize(["a photo of a cat.", "zebra"])
    exact_text = own_clip.text.features(own_clip.text.embed(ids), ends, 0)
    own_clip.use(Kernels(torch.bfloat16, attention))
    assert own_clip.image.prefix(pixels, 2).dtype == torch.bfloat16
    half = own_clip.image.prefix(pixels, len(own_clip.image.stack))
    half_text = own_clip.text.features(own_clip.text.embed(ids), ends, 0)
    for ours, theirs in ((half, exact), (half_text, exact_text)):
        assert ours.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.999
        assert not torch.equal(ours, theirs)


def test_passes_hold_what_a_processor_keeps_at_hand(clip, own_clip):
    """12 MB of the widest tensor: 4d = 48 numbers of 4 bytes for each of 5 tokens is 960 bytes an image."""
    stack = clip.image.stack
    assert stack.sequences_per_pass(5) == 512
    assert stack.sequences_per_pass(100_000) == 1
    assert stack.sequences_per_pass(1000) == 12_000_000 // (1000 * 48 * 4)
    own_clip.use(Kernels(torch.bfloat16))
    assert own_clip.image.stack.sequences_per_pass(1000) == 12_000_000 // (1000 * 48 * 2)


def test_released_blocks_come_back(own_clip):
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    stack = own_clip.image.stack
    before = stack.run(hidden, 0)
    stack.release(3)
    assert torch.equal(stack.run(hidden, 0), before)


def test_names_of_kernels_go_both_ways():
    for kernels in (Kernels(torch.bfloat16, "eager"), Kernels(torch.float32, "sdpa")):
        assert as_kernels(**names_of(kernels)) == kernels
    assert names_of(Kernels()) == {"precision": "float32", "attention": "sdpa"}


def test_plainer_kernels_stay_unless_they_clearly_lose():
    def chosen(**seconds):
        timings = {as_kernels(*name.split("_")): value for name, value in seconds.items()}
        return tuple(names_of(prefer(timings)).values())

    assert chosen(float32_sdpa=1.0, bfloat16_sdpa=0.9) == ("float32", "sdpa")
    assert chosen(float32_sdpa=1.0, bfloat16_sdpa=0.8) == ("bfloat16", "sdpa")
    assert chosen(float32_sdpa=1.0, float32_eager=0.95) == ("float32", "sdpa")
    assert chosen(float32_sdpa=1.0, float32_eager=0.7) == ("float32", "eager")
    assert chosen(float32_sdpa=1.0, bfloat16_sdpa=0.8, bfloat16_eager=0.5) == ("bfloat16", "eager")


def test_choice_is_measured_once_and_remembered(own_clip, tmp_path, monkeypatch):
    measured = []

    def pretend(tower, first_block, choices):
        measured.extend(choices)
        seconds = {("float32", "sdpa"): 4.0, ("bfloat16", "eager"): 1.0, ("bfloat16", "sdpa"): math.inf}
        return [seconds.get(tuple(names_of(kernels).values()), 3.0) for kernels in choices]

    monkeypatch.setattr(kernel_choice, "best_seconds", pretend)
    assert choose_kernels(own_clip, 2, remembered_in=tmp_path) == Kernels(torch.bfloat16, "eager")
    assert len(measured) == 4
    assert choose_kernels(own_clip, 2, remembered_in=tmp_path) == Kernels(torch.bfloat16, "eager")
    assert choose_kernels(own_clip, 2, precision="float32", remembered_in=tmp_path).precision == torch.float32
    assert len(measured) == 4
    # Another first block is another measurement; a damaged file is measured again.
    choose_kernels(own_clip, 3, remembered_in=tmp_path)
    assert len(measured) == 8
    assert len(json.loads((tmp_path / REMEMBERED).read_text())) == 2
    for damaged, count in (("{", 10), ("[]", 12)):
        (tmp_path / REMEMBERED).write_text(damaged)
        choose_kernels(own_clip, 2, attention="sdpa", remembered_in=tmp_path)
        assert len(measured) == count


def test_a_choice_says_why(own_clip, tmp_path, monkeypatch):
    """The reason does not make kernels different; in a sentence another reason may take its place."""
    monkeypatch.setattr(kernel_choice, "best_seconds", lambda tower, first_block, choices: [1.0] * len(choices))
    measured = choose_kernels(own_clip, 2, remembered_in=tmp_path)
    remembered = choose_kernels(own_clip, 2, remembered_in=tmp_path)
    asked = choose_kernels(own_clip, 2, "float32", "sdpa", tmp_path)
    assert [each.chosen for each in (measured, remembered, asked, Kernels())] == [
        "measured",
        "remembered",
        "set",
        "default",
    ]
    assert measured == remembered == asked
    assert choice_line(asked) == "Blocks compute in float32 with sdpa attention: as set."
    half = [choose_kernels(own_clip, 2, *asked, tmp_path) for asked in (("bfloat16", "auto"), ("auto", "eager"))]
    assert [choice_line(each).partition(": ")[2] for each in half] == [
        "precision as set, attention measured by an earlier run on this machine.",
        "attention as set, precision measured by an earlier run on this machine.",
    ]
    assert choice_line(measured, "as before").endswith("sdpa attention: as before.")
    monkeypatch.setattr(kernel_choice, "MEASURED_DEVICES", ())
    assert choose_kernels(own_clip, 2).chosen == "default"


def test_what_is_asked_for_is_not_measured(own_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_choice, "best_seconds", pytest.fail)
    assert choose_kernels(own_clip, 2, "bfloat16", "sdpa", tmp_path) == Kernels(torch.bfloat16, "sdpa")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bfloat16_is_usable(monkeypatch):
    """As on a processor with instructions for it."""
    monkeypatch.setattr(kernel_choice, "bfloat16_is_hopeless", lambda device: False)


@pytest.mark.usefixtures("bfloat16_is_usable")
def test_the_best_of_all_turns_counts(own_clip, monkeypatch):
    """Of each two steps the first does not count; the first turn of bfloat16 is disturbed."""
    calls = []

    def step_of(tower, first_block):
        def step():
            calls.append(names_of(tower.stack.kernels)["precision"])
            return {"float32": 2.0}.get(calls[-1], 9.0 if len(calls) < 5 else 1.0)

        return step

    monkeypatch.setattr(kernel_choice, "_training_step", step_of)
    monkeypatch.setattr(kernel_choice, "SECONDS_TO_SPEND", 0.0)
    choices = [Kernels(torch.float32), Kernels(torch.bfloat16)]
    assert best_seconds(own_clip.image, 2, choices) == [2.0, 1.0]
    assert calls == 4 * ["float32", "float32", "bfloat16", "bfloat16"]


@pytest.mark.usefixtures("bfloat16_is_usable")
def test_kernels_without_memory_never_win(own_clip, monkeypatch):
    def step_of(tower, first_block):
        def step():
            if tower.stack.kernels.attention == "eager":
                raise torch.OutOfMemoryError
            return 6.0 if tower.stack.kernels.precision == torch.bfloat16 else 1.0

        return step

    monkeypatch.setattr(kernel_choice, "_training_step", step_of)
    choices = [Kernels(torch.float32), Kernels(torch.bfloat16), Kernels(torch.float32, "eager")]
    assert best_seconds(own_clip.image, 2, choices) == [1.0, 6.0, math.inf]


def test_no_step_is_made_in_a_precision_that_the_processor_does_not_have(own_clip, tmp_path, monkeypatch):
    """On ViT-B such a step takes minutes. Who insists on the precision gets it, with the fused kernel."""
    tried = set()

    def step_of(tower, first_block):
        tried.add(tower.stack.kernels.precision)
        return lambda: 1.0

    monkeypatch.setattr(kernel_choice, "_training_step", step_of)
    monkeypatch.setattr(kernel_choice, "bfloat16_is_hopeless", lambda device: True)
    assert choose_kernels(own_clip, 2, remembered_in=tmp_path) == Kernels(torch.float32, "sdpa")
    assert choose_kernels(own_clip, 2, "bfloat16", remembered_in=tmp_path) == Kernels(torch.bfloat16, "sdpa")
    assert tried == {torch.float32}


@pytest.mark.parametrize(("factor", "hopeless"), [(1.0, False), (HOPELESS - 0.1, False), (HOPELESS + 0.1, True)])
def test_a_product_shows_whether_bfloat16_is_hopeless(monkeypatch, factor, hopeless):
    def timed(device, product):
        product()
        return factor if product.args[0].dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(kernel_choice, "_timed", timed)
    bfloat16_is_hopeless.cache_clear()
    assert bfloat16_is_hopeless(torch.device("cpu")) is hopeless
    bfloat16_is_hopeless.cache_clear()


@pytest.mark.usefixtures("bfloat16_is_usable")
@pytest.mark.parametrize("first_block", [2, 4])
def test_measurement_leaves_the_tower_as_it_was(own_clip, first_block):
    """Block 4 of 4 is a method that changes no block: the last one is measured."""
    choices = [Kernels(torch.float32), Kernels(torch.bfloat16, "eager")]
    assert all(0 < seconds < 60 for seconds in best_seconds(own_clip.image, first_block, choices))
    assert own_clip.image.stack.kernels == Kernels()
    assert all(parameter.grad is None for parameter in own_clip.model.parameters())
