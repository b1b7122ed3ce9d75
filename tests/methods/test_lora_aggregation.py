"""What each aggregation of LoRA trains, sends and keeps, against the slow loop and dense products in float64."""

from __future__ import annotations

import pytest
import torch
from slow_rounds import SlowClip, slow_average, slow_sft

from feddtl.messages import ServerState, count_parameters
from feddtl.methods.catalog import build_method
from feddtl.models.lora import A_SUFFIX, B_SUFFIX
from feddtl.models.text_tower import prompts_for
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import select_prefix

METHODS = ("feddtl", "fedlora")
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def slow(double_federation):
    task = double_federation.task
    return SlowClip(task.clip, prompts_for(task.class_names, task.prompt_template), scaling=1.5)


class WithFixed:
    """The slow CLIP with some factors that are not trained."""

    def __init__(self, slow, fixed):
        self.slow, self.fixed = slow, fixed
        self.log_policy = slow.log_policy

    def image_features(self, factors, pixels):
        return self.slow.image_features({**self.fixed, **factors}, pixels)

    def text_embeddings(self, factors):
        return self.slow.text_embeddings({**self.fixed, **factors})


def built(federation, make_experiment, method, aggregation, **changes):
    return build_method(federation.task, make_experiment(method=method, lora={"aggregation": aggregation}, **changes))


def in_double(state):
    return ServerState(state.round, {name: tensor.double() for name, tensor in state.tensors.items()})


def fresh(method):
    """All factors of both towers, as they are drawn."""
    return {name: tensor for tower in ("image", "text") for name, tensor in method.initial_factors(tower).items()}


@each_method
@pytest.mark.parametrize(
    ("aggregation", "round_number", "trained"),
    [("frozen-a", 1, B_SUFFIX), ("frozen-a", 2, B_SUFFIX), ("alternate", 1, B_SUFFIX), ("alternate", 2, A_SUFFIX)],
)
def test_a_round_trains_one_factor(
    double_federation, slow, make_experiment, randomised, method, aggregation, round_number, trained
):
    """SFT, client by client, with the other factor as a constant; and the average, which leaves that one alone."""
    own = built(double_federation, make_experiment, method, aggregation)
    experiment = make_experiment(method=method)
    state = in_double(randomised(own.init_server(), round_number - 1))
    payload = own.broadcast(state)
    shared = select_prefix(state.tensors, "shared")
    moving = {name: tensor for name, tensor in shared.items() if name.endswith(trained)}
    fixed = {name: tensor.double() for name, tensor in fresh(own).items()} | shared
    fixed = {name: tensor for name, tensor in fixed.items() if name not in moving}
    texts = payload.tensors.get("text_embeddings")
    plain = WithFixed(slow, fixed)
    updates, tuned = [], []
    for data in double_federation.clients(own, torch.float64):
        update = own.client_update(payload, data, {})
        pixels, labels = double_federation.pixels(data.client), data.labels.tolist()
        text_of = plain.text_embeddings if texts is None else lambda factors: texts
        factors, metrics = slow_sft(plain, moving, text_of, pixels, labels, experiment, data.client, round_number)
        assert update.weights.keys() == moving.keys() == own.expected_update(payload).weights.keys()
        for name, tensor in update.weights.items():
            torch.testing.assert_close(tensor, factors[name].detach(), rtol=0, atol=1e-9)
            assert (tensor - moving[name]).abs().max() > 1e-4
        assert update.metrics["loss"] == pytest.approx(metrics["loss"], abs=1e-9)
        updates.append(update)
        tuned.append(factors)
    after = select_prefix(server_step(own, state, updates).state.tensors, "shared")
    expected = {**shared, **{name: tensor.detach() for name, tensor in slow_average(tuned, [7, 5, 6]).items()}}
    assert after.keys() == shared.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)


@each_method
def test_a_frozen_factor_is_never_sent_and_is_the_same_everywhere(federation, make_experiment, randomised, method):
    """Neither in the state nor in a message; the model is that of the factors with A as 'factors' draws it."""
    frozen = built(federation, make_experiment, method, "frozen-a")
    plain = built(federation, make_experiment, method, "factors")
    state = randomised(frozen.init_server(), 3)
    shared = [name for name in frozen.broadcast(state).tensors if name.startswith(("shared/", "anchor/"))]
    assert shared
    assert all(name.endswith(B_SUFFIX) for name in shared)
    whole = {
        **{f"shared/{name}": tensor for name, tensor in plain.initial_shared().items() if name.endswith(A_SUFFIX)},
        **state.tensors,
    }
    data = federation.clients(plain)[0].activations.all()
    ours, theirs = frozen.classifier(state), plain.classifier(ServerState(3, whole))
    assert torch.equal(ours.image_features(data), theirs.image_features(data))
    names = federation.task.class_names
    assert torch.equal(ours.text_embeddings(names), theirs.text_embeddings(names))
    for tower, adapter in frozen.adapters(state).items():
        assert adapter.factors.keys() == select_prefix(plain.initial_factors(tower), tower).keys()


@each_method
def test_half_of_the_factors_are_sent(federation, make_experiment, method):
    """q, k and v of two blocks at rank 3, of equal width in and out: A and B have the same number of numbers."""
    whole = count_parameters(built(federation, make_experiment, method, "factors").initial_shared())
    frozen = built(federation, make_experiment, method, "frozen-a")
    assert 2 * frozen.trained_parameters().shared == whole
    assert count_parameters(frozen.expected_update(frozen.broadcast(frozen.init_server())).weights) == whole // 2
    turns = built(federation, make_experiment, method, "alternate")
    assert turns.trained_parameters().shared == whole
    for number in (0, 1):
        payload = turns.broadcast(ServerState(number, turns.init_server().tensors))
        assert count_parameters(turns.expected_update(payload).weights) == whole // 2


@each_method
@pytest.mark.parametrize("aggregation", ["frozen-a", "alternate"])
def test_the_reference_of_rl_mixes_products(federation, make_experiment, randomised, method, aggregation):
    """Also of a model of which only B is named."""
    own = built(federation, make_experiment, method, aggregation)
    plain = built(federation, make_experiment, method, "factors")
    one, two = (own.trained_tensors(randomised(own.init_server(), 1, seed=seed)) for seed in (0, 1))
    mixed = own.mix([one, two], [0.25, 0.75])
    a = {name: tensor for name, tensor in plain.initial_shared().items() if name.endswith(A_SUFFIX)}
    expected = plain.mix([{**a, **one}, {**a, **two}], [0.25, 0.75])
    assert mixed.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in mixed.items())


@each_method
def test_the_proximal_penalty_is_on_what_is_trained(federation, make_experiment, randomised, method):
    own = built(federation, make_experiment, method, "alternate", local={"proximal_weight": 2.0})
    payload = own.broadcast(randomised(own.init_server(), 1))
    update = own.client_update(payload, federation.clients(own)[0], {})
    assert update.metrics["penalty"] > 0
    assert all(name.endswith(A_SUFFIX) for name in update.weights)
