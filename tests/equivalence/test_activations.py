"""Starting from cached activations gives what running the whole tower at every step gives."""

from __future__ import annotations

import pytest
import torch
from plain_activations import frozen_activations

from feddtl.methods.catalog import build_method
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.tensor_groups import select_prefix

METHODS = ("feddtl", "fedlora")


def run(federation, experiment, method, state, dtype=torch.float32):
    clients, sets = federation.clients(method, dtype), federation.sets(method, dtype)
    return Runtime(method, clients, sets, experiment).run(Progress(state))


@pytest.mark.parametrize("method", METHODS)
def test_cached_run_equals_a_run_from_the_pixels(federation, make_experiment, method):
    """The second method begins at block 0 of either tower; its adapters are the first one's, in the last blocks.

    Four rounds of both stages; only the batches that go through the frozen blocks differ, which is rounding.
    """
    experiment = make_experiment(method=method)
    cached = build_method(federation.task, experiment)
    whole = build_method(
        federation.task, make_experiment(method=method, lora={"first_image_block": 0, "first_text_block": 0})
    )
    assert (cached.first_image_block, whole.first_image_block) == (2, 0)
    start = cached.init_server()
    ours, expected = (run(federation, experiment, method, start) for method in (cached, whole))
    assert ours.state.tensors.keys() == expected.state.tensors.keys()
    for name, tensor in ours.state.tensors.items():
        torch.testing.assert_close(tensor, expected.state.tensors[name], rtol=0, atol=2e-5, msg=name)
        assert "lora_B" not in name or tensor.abs().max() > 1e-3
    for record, other in zip(ours.records, expected.records, strict=True):
        assert record.headline == other.headline


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_activations_are_near_float32(federation, make_experiment, dtype):
    """bfloat16 has 8 significant bits, relative error 2⁻⁹, float16 11: the embeddings agree to that order."""
    experiment = make_experiment()
    method = build_method(federation.task, experiment)
    payload = method.broadcast(method.init_server())
    exact, rounded = (
        method.client_update(payload, federation.clients(method, kept)[0], {}) for kept in (torch.float32, dtype)
    )
    cosines = (exact.samples["embeddings"] * rounded.samples["embeddings"]).sum(dim=-1)
    assert cosines.min() > 0.999
    assert not torch.equal(exact.samples["embeddings"], rounded.samples["embeddings"])
    assert rounded.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in rounded.weights.values())


def test_16_bit_run_is_scored_like_a_float32_run(federation, make_experiment):
    """At most one of the 12 base and 6 novel images is classified differently."""
    experiment = make_experiment()
    method = build_method(federation.task, experiment)
    start = method.init_server()
    exact, half = (
        run(federation, experiment, method, start, dtype).records[-1] for dtype in (torch.float32, torch.bfloat16)
    )
    assert abs(exact.headline["base"] - half.headline["base"]) < 100 / 12 + 0.01
    assert abs(exact.headline["novel"] - half.headline["novel"]) < 100 / 6 + 0.01


def test_cut_of_the_tower_does_not_change_features(federation, make_experiment, randomised):
    """The same adapted model, asked with activations of any block at or below its first adapted one."""
    task, experiment = federation.task, make_experiment()
    state = randomised(build_method(task, experiment).init_server(), 1)
    reference = None
    for block in (0, 1, 2):
        method = build_method(task, make_experiment(lora={"first_image_block": block}))
        activations = frozen_activations(task.clip.image, federation.test_base, block)
        features = method.classifier(state).image_features(activations)
        reference = features if reference is None else reference
        torch.testing.assert_close(features, reference, rtol=0, atol=1e-6)
    untouched = build_method(task, make_experiment(method="zero-shot"))
    plain = untouched.classifier(untouched.init_server())
    activations = frozen_activations(task.clip.image, federation.test_base, untouched.first_image_block)
    assert not torch.allclose(plain.image_features(activations), reference, atol=1e-3)
    assert select_prefix(state.tensors, "shared")
