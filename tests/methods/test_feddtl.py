"""What FedDTL sends, keeps and changes; its numbers are tested against `slow_rounds`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from feddtl.aggregators.catalog import build_aggregator
from feddtl.config import ServerConfig
from feddtl.errors import ConfigError
from feddtl.messages import ServerState, tensor_bytes
from feddtl.methods.catalog import build_method
from feddtl.methods.feddtl.method import sample_per_class
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import add_prefix, select_prefix

TARGETS = ("q_proj", "k_proj", "v_proj")


@pytest.fixture
def method(federation, make_experiment):
    return build_method(federation.task, make_experiment())


def one_round(method, state, clients):
    payload = method.broadcast(state)
    updates = [method.client_update(payload, data, {}) for data in clients]
    return payload, updates, server_step(method, state, updates)


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_state_holds_adapters_of_the_last_two_blocks_only(federation, method):
    """Blocks 2 and 3 of 4 in the image tower, 1 and 2 of 3 in the text tower; B = 0 everywhere."""
    tensors = method.init_server().tensors
    clip = federation.task.clip
    image = set(clip.image.stack.layer_shapes(2, TARGETS))
    text = set(clip.text.stack.layer_shapes(1, TARGETS))
    factors = (".lora_A.weight", ".lora_B.weight")
    assert set(tensors) == {
        f"{group}/{layer}{suffix}"
        for group, layers in (("shared/image", image), ("anchor/image", image), ("text", text))
        for layer in layers
        for suffix in factors
    }
    assert all(not tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert method.first_image_block == 2


def test_stage_changes_after_round_m(method, federation, make_experiment):
    assert [method.stage(number) for number in (1, 2, 3, 4)] == ["sft", "sft", "rl", "rl"]
    half = build_method(federation.task, make_experiment(schedule={"sft_rounds": 0}, rounds=5))
    assert [half.stage(number) for number in range(1, 6)] == ["sft", "sft", "sft", "rl", "rl"]
    ablation = build_method(federation.task, make_experiment(schedule={"stages": "sft"}))
    assert {ablation.stage(number) for number in (1, 2, 3, 4)} == {"sft"}


@pytest.mark.parametrize("round_number", [1, 2, 3])
def test_broadcast_holds_no_text_tower_and_nothing_of_an_image(federation, method, randomised, round_number):
    """Image adapters, C unit text embeddings, and in the RL stage the anchor: nothing else goes down."""
    state = randomised(method.init_server(), round_number - 1)
    payload = method.broadcast(state)
    layers = federation.task.clip.image.stack.layer_shapes(2, TARGETS)
    groups = ("shared/image", "anchor/image") if round_number == 3 else ("shared/image",)
    expected = {
        f"{group}/{layer}{suffix}"
        for group in groups
        for layer in layers
        for suffix in (".lora_A.weight", ".lora_B.weight")
    }
    assert payload.round == round_number
    assert set(payload.tensors) == expected | {"text_embeddings"}
    embeddings = payload.tensors["text_embeddings"]
    assert embeddings.shape == (3, 24)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    for name in expected:
        assert torch.equal(payload.tensors[name], state.tensors[name])


@pytest.mark.parametrize("done", [0, 2])
def test_uplink_holds_image_lora_unit_embeddings_and_labels_only(federation, method, randomised, done):
    """One vector of the joint space per image; patch tokens, activations and pixels stay. Nothing is kept either."""
    data = federation.clients(method)[0]
    payload = method.broadcast(randomised(method.init_server(), done))
    update = method.client_update(payload, data, {})
    assert update.weights.keys() == select_prefix(payload.tensors, "shared").keys()
    assert set(update.samples) == {"embeddings", "labels"}
    assert update.samples["embeddings"].shape == (7, 24)
    torch.testing.assert_close(update.samples["embeddings"].norm(dim=-1), torch.ones(7))
    assert torch.equal(update.samples["labels"], data.labels)
    assert update.personal == {}
    assert (update.client, update.num_images) == (0, 7)
    assert not any(tensor.requires_grad for tensor in (*update.weights.values(), *update.samples.values()))
    # 6 layers of 32 → 32 at rank 3 in float32, 7 embeddings of width 24 in float32, 7 labels in int64.
    assert tensor_bytes(update.weights, update.samples) == 6 * 2 * 3 * 32 * 4 + 7 * 24 * 4 + 7 * 8


def test_uplink_embeddings_are_those_of_the_tuned_encoder(federation, method):
    data = federation.clients(method)[1]
    state = method.init_server()
    update = method.client_update(method.broadcast(state), data, {})
    tuned = method.classifier(state, update).image_features(data.activations.all())
    received = method.classifier(state).image_features(data.activations.all())
    torch.testing.assert_close(update.samples["embeddings"], tuned, rtol=0, atol=1e-6)
    assert (update.samples["embeddings"] - received).abs().max() > 1e-3


def test_embeddings_per_class_are_limited(federation, make_experiment):
    """Client 0 has three, two and two images of its classes; with a limit of 2 it sends two of each."""
    limited = build_method(federation.task, make_experiment(uplink={"max_embeddings_per_class": 2}))
    full = build_method(federation.task, make_experiment())
    data = federation.clients(full)[0]
    state = full.init_server()
    payload = full.broadcast(state)
    first, again, everything = (a.client_update(payload, data, {}) for a in (limited, limited, full))
    assert torch.bincount(first.samples["labels"]).tolist() == [2, 2, 2]
    assert torch.bincount(everything.samples["labels"]).tolist() == [3, 2, 2]
    assert equal(first.samples, again.samples)
    assert equal(first.weights, everything.weights)
    assert first.num_images == 7
    sent = {tuple(row) for row in everything.samples["embeddings"].tolist()}
    assert all(tuple(row) in sent for row in first.samples["embeddings"].tolist())


def test_sample_per_class_draws_without_replacement_and_anew():
    labels = torch.tensor([2, 0, 0, 2, 0, 5, 0, 2])
    kept = [sample_per_class(labels, 2, torch.Generator().manual_seed(seed)) for seed in range(20)]
    for positions in kept:
        assert positions.tolist() == sorted(set(positions.tolist()))
        assert sorted(labels[positions].tolist()) == [0, 0, 2, 2, 5]
    assert len({tuple(positions.tolist()) for positions in kept}) > 5
    assert set(torch.cat(kept).tolist()) == set(range(8))
    assert torch.equal(sample_per_class(labels, 9, torch.Generator().manual_seed(0)), torch.arange(8))


def test_anchor_follows_sft_and_is_frozen_in_rl(federation, method):
    clients = federation.clients(method)
    state, anchors = method.init_server(), []
    for number in (1, 2, 3, 4):
        state = one_round(method, state, clients)[2].state
        shared, anchor = select_prefix(state.tensors, "shared"), select_prefix(state.tensors, "anchor")
        anchors.append(anchor)
        assert state.round == number
        assert equal(anchor, shared) == (number <= 2)
    assert not equal(anchors[0], anchors[1])
    assert equal(anchors[1], anchors[2])
    assert equal(anchors[1], anchors[3])


def test_server_training_changes_the_text_lora_only(federation, make_experiment):
    """With and without epochs on the server, the image tower's average is the same; without, the text LoRA stays."""
    after = {}
    for epochs in (0, 2):
        method = build_method(federation.task, make_experiment(server={"epochs": epochs}))
        state = method.init_server()
        _, updates, aggregate = one_round(method, state, federation.clients(method))
        after[epochs] = aggregate.state.tensors
        assert equal(
            select_prefix(aggregate.state.tensors, "shared"), build_aggregator(ServerConfig()).combine(updates).tensors
        )
        assert equal(select_prefix(aggregate.state.tensors, "text"), select_prefix(state.tensors, "text")) == (
            epochs == 0
        )
    assert equal(select_prefix(after[0], "shared"), select_prefix(after[2], "shared"))


def test_server_training_lowers_its_loss(federation, make_experiment):
    """Ten epochs at once against two: the mean loss over the epochs falls, the accuracy does not."""
    metrics = {}
    for epochs in (1, 10):
        method = build_method(federation.task, make_experiment(server={"epochs": epochs}))
        metrics[epochs] = one_round(method, method.init_server(), federation.clients(method))[2].metrics
    assert metrics[10]["loss"] < metrics[1]["loss"]
    assert metrics[10]["accuracy"] >= metrics[1]["accuracy"]
    assert metrics[1]["client_drift"] > 0


def test_client_training_does_not_touch_what_it_was_given(federation, method, randomised):
    state = randomised(method.init_server(), 2)
    payload = method.broadcast(state)
    data = federation.clients(method)[0]
    kept = {name: tensor.clone() for name, tensor in payload.tensors.items()}
    weights = {name: tensor.clone() for name, tensor in federation.task.clip.model.state_dict().items()}
    activations = data.activations.all().clone()
    one_round(method, state, [data])
    assert equal(payload.tensors, kept)
    assert equal(federation.task.clip.model.state_dict(), weights)
    assert torch.equal(data.activations.all(), activations)
    assert all(parameter.grad is None for parameter in federation.task.clip.model.parameters())


def test_product_aggregation_averages_the_products(federation, make_experiment, randomised):
    """Same clients, other average: the dense mean of B·A is met more closely than by averaging factors."""
    states = {}
    for how in ("factors", "product"):
        method = build_method(federation.task, make_experiment(lora={"aggregation": how}))
        start = randomised(method.init_server(), 0)
        _, updates, aggregate = one_round(method, start, federation.clients(method))
        states[how] = select_prefix(aggregate.state.tensors, "shared")
    layer = "image/vision_model.encoder.layers.3.self_attn.v_proj"

    def product(weights):
        return weights[f"{layer}.lora_B.weight"].double() @ weights[f"{layer}.lora_A.weight"].double()

    dense = sum(update.num_images / 18 * product(update.weights) for update in updates)
    distance = {how: (product(weights) - dense).norm().item() for how, weights in states.items()}
    assert distance["product"] < distance["factors"]
    assert states["product"][f"{layer}.lora_A.weight"].shape == (3, 32)


def test_client_model_is_its_image_tower_with_the_text_tower_it_was_sent(federation, method, randomised):
    state = randomised(method.init_server(), 1)
    data = federation.clients(method)[2]
    update = method.client_update(method.broadcast(state), data, {})
    own, received = method.classifier(state, update), method.classifier(state)
    names = federation.task.class_names
    assert torch.equal(own.text_embeddings(names), received.text_embeddings(names))
    images = data.activations.all()
    assert not torch.allclose(own.image_features(images), received.image_features(images))
    tuned = ServerState(1, {**state.tensors, **add_prefix("shared", update.weights)})
    assert torch.equal(own.image_features(images), method.classifier(tuned).image_features(images))


def test_adapters_for_export_are_those_of_the_classifier(federation, method, randomised):
    state = randomised(method.init_server(), 4)
    adapters = method.adapters(state)
    assert set(adapters) == {"image", "text"}
    clip, data = federation.task.clip, federation.clients(method)[0]
    features = clip.image.features(data.activations.all(), 2, adapters["image"])
    classifier = method.classifier(state)
    torch.testing.assert_close(
        torch.nn.functional.normalize(features, dim=-1), classifier.image_features(data.activations.all())
    )
    assert all(lora.scaling == 1.5 for lora in adapters.values())


def test_seed_changes_start_and_order(federation, make_experiment):
    """A known fault of released code: a seed that changes nothing."""
    states = []
    for seed in (3, 4):
        method = build_method(replace(federation.task, seed=seed), make_experiment(seed=seed))
        state = method.init_server()
        states.append(one_round(method, state, federation.clients(method))[2].state.tensors)
    assert all(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_rl_guard_is_counted(federation, make_experiment, randomised):
    """At a large learning rate log-ratios pass the lowest limit: the share is logged, and nothing overflows."""
    experiment = make_experiment(rl={"max_log_ratio": 1.0}, local={"learning_rate": 0.3})
    method = build_method(federation.task, experiment)
    payload = method.broadcast(randomised(method.init_server(), 2))
    update = method.client_update(payload, federation.clients(method)[0], {})
    assert update.metrics["guarded_ratios"] > 0
    assert all(torch.isfinite(tensor).all() for tensor in update.weights.values())
    assert all(map(torch.isfinite, map(torch.tensor, update.metrics.values())))


def test_epochs_are_reported(federation, method, randomised):
    """Two of SFT and, configured here, two of RL."""
    data = federation.clients(method)[0]
    for done in (0, 2):
        seen = []
        payload = method.broadcast(randomised(method.init_server(), done))
        method.client_update(payload, data, {}, lambda *event, seen=seen: seen.append(event))
        assert seen == [(0, 1, 2), (0, 2, 2)]


@pytest.mark.parametrize("key", ["first_image_block", "first_text_block"])
def test_block_outside_the_model_is_refused_by_its_key(federation, make_experiment, key):
    with pytest.raises(ConfigError, match=rf"lora\.{key} = 9"):
        build_method(federation.task, make_experiment(lora={key: 9}))


def test_target_layers_are_those_of_the_config(federation, make_experiment):
    experiment = make_experiment(lora={"targets": "fc1, out_proj", "first_image_block": 3, "first_text_block": 0})
    method = build_method(federation.task, experiment)
    tensors = method.init_server().tensors
    assert {name.split(".")[-3] for name in tensors} == {"fc1", "out_proj"}
    assert {name.split(".")[3] for name in tensors if name.startswith("shared/")} == {"3"}
    assert {name.split(".")[3] for name in tensors if name.startswith("text/")} == {"0", "1", "2"}
    assert method.first_image_block == 3


def test_groups_of_the_state_keep_their_order(federation, make_experiment):
    """The asynchronous server adds squares in this order, so another one changes the last bits of a run."""
    method = build_method(federation.task, make_experiment())
    state = method.init_server()
    updates = [method.client_update(method.broadcast(state), data, {}) for data in federation.clients(method)]
    for reached in (state, server_step(method, state, updates).state):
        groups = list(dict.fromkeys(name.split("/")[0] for name in reached.tensors))
        assert groups == ["shared", "text", "anchor"]
