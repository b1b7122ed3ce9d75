"""What each aggregation of LoRA trains, sends and keeps, against the slow loop and dense products in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from slow_rounds import SlowClip, slow_average, slow_sft

from feddtl.checkpoints import read_checkpoint, write_checkpoint
from feddtl.messages import ServerState, count_parameters
from feddtl.methods.catalog import build_method
from feddtl.methods.lora import LoraMethod
from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Lora, layer_names
from feddtl.models.peft_format import load_adapter, save_adapter
from feddtl.models.residual import as_factors, grown
from feddtl.models.text_tower import prompts_for
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import add_prefix, drop_groups, select_prefix

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


def dense_changes(method, state, update=None):
    """Changes of the adapted layers of both towers, dense in float64: the model of the server, or of a client."""
    tensors, changes = {**method.global_tensors(state), **(update.weights if update else {})}, {}
    for tower in ("image", "text"):
        lora = method.lora(tensors, tower)
        for layer in layer_names(lora.factors):
            change = lora.low_rank(layer)
            changes[layer] = change.up.double() @ change.down.double()
    return changes


def trained_layers(method, state):
    shared = method.trained_in_round(select_prefix(state.tensors, "shared"), 1)
    return [layer.split("/")[1] for layer in layer_names(shared)]


def next_round(method, state, clients):
    payload = method.broadcast(state)
    updates = [method.client_update(payload, data, {}) for data in clients]
    return updates, server_step(method, state, updates)


@each_method
def test_with_the_residual_the_model_is_the_average_of_the_clients_models(
    federation, make_experiment, randomised, method
):
    """Round after round, also once the residual is whole matrices; factors are averaged as by 'factors'."""
    own = built(federation, make_experiment, method, "residual")
    plain = built(federation, make_experiment, method, "factors")
    state, anchors = randomised(own.init_server(), 0), {}
    for number, has_factors in ((1, True), (2, True), (3, False), (4, False)):
        updates, reached = next_round(own, state, federation.clients(own))
        models = [dense_changes(own, state, update) for update in updates]
        average = dense_changes(own, reached.state)
        for layer in trained_layers(own, state):
            expected = sum(n / 18 * model[layer] for n, model in zip((7, 5, 6), models, strict=True))
            torch.testing.assert_close(average[layer], expected, rtol=1e-5, atol=1e-6)
        for name, tensor in plain.aggregator().combine(updates).tensors.items():
            assert torch.equal(reached.state.tensors[f"shared/{name}"], tensor)
        residual = select_prefix(reached.state.tensors, "shared/residual")
        assert any(name.endswith(A_SUFFIX) for name in residual) == has_factors
        if number <= 2:
            anchors = residual
        found = select_prefix(reached.state.tensors, "anchor/residual")
        assert found.keys() == anchors.keys()
        assert all(torch.equal(tensor, anchors[name]) for name, tensor in found.items())
        state = reached.state


@each_method
def test_the_mix_of_models_with_residuals_is_between_them(federation, make_experiment, randomised, method):
    own = built(federation, make_experiment, method, "residual")
    models, state = [], randomised(own.init_server(), 0)
    for _ in range(3):
        state = next_round(own, state, federation.clients(own))[1].state
        models.append(select_prefix(state.tensors, "shared"))
    triple = models[0], models[2], own.mix([models[0], models[2]], [0.25, 0.75])
    for tower in ("image", "text") if method == "fedlora" else ("image",):
        parts = [own.lora(tensors, tower) for tensors in triple]
        for layer in layer_names(parts[0].factors):
            changes = [part.low_rank(layer) for part in parts]
            one, two, mixed = (change.up.double() @ change.down.double() for change in changes)
            torch.testing.assert_close(mixed, 0.25 * one + 0.75 * two, rtol=1e-5, atol=1e-6)


@each_method
def test_a_client_trains_on_the_changed_weight(double_federation, slow, make_experiment, randomised, method):
    """The slow loop adds the residual to the pre-trained weight itself."""
    own = built(double_federation, make_experiment, method, "residual")
    clients = double_federation.clients(own, torch.float64)
    state = next_round(own, in_double(randomised(own.init_server(), 0)), clients)[1].state
    payload, experiment = own.broadcast(state), make_experiment(method=method)
    factors = own.trained_in_round(select_prefix(state.tensors, "shared"), 2)
    changed = copy.copy(slow)
    changed.model = copy.deepcopy(slow.model)
    residual = as_factors(select_prefix(state.tensors, "shared/residual"))
    for layer in layer_names(residual):
        with torch.no_grad():
            weight = changed.model.get_parameter(layer.split("/")[1] + ".weight")
            weight += 1.5 * residual[layer + B_SUFFIX] @ residual[layer + A_SUFFIX]
    texts = payload.tensors.get("text_embeddings")
    text_of = changed.text_embeddings if texts is None else lambda factors: texts
    update = own.client_update(payload, clients[1], {})
    pixels, labels = double_federation.pixels(1), clients[1].labels.tolist()
    expected, _ = slow_sft(changed, factors, text_of, pixels, labels, experiment, 1, 2)
    assert update.weights.keys() == factors.keys()
    for name, tensor in update.weights.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=0, atol=1e-9)


@each_method
def test_the_error_of_averaging_is_measured(federation, make_experiment, randomised, method):
    """The same for all that train both factors in a round; zero where the other factor is common to all clients."""
    found = {}
    for aggregation in ("factors", "product", "residual", "frozen-a", "alternate"):
        own = built(federation, make_experiment, method, aggregation)
        _, reached = next_round(own, randomised(own.init_server(), 0), federation.clients(own))
        found[aggregation] = reached.metrics["averaging_error"]
    assert found["factors"] == found["product"] == found["residual"] > 1e-4
    assert found["frozen-a"] < 1e-12
    assert found["alternate"] < 1e-12


@each_method
@pytest.mark.parametrize("aggregation", ["residual", "frozen-a", "alternate"])
def test_a_resumed_run_is_the_same(federation, make_experiment, tmp_path, method, aggregation):
    """A checkpoint before the first RL round, and one after the residual has become whole matrices."""
    own = built(federation, make_experiment, method, aggregation)
    experiment = make_experiment(method=method, lora={"aggregation": aggregation})
    saved = []
    runtime = Runtime(own, federation.clients(own), federation.sets(own), experiment)
    whole = runtime.run(Progress(own.init_server()), saved.append)
    for number in (2, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_checkpoint(folder, saved[number - 1])
        resumed = runtime.run(read_checkpoint(folder))
        assert list(resumed.state.tensors) == list(whole.state.tensors)
        assert all(torch.equal(tensor, whole.state.tensors[name]) for name, tensor in resumed.state.tensors.items())
        assert [record.headline for record in resumed.records] == [record.headline for record in whole.records]


@each_method
def test_a_residual_is_in_the_adapters_that_a_run_writes(federation, make_experiment, randomised, tmp_path, method):
    """As PEFT's format has them, and before that."""
    own = built(federation, make_experiment, method, "residual")
    state = randomised(own.init_server(), 0)
    for _ in range(2):
        state = next_round(own, state, federation.clients(own))[1].state
    lora, activations = own.adapters(state)["image"], federation.clients(own)[0].activations.all()
    save_adapter(tmp_path / "image", lora, "clip")
    expected = own.classifier(state).image_features(activations)
    for adapter in (lora, load_adapter(tmp_path / "image")):
        features = federation.task.clip.image.features(activations, 2, adapter)
        found = torch.nn.functional.normalize(features, dim=-1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    without = federation.task.clip.image.features(activations, 2, Lora(lora.factors, lora.scaling))
    assert (torch.nn.functional.normalize(without, dim=-1) - expected).abs().max() > 1e-4


@each_method
def test_a_frozen_factor_is_on_the_device_of_the_others(federation, make_experiment, randomised, monkeypatch, method):
    """The server's tensors are on the CPU while the model computes on another device: here one without any data."""
    own = built(federation, make_experiment, method, "frozen-a")
    state = randomised(own.init_server(), 0)
    updates, expected = next_round(own, state, federation.clients(own))
    elsewhere = built(federation, make_experiment, method, "frozen-a")
    monkeypatch.setattr(elsewhere, "device", torch.device("meta"))
    reached = LoraMethod.next_state(elsewhere, state, elsewhere.aggregator().combine(updates), updates)
    assert reached.metrics["averaging_error"] == expected.metrics["averaging_error"]
    in_training = {name: tensor.to("meta") for name, tensor in elsewhere.initial_shared().items()}
    assert {tensor.device.type for tensor in elsewhere.mix([in_training], [1.0]).values()} == {"meta"}


@each_method
@pytest.mark.parametrize("aggregation", ["factors", "residual"])
def test_rl_rounds_that_teach_nothing_leave_the_model_as_it_is(federation, make_experiment, method, aggregation):
    """σ = 0 in all RL rounds: the reference stays the received model, and the residual does not grow."""
    experiment = {"rounds": 4, "schedule": {"sft_rounds": 1, "stages": "sft-then-rl"}, "rl": {"noise_std": 0.0}}
    own = built(federation, make_experiment, method, aggregation, **experiment)
    state, after_sft = own.init_server(), {}
    for number in range(1, 5):
        updates, reached = next_round(own, state, federation.clients(own))
        shared = select_prefix(reached.state.tensors, "shared")
        if number == 1:
            after_sft = shared
        else:
            assert [update.metrics["update_norm"] for update in updates] == [0, 0, 0]
            assert shared.keys() == after_sft.keys()
            assert all(torch.equal(tensor, after_sft[name]) for name, tensor in shared.items())
        state = reached.state


def test_a_residual_in_another_form_is_another_reference(federation, make_experiment, randomised):
    """Equal factors, but a residual that has become whole matrices since the last SFT round."""
    own = built(federation, make_experiment, "fedlora", "residual")
    state = next_round(own, randomised(own.init_server(), 0), federation.clients(own))[1].state
    shared = select_prefix(state.tensors, "shared")
    change = select_prefix(shared, "residual")
    whole = add_prefix("residual", grown(grown({}, change, torch.float32), change, torch.float32))
    while any(name.endswith(A_SUFFIX) for name in whole):
        whole = add_prefix("residual", grown(select_prefix(whole, "residual"), change, torch.float32))
    received = add_prefix("shared", {**drop_groups(shared, "residual"), **whole})
    payload = own.broadcast(ServerState(2, {**add_prefix("anchor", shared), **received}))
    update = own.client_update(payload, federation.clients(own)[0], {})
    assert update.metrics["kl"] > 0


@each_method
def test_the_error_is_of_the_mean_that_was_taken(federation, make_experiment, randomised, method):
    """Where clients count alike, of the plain mean; compared with dense products."""
    own = built(federation, make_experiment, method, "factors", server={"aggregator": "unweighted-mean"})
    state = randomised(own.init_server(), 0)
    updates, reached = next_round(own, state, federation.clients(own))
    models, found = [dense_changes(own, state, one) for one in updates], dense_changes(own, reached.state)
    means = {layer: sum(model[layer] for model in models) / 3 for layer in trained_layers(own, state)}
    error = sum(float((means[layer] - found[layer]).square().sum()) for layer in means) ** 0.5
    whole = sum(float(mean.square().sum()) for mean in means.values()) ** 0.5
    assert reached.metrics["averaging_error"] == pytest.approx(error / whole, rel=1e-3)
