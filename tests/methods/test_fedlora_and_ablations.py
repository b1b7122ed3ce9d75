"""FedLoRA, and what the four rows of the ablation have in common."""

from __future__ import annotations

import pytest
import torch

from feddtl.aggregators.catalog import build_aggregator
from feddtl.config import ServerConfig
from feddtl.methods.catalog import build_method
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import add_prefix, select_prefix

ROWS = {
    "FedLoRA": {"method": "fedlora", "schedule": {"stages": "sft", "sft_rounds": 0}},
    "+ decoupled": {"method": "feddtl", "schedule": {"stages": "sft", "sft_rounds": 0}},
    "+ two-stage": {"method": "fedlora"},
    "FedDTL": {"method": "feddtl"},
}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rounds(method, clients, count):
    """States after rounds 0…count."""
    states = [method.init_server()]
    for _ in range(count):
        payload = method.broadcast(states[-1])
        updates = [method.client_update(payload, data, {}) for data in clients]
        states.append(server_step(method, states[-1], updates).state)
    return states


@pytest.fixture(scope="module")
def rows(federation, make_experiment):
    """By row: its method and its states after rounds 0…3; round 3 is the first of RL where there is RL."""
    table = {}
    for row, changes in ROWS.items():
        method = build_method(federation.task, make_experiment(**changes))
        table[row] = method, rounds(method, federation.clients(method), 3)
    return table


def test_fedlora_moves_both_towers(federation, make_experiment):
    method = build_method(federation.task, make_experiment(method="fedlora"))
    state = method.init_server()
    payload = method.broadcast(state)
    updates = [method.client_update(payload, data, {}) for data in federation.clients(method)]
    after = server_step(method, state, updates).state
    for tower in ("image", "text"):
        for update in updates:
            moved = select_prefix(update.weights, tower)
            start = select_prefix(select_prefix(state.tensors, "shared"), tower)
            assert all((moved[name] - start[name]).abs().max() > 1e-4 for name in start)
    assert equal(select_prefix(after.tensors, "shared"), build_aggregator(ServerConfig()).combine(updates).tensors)
    assert all(update.samples == {} and update.personal == {} for update in updates)


def test_fedlora_sends_both_towers_and_in_rl_the_anchor(federation, make_experiment, randomised):
    method = build_method(federation.task, make_experiment(method="fedlora"))
    for done, groups in ((0, {"shared"}), (2, {"shared", "anchor"})):
        payload = method.broadcast(randomised(method.init_server(), done))
        assert {name.split("/")[0] for name in payload.tensors} == groups
        assert {name.split("/")[1] for name in payload.tensors} == {"image", "text"}


def test_fedlora_anchor_is_frozen_after_the_last_sft_round(rows):
    _, states = rows["+ two-stage"]
    for number in (1, 2):
        assert equal(select_prefix(states[number].tensors, "anchor"), select_prefix(states[number].tensors, "shared"))
    assert equal(select_prefix(states[3].tensors, "anchor"), select_prefix(states[2].tensors, "anchor"))
    assert not equal(select_prefix(states[3].tensors, "shared"), select_prefix(states[2].tensors, "shared"))


def test_fedlora_client_model_has_its_own_two_towers(federation, make_experiment, randomised):
    method = build_method(federation.task, make_experiment(method="fedlora"))
    state = randomised(method.init_server(), 1)
    data = federation.clients(method)[0]
    update = method.client_update(method.broadcast(state), data, {})
    own, received = method.classifier(state, update), method.classifier(state)
    names = federation.task.class_names
    assert not torch.allclose(own.text_embeddings(names), received.text_embeddings(names))
    assert not torch.allclose(
        own.image_features(data.activations.all()), received.image_features(data.activations.all())
    )
    assert method.adapters(state).keys() == {"image", "text"}


@pytest.mark.parametrize(("one_stage", "two_stage"), [("FedLoRA", "+ two-stage"), ("+ decoupled", "FedDTL")])
def test_schedule_rows_are_equal_until_rl_begins(rows, one_stage, two_stage):
    """Bit for bit the same run through rounds 1 and 2; from round 3 on another one."""
    _, sft = rows[one_stage]
    _, both = rows[two_stage]
    for number in (0, 1, 2):
        # Without an RL round to come there is no anchor to keep.
        trained = {name: tensor for name, tensor in both[number].tensors.items() if not name.startswith("anchor/")}
        assert equal(sft[number].tensors, trained)
    assert not equal(select_prefix(sft[3].tensors, "shared"), select_prefix(both[3].tensors, "shared"))


def test_all_rows_start_from_the_same_adapters(rows):
    starts = []
    for method, states in rows.values():
        adapters = method.adapters(states[0])
        starts.append(
            {**add_prefix("image", adapters["image"].factors), **add_prefix("text", adapters["text"].factors)}
        )
    assert all(equal(start, starts[0]) for start in starts)
    assert {method.first_image_block for method, _ in rows.values()} == {2}


def test_first_client_step_is_the_same_coupled_and_decoupled(federation, make_experiment):
    """At the first step both towers are where they started, so the image tower's gradient is the same in both.

    One epoch in one batch is one step. What differs is who trains the text tower: in FedLoRA the client.
    """
    updates = {}
    for name in ("fedlora", "feddtl"):
        experiment = make_experiment(method=name, local={"epochs": 1, "batch_size": 64})
        method = build_method(federation.task, experiment)
        data = federation.clients(method)[0]
        updates[name] = method.client_update(method.broadcast(method.init_server()), data, {})
    coupled = select_prefix(updates["fedlora"].weights, "image")
    decoupled = select_prefix(updates["feddtl"].weights, "image")
    assert coupled.keys() == decoupled.keys()
    for name in coupled:
        torch.testing.assert_close(coupled[name], decoupled[name], rtol=0, atol=1e-5)
    assert updates["fedlora"].metrics["loss"] == pytest.approx(updates["feddtl"].metrics["loss"], abs=1e-6)
    assert set(updates["fedlora"].samples) == set()
