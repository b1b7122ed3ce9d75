"""FedPGP: its prompt against transformers, its contrast against numbers by hand, its round against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from compared import NAMES, all_tensors, assert_same_features, assert_same_round, in_float64, moved
from slow_methods import SlowFedPGP

from feddtl.messages import Payload, ServerState
from feddtl.methods.catalog import build_method
from feddtl.methods.fedpgp.method import contrast
from feddtl.methods.fedpgp.settings import FedPGPSettings
from feddtl.models.text_tower import TextTower
from feddtl.tensor_groups import add_prefix


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


def slow_of(federation, settings):
    return SlowFedPGP(federation.task.clip, federation.task.prompt_template, settings)


def test_features_are_those_of_transformers_with_the_personal_prompt(double, make_experiment):
    settings = FedPGPSettings(context_length=6, bottleneck=2)
    method = build_method(double.task, make_experiment(method="fedpgp", fedpgp=settings))
    tensors = all_tensors(method)
    assert_same_features(double, method, slow_of(double, settings), tensors)
    shared = {"context": tensors["context"]}
    ours, theirs = method.text_features(shared, NAMES), slow_of(double, settings).text_features(shared, NAMES)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert (ours - method.text_features(tensors, NAMES)).abs().max() > 1e-3


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 0.5), (3.0, 0.1), (0.0, 0.5)])
def test_a_round_is_plain_sgd_on_the_whole_loss(double, make_experiment, weight, temperature):
    """The library sends the gradients of both terms back through the personal texts at once; here one autograd does."""
    settings = FedPGPSettings(5, 2, contrast_weight=weight, contrast_temperature=temperature)
    experiment = make_experiment(method="fedpgp", fedpgp=settings, local={"learning_rate": 0.02})
    update = assert_same_round(double, experiment, slow_of(double, settings))
    assert ("text_term" in update.metrics) == (weight > 0)


def test_the_contrast_changes_what_is_learnt(double, make_experiment):
    """Else the round above could agree with the term left out on both sides."""
    tuned = []
    for weight in (0.0, 3.0):
        settings = FedPGPSettings(5, 2, contrast_weight=weight)
        experiment = make_experiment(method="fedpgp", fedpgp=settings, local={"learning_rate": 0.02})
        method = build_method(double.task, experiment)
        data = double.clients(method, torch.float64)[0]
        payload = Payload(1, add_prefix("shared", moved(method.initial_shared())))
        tuned.append(method.client_update(payload, data, moved(method.initial_personal(0))))
    for group in ("weights", "personal"):
        without, with_term = (getattr(update, group) for update in tuned)
        assert all((without[name] - with_term[name]).abs().max() > 1e-4 for name in without)


def test_contrast_by_hand():
    """Two classes at t = 0.5. Class 1: p = 1, m = 0: -log(e² / (e² + 1)) = log(1 + e⁻²).
    Class 2: p = 0.6, m = 0.8: log(1 + e^{(0.8 - 0.6)/0.5}) = log(1 + e^{0.4}). ℓ is their mean."""
    written = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    shared = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    personal = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    expected = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(0.4))) / 2
    assert contrast(written, shared, personal, 0.5).item() == pytest.approx(expected)


def test_gradient_of_the_contrast_by_hand():
    """One class in the plane, ℓ = log(1 + e^{(m - p)/t}), so ∂ℓ/∂personal = σ((m - p)/t) · shared / t.
    With p = 1, m = 0, t = 0.25: σ(-4) · 4 along the shared text."""
    shared = torch.tensor([[1.0, 0.0]])
    personal = torch.tensor([[0.0, 1.0]], requires_grad=True)
    contrast(shared, shared, personal, 0.25).backward()
    expected = 4 / (1 + math.exp(4.0))
    assert personal.grad.tolist() == [pytest.approx([expected, 0.0])]


def test_contrast_is_finite_at_a_tiny_temperature():
    """e^{1/t} overflows long before; the loss is (m - p)/t = 2000 there."""
    written, shared = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert contrast(written, shared, shared, 1e-3).item() == pytest.approx(2000.0)


def test_the_global_model_is_the_shared_prompt_and_a_clients_own_is_not(federation, make_experiment, randomised):
    method = build_method(federation.task, make_experiment(method="fedpgp"))
    state = randomised(method.init_server(), 1)
    update = method.client_update(method.broadcast(state), federation.clients(method)[2], {})
    ours = method.classifier(state).text_embeddings(NAMES)
    plain = method.text_features(method.trained_tensors(state), NAMES)
    torch.testing.assert_close(ours, plain / plain.norm(dim=-1, keepdim=True))
    own = method.text_features({**update.weights, **update.personal}, NAMES)
    own = own / own.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(method.classifier(state, update).text_embeddings(NAMES), own)
    assert (
        own - method.classifier(ServerState(2, add_prefix("shared", update.weights))).text_embeddings(NAMES)
    ).abs().max() > 1e-4


def test_all_clients_start_from_the_same_change(federation, make_experiment):
    """N(0, 0.02²): the deviation of the 256 numbers of V within 5/√512 = 22 %."""
    method = build_method(federation.task, make_experiment(method="fedpgp"))
    first, second = method.initial_personal(0), method.initial_personal(1)
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == {"U": (16, 8), "V": (8, 32)}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert abs(first["V"].std().item() / 0.02 - 1) < 0.22


def test_hand_written_texts_are_encoded_once_a_round(federation, make_experiment, monkeypatch):
    """Six steps; of the hand-written prompts only one pass through the text tower, remembered by the tower."""
    asked = []
    plain = TextTower.prefix

    def watched(self, prompts, stop):
        asked.append(prompts)
        return plain(self, prompts, stop)

    monkeypatch.setattr(TextTower, "prefix", watched)
    method = build_method(federation.task, make_experiment(method="fedpgp"))
    method.client_update(method.broadcast(method.init_server()), federation.clients(method)[0], {})
    assert len(asked) == 1
