"""pFedMMA against transformers with adapters hooked beside its layers, against a plain SGD loop, and its backward pass
against products written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compared import all_tensors, assert_same_features, assert_same_round, in_float64
from slow_methods import SlowPFedMMA

from feddtl.methods.catalog import build_method
from feddtl.methods.linear_layers import kaiming_linear
from feddtl.methods.pfedmma.method import adapter_output
from feddtl.methods.pfedmma.settings import PFedMMASettings
from feddtl.models.kernels import Kernels

# A scale at which a mistake would show; the paper's is 0.001.
LARGE = 0.7


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


def slow_of(federation, settings):
    return SlowPFedMMA(federation.task.clip, federation.task.prompt_template, settings)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("blocks", "first"), [(1, 3), (2, 2), (8, 1)])
def test_features_are_those_of_transformers_with_the_adapters(double, make_experiment, blocks, first, attention):
    """Image tower of 4 blocks, text tower of 3: 8 means 3 here. Blocks before the first adapter run once."""
    settings = PFedMMASettings(blocks=blocks, width=6, scale=LARGE)
    method = build_method(double.task, make_experiment(method="pfedmma", pfedmma=settings))
    assert method.first_image_block == first
    double.task.clip.use(Kernels(attention=attention))
    try:
        assert_same_features(double, method, slow_of(double, settings), all_tensors(method))
    finally:
        double.task.clip.use(Kernels())


def test_activations_at_the_first_adapter_give_what_those_of_block_zero_give(double, make_experiment, monkeypatch):
    settings = PFedMMASettings(blocks=2, width=6, scale=LARGE)
    method = build_method(double.task, make_experiment(method="pfedmma", pfedmma=settings))
    image, tensors = double.task.clip.image, all_tensors(method)
    pixels = double.pixels(0).double()
    stored = method.image_features(tensors, image.prefix(pixels, method.first_image_block))
    with torch.no_grad():
        whole = image.stack.run(image.embed(pixels), 0, stop=method.first_image_block)
    torch.testing.assert_close(stored, method.image_features(tensors, whole), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [LARGE, 0.001])
def test_a_round_is_plain_sgd_on_the_gradient_divided_by_the_scale(double, make_experiment, scale):
    settings = PFedMMASettings(blocks=2, width=6, scale=scale)
    experiment = make_experiment(method="pfedmma", pfedmma=settings, local={"learning_rate": 0.02})
    assert_same_round(double, experiment, slow_of(double, settings))


def test_backward_pass_by_hand():
    """y = c · (U r₂ + b₃), r₂ = max(0, S r₁ + b₂), r₁ = max(0, D x + b₁), and g the gradient at y.

    With c left out of what the weights get, ∇U = Σ g r₂ᵀ, ∇S = Σ δ₂ r₁ᵀ and ∇D = Σ δ₁ xᵀ over all tokens, where
    δ₂ = [r₂ > 0] Uᵀ g and δ₁ = [r₁ > 0] Sᵀ δ₂. The biases get Σ g, Σ δ₂ and Σ δ₁; x gets c Dᵀ δ₁.
    """
    rng, c = np.random.default_rng(0), 0.001
    shapes = ((4, 7), (4, 4), (7, 4))  # down, shared, up at d = 7
    (down, b1), (shared, b2), (up, b3) = [(rng.normal(size=shape), rng.normal(size=shape[0])) for shape in shapes]
    x, g = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 5, 7))

    inputs = torch.tensor(x, requires_grad=True)
    layers = [
        (torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True))
        for weight, bias in ((down, b1), (shared, b2), (up, b3))
    ]
    output = adapter_output(inputs, layers, c)
    output.backward(torch.tensor(g))

    r1 = np.maximum(0, x @ down.T + b1)
    r2 = np.maximum(0, r1 @ shared.T + b2)
    d2 = (r2 > 0) * (g @ up)
    d1 = (r1 > 0) * (d2 @ shared)
    assert 0.1 < (r2 > 0).mean() < 0.9
    np.testing.assert_allclose(output.detach(), c * (r2 @ up.T + b3), atol=1e-12)
    pairs = ((d1, x), (d2, r1), (g, r2))
    for (weight, bias), (delta, before) in zip(layers, pairs, strict=True):
        np.testing.assert_allclose(weight.grad, np.einsum("bto,bti->oi", delta, before), atol=1e-12)
        np.testing.assert_allclose(bias.grad, delta.sum(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(inputs.grad, c * (d1 @ down), atol=1e-12)


@pytest.mark.parametrize(("rows", "columns", "deviation"), [(32, 768, 0.25), (768, 32, 0.051), (512, 32, 0.0625)])
def test_initial_deviation_at_the_sizes_of_vit_b_16(rows, columns, deviation):
    """√(2/rows), fan-out, over 16,384 numbers or more: within 5/√32768 = 2.8 %."""
    weight = kaiming_linear("image.down.0", rows, columns, 0)["image.down.0.weight"]
    assert weight.shape == (rows, columns)
    assert abs(weight.std().item() / deviation - 1) < 0.028


def test_initial_values(federation, make_experiment):
    """Normal with fan-out 32 everywhere in a tower of width 32: deviation 1/4, over 1,024 numbers within 11 %."""
    method = build_method(federation.task, make_experiment(method="pfedmma"))
    tensors = {**method.initial_shared(), **method.initial_personal(0)}
    assert {tuple(t.shape) for n, t in tensors.items() if n.endswith("weight")} == {(32, 32)}
    for name, tensor in tensors.items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        else:
            assert abs(tensor.std().item() / math.sqrt(2 / 32) - 1) < 0.11, name
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight")]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_the_global_model_is_the_average_between_the_initial_adapters(federation, make_experiment, randomised):
    method = build_method(federation.task, make_experiment(method="pfedmma", pfedmma=PFedMMASettings(scale=LARGE)))
    state = randomised(method.init_server(), 1)
    tensors = method.global_tensors(state)
    shared = method.trained_tensors(state)
    assert all(torch.equal(tensors[name], shared[name]) for name in shared)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in method.initial_personal(2).items())
    activations = federation.clients(method)[0].activations.all()
    before = method.classifier(method.init_server()).image_features(activations)
    assert (method.classifier(state).image_features(activations) - before).abs().max() > 1e-3
