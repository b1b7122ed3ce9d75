"""FedCLIP against torch's own layers on transformers' features, and against a plain SGD loop."""

from __future__ import annotations

import math

import pytest
import torch
from compared import NAMES, all_tensors, assert_same_features, assert_same_round, in_float64
from slow_methods import SlowFedCLIP, SlowMethod

from feddtl.backbones.clip import ClipTextTower
from feddtl.errors import ConfigError
from feddtl.messages import Payload
from feddtl.methods.catalog import build_method
from feddtl.methods.fedclip.settings import FedCLIPSettings


@pytest.fixture(scope="module")
def double(federation, clip_folder):
    return in_float64(federation, clip_folder)


def slow_of(federation, settings):
    return SlowFedCLIP(federation.task.clip, federation.task.prompt_template, settings)


def test_features_are_those_of_transformers_through_the_gate(double, make_experiment):
    method = build_method(double.task, make_experiment(method="fedclip"))
    assert_same_features(double, method, slow_of(double, FedCLIPSettings()), all_tensors(method))


@pytest.mark.parametrize("batch_size", [3, 7])
@pytest.mark.parametrize("loss", ["cross-entropy", "contrastive"])
def test_a_round_is_plain_sgd(double, make_experiment, loss, batch_size):
    """Batches of 3, 3 and 1, in which classes repeat, or one of all 7 images."""
    settings = FedCLIPSettings(loss=loss)
    local = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": batch_size}
    experiment = make_experiment(method="fedclip", fedclip=settings, local=local)
    assert_same_round(double, experiment, slow_of(double, settings), client=0)


def test_the_contrastive_loss_sees_a_whole_batch_whatever_fits_a_pass(double, make_experiment, monkeypatch):
    """Cut into passes it would compare fewer pairs."""
    image = double.task.clip.image
    monkeypatch.setattr(type(image), "images_per_pass", property(lambda self: 2))
    settings = FedCLIPSettings(loss="contrastive")
    local = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 5}
    experiment = make_experiment(method="fedclip", fedclip=settings, local=local)
    assert_same_round(double, experiment, slow_of(double, settings), client=0)


def test_its_own_optimizer_is_adam(federation, make_experiment):
    """'auto' and 'adam' are one round, bit for bit, and 'sgd' another."""
    updates = []
    for optimizer in ("auto", "adam", "sgd"):
        method = build_method(federation.task, make_experiment(method="fedclip", local={"optimizer": optimizer}))
        payload = method.broadcast(method.init_server())
        updates.append(method.client_update(payload, federation.clients(method)[0], {}).weights)
    auto, adam, sgd = updates
    assert all(torch.equal(auto[name], adam[name]) for name in auto)
    assert all(not torch.equal(auto[name], sgd[name]) for name in auto)


def test_its_prompt_changes_its_texts_and_not_those_of_zero_shot(double, make_experiment):
    settings = FedCLIPSettings(prompt="a picture of a {class}")
    method = build_method(double.task, make_experiment(method="fedclip", fedclip=settings))
    own = SlowMethod(double.task.clip, "a picture of a {class}").text_features({}, NAMES)
    plain = SlowMethod(double.task.clip, "a photo of a {class}.").text_features({}, NAMES)
    torch.testing.assert_close(method.text_features(method.initial_shared(), NAMES), own, rtol=1e-9, atol=1e-9)
    zero_shot = method.zero_shot_classifier().encode_texts(NAMES)
    torch.testing.assert_close(zero_shot, plain, rtol=1e-9, atol=1e-9)
    asked = method.with_prompt("a photo of a {class}.")
    torch.testing.assert_close(asked.text_features(method.initial_shared(), NAMES), plain, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigError, match=r"fedclip\.prompt = 'a picture'"):
        FedCLIPSettings(prompt="a picture")


def test_a_gate_of_zeros_keeps_the_direction(federation, make_experiment):
    """softmax(0) = 1/e in every dimension: the features are those of zero-shot CLIP, divided by their width 24."""
    method = build_method(federation.task, make_experiment(method="fedclip"))
    tensors = {name: torch.zeros_like(tensor) for name, tensor in method.initial_shared().items()}
    features = federation.clients(method)[0].activations.all()
    torch.testing.assert_close(method.image_features(tensors, features), features / 24)


def test_initial_gate_is_uniform_as_pytorch_makes_it(federation, make_experiment):
    """U(-b, b) with b = 1/√24: 576 weights come within 2 % of both ends, and their deviation is b/√3 within 12 %."""
    bound = 1 / math.sqrt(24)
    for name, tensor in build_method(federation.task, make_experiment(method="fedclip")).initial_shared().items():
        assert tensor.abs().max() <= bound, name
        if name.endswith("weight"):
            assert tensor.shape == (24, 24)
            assert tensor.max() > 0.98 * bound
            assert tensor.min() < -0.98 * bound
            assert abs(tensor.std().item() / (bound / math.sqrt(3)) - 1) < 0.12


def test_the_frozen_text_tower_runs_once(federation, make_experiment, monkeypatch):
    """However many steps, clients and models ask for the same classes."""
    computed = []
    plain = ClipTextTower.project
    monkeypatch.setattr(ClipTextTower, "project", lambda self, token: computed.append(1) or plain(self, token))
    federation.task.clip.text._prefixes.clear()
    method = build_method(federation.task, make_experiment(method="fedclip"))
    state = method.init_server()
    for data in federation.clients(method):
        update = method.client_update(Payload(1, state.tensors), data, {})
        method.classifier(state, update).text_embeddings(federation.task.class_names)
    assert computed == [1]
