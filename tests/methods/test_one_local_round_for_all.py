"""Every method that trains has both stages, and gives the same whether its clients train alone or in one step."""

from __future__ import annotations

import pytest
import torch

from feddtl.methods.catalog import METHODS, build_method
from feddtl.methods.fedclip.settings import FedCLIPSettings
from feddtl.models.lora import layer_names

TRAINED = [name for name, entry in METHODS.items() if entry.trains]
# Plain SGD: Adam divides small gradients by their own size, so that a last digit would count.
SGD = {"optimizer": "sgd", "learning_rate": 0.01, "batch_size": 3}
CHANGES = ({}, {"rl": {"rollout": "batch", "action": "sample"}}, {"local": {**SGD, "proximal_weight": 2.0}})
each_trained = pytest.mark.parametrize("method", TRAINED)


def in_stage(federation, make_experiment, randomised, method, stage, **changes):
    """A method, and a payload that opens a round of this stage, at tensors that training has moved."""
    settings = {"schedule": {"stages": "sft-then-rl"}, "local": SGD, **changes}
    built = build_method(federation.task, make_experiment(method=method, **settings))
    payload = built.broadcast(randomised(built.init_server(), {"sft": 0, "rl": 2}[stage]))
    assert built.stage(payload.round) == stage
    return built, payload


@each_trained
@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize(
    "changes", [{}, {"rl": {"rollout": "batch", "action": "sample"}}, {"local": {"proximal_weight": 2.0}}]
)
def test_together_is_as_alone(federation, make_experiment, randomised, method, stage, changes):
    built, payload = in_stage(federation, make_experiment, randomised, method, stage, **changes)
    clients = federation.clients(built)
    kept = [built.initial_personal(data.client) for data in clients]
    together = built.client_updates(payload, clients, kept)
    for data, own, update in zip(clients, kept, together, strict=True):
        alone = built.client_update(payload, data, own)
        assert (alone.client, alone.num_images, alone.metrics.keys()) == (data.client, len(data), update.metrics.keys())
        for part in ("weights", "samples", "personal"):
            theirs = getattr(update, part)
            assert getattr(alone, part).keys() == theirs.keys()
            for name, tensor in getattr(alone, part).items():
                torch.testing.assert_close(
                    tensor, theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
                )
        assert any(not torch.equal(tensor, payload.tensors[f"shared/{name}"]) for name, tensor in alone.weights.items())


def test_together_is_as_alone_where_clients_are_in_different_epochs(federation, make_experiment, randomised):
    """7, 5 and 6 images in batches of 2 take 4, 3 and 3 steps an epoch, and each epoch has a rate of its own."""
    schedule = {"epochs": 4, "batch_size": 2, "rate_schedule": "cosine", "warmup_epochs": 1, "warmup_rate": 0.001}
    local = {**SGD, "learning_rate": 0.02, **schedule}
    built, payload = in_stage(federation, make_experiment, randomised, "promptfl", "sft", local=local)
    clients = federation.clients(built)
    for data, update in zip(clients, built.client_updates(payload, clients, [{}, {}, {}]), strict=True):
        alone = built.client_update(payload, data, {}).weights["context"]
        torch.testing.assert_close(alone, update.weights["context"], rtol=1e-4, atol=1e-5)


@each_trained
def test_rl_rounds_have_their_metrics_and_sft_rounds_do_not(federation, make_experiment, randomised, method):
    for stage, expected in (("sft", False), ("rl", True)):
        built, payload = in_stage(federation, make_experiment, randomised, method, stage)
        metrics = built.client_update(payload, federation.clients(built)[0], {}).metrics
        assert ({"reward", "kl", "policy_objective"} <= metrics.keys()) == expected


@each_trained
def test_the_schedule_is_the_methods_own_unless_it_is_asked_for(federation, make_experiment, method):
    own = build_method(federation.task, make_experiment(method=method))
    assert own.stage(4) == ("rl" if method in ("feddtl", "fedlora") else "sft")
    assert build_method(federation.task, make_experiment(method=method, schedule={"stages": "sft"})).stage(4) == "sft"


def test_a_loss_that_pairs_images_trains_clients_one_by_one(federation, make_experiment, randomised):
    contrastive = {"fedclip": FedCLIPSettings(loss="contrastive")}
    built, payload = in_stage(federation, make_experiment, randomised, "fedclip", "sft", **contrastive)
    clients = federation.clients(built)
    together = built.client_updates(payload, clients, [{} for _ in clients])
    for data, update in zip(clients, together, strict=True):
        alone = built.client_update(payload, data, {})
        assert all(torch.equal(alone.weights[name], update.weights[name]) for name in alone.weights)


@each_trained
def test_the_model_between_two_is_between_them(federation, make_experiment, randomised, method):
    """Of plain tensors a weighted mean; of LoRA factors one whose products are the weighted mean of products."""
    built = build_method(federation.task, make_experiment(method=method))
    one, two = (built.trained_tensors(randomised(built.init_server(), 1, seed=seed)) for seed in (0, 1))
    if built.trains_lora:
        # A part of the factors may be common to all models, or personal.
        own = {**built.initial_factors("image"), **built.initial_factors("text")}
        one, two = ({**own, **tensors} for tensors in (one, two))
        mixed = built.mix([one, two], [0.25, 0.75])
        for layer in layer_names(one):
            products = [t[f"{layer}.lora_B.weight"] @ t[f"{layer}.lora_A.weight"] for t in (one, two, mixed)]
            torch.testing.assert_close(products[2], 0.25 * products[0] + 0.75 * products[1], rtol=1e-4, atol=1e-5)
    else:
        mixed = built.mix([one, two], [0.25, 0.75])
        for name, tensor in mixed.items():
            torch.testing.assert_close(tensor, 0.25 * one[name] + 0.75 * two[name])
