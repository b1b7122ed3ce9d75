"""FedSA-LoRA, FFA-LoRA, RoLoRA and FedEx-LoRA: FedLoRA with one difference."""

from __future__ import annotations

import pytest
import torch

from feddtl.config import Experiment, LocalConfig, LoraConfig, ScheduleConfig
from feddtl.errors import ConfigError
from feddtl.messages import ServerState
from feddtl.methods.catalog import METHODS, build_method, method_class, method_entry
from feddtl.models.lora import A_SUFFIX, B_SUFFIX
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import select_prefix

FIXED = {"ffa-lora": "frozen-a", "rolora": "alternate", "fedex-lora": "residual"}
each_fixed = pytest.mark.parametrize(("method", "aggregation"), FIXED.items())


def run(federation, experiment):
    method = build_method(federation.task, experiment)
    return Runtime(method, federation.clients(method), federation.sets(method), experiment).run(
        Progress(method.init_server())
    )


@each_fixed
def test_a_method_with_a_fixed_aggregation_is_fedlora_with_it(federation, make_experiment, method, aggregation):
    ours = run(federation, make_experiment(method=method))
    theirs = run(
        federation,
        make_experiment(method="fedlora", schedule={"stages": "sft"}, lora={"aggregation": aggregation}),
    )
    assert ours.state.tensors.keys() == theirs.state.tensors.keys()
    assert all(torch.equal(tensor, theirs.state.tensors[name]) for name, tensor in ours.state.tensors.items())
    for own, other in zip(ours.records, theirs.records, strict=True):
        assert (own.headline, own.bytes_up, own.bytes_down) == (other.headline, other.bytes_up, other.bytes_down)


@pytest.mark.parametrize("method", [*FIXED, "fedsa-lora"])
@pytest.mark.parametrize("chosen", ["factors", "product", "residual", "frozen-a", "alternate"])
def test_a_contradictory_aggregation_is_refused(method, chosen):
    own = FIXED.get(method, "factors")
    if chosen == own:
        assert Experiment(method=method, lora=LoraConfig(aggregation=chosen)).aggregation == own
        return
    with pytest.raises(ConfigError) as caught:
        Experiment(method=method, lora=LoraConfig(aggregation=chosen))
    assert f"lora.aggregation = '{chosen}' contradicts method = '{method}', which is '{own}'" in caught.value.message
    assert "Remove lora.aggregation" in caught.value.hint


@pytest.mark.parametrize("method", METHODS)
def test_table_and_class_say_the_same(method):
    entry, kind = method_entry(method), method_class(method)
    assert (entry.aggregation, entry.has_lora) == (kind.own_aggregation, kind.trains_lora)
    assert (entry.trains, entry.trains_on_server) == (kind.trains, kind.trains_on_server)
    assert entry.learns_prompts == kind.learns_prompts


def test_titles():
    assert [Experiment(method=method).title for method in (*FIXED, "fedsa-lora")] == [
        "FFA-LoRA",
        "RoLoRA",
        "FedEx-LoRA",
        "FedSA-LoRA",
    ]
    fedprox = LocalConfig(proximal_weight=0.1)
    sft = ScheduleConfig(stages="sft")
    assert Experiment(method="fedlora", schedule=sft, local=fedprox).title == "FedLoRA + FedProx"


def test_fedsa_shares_a_and_keeps_b(federation, make_experiment, randomised):
    """What a client trains is what FedLoRA's would from the same A and B; only A is sent, and averaged."""
    own = build_method(federation.task, make_experiment(method="fedsa-lora"))
    fedlora = build_method(federation.task, make_experiment(method="fedlora", schedule={"stages": "sft"}))
    whole = randomised(fedlora.init_server(), 0)
    shared = {name: tensor for name, tensor in whole.tensors.items() if name.endswith(A_SUFFIX)}
    kept = {name: t for name, t in select_prefix(whole.tensors, "shared").items() if name.endswith(B_SUFFIX)}
    assert own.init_server().tensors.keys() == shared.keys()
    assert all(not tensor.any() for tensor in own.initial_personal(1).values())
    state, updates = ServerState(0, shared), []
    for data in federation.clients(own):
        update = own.client_update(own.broadcast(state), data, kept)
        expected = fedlora.client_update(fedlora.broadcast(whole), data, {}).weights
        assert update.weights.keys() == select_prefix(shared, "shared").keys()
        assert update.personal.keys() == kept.keys()
        assert all(torch.equal(t, expected[name]) for name, t in {**update.weights, **update.personal}.items())
        updates.append(update)
    reached = server_step(own, state, updates)
    assert "averaging_error" not in reached.metrics
    for name, tensor in select_prefix(reached.state.tensors, "shared").items():
        mean = sum(n / 18 * update.weights[name].double() for n, update in zip((7, 5, 6), updates, strict=True))
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-8)


def test_the_global_model_of_fedsa_is_the_pre_trained_one(federation, make_experiment, randomised):
    """No B is anybody's but one client's; that client's own model has it."""
    own = build_method(federation.task, make_experiment(method="fedsa-lora"))
    state = randomised(own.init_server(), 1)
    data = federation.clients(own)[0]
    update = own.client_update(own.broadcast(state), data, {})
    images, names = data.activations.all(), federation.task.class_names
    zero_shot, model, of_client = own.zero_shot_classifier(), own.classifier(state), own.classifier(state, update)
    torch.testing.assert_close(model.image_features(images), zero_shot.image_features(images))
    torch.testing.assert_close(model.text_embeddings(names), zero_shot.text_embeddings(names))
    assert (of_client.image_features(images) - model.image_features(images)).abs().max() > 1e-3
    assert (of_client.text_embeddings(names) - model.text_embeddings(names)).abs().max() > 1e-3
    assert own.adapters(state) == {}
