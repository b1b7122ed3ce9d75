"""One whole round of each stage against an independent implementation (`slow_rounds`).

Both in double precision: Adam turns the rounding of a gradient that is almost zero into steps of the learning rate, so
that in single precision the distance of two right implementations depends on the processor.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from slow_rounds import SlowClip, slow_average, slow_rl, slow_sft, slow_text_training

from feddtl.messages import ServerState
from feddtl.methods.catalog import build_method
from feddtl.models.text_tower import prompts_for
from feddtl.runtimes.server_step import server_step
from feddtl.tensor_groups import select_prefix

CLOSE = 1e-10
several_templates = pytest.mark.parametrize(
    "templates", [(), ("a {class}", "{class}, a photo of it", "this is no {class}!")], ids=["one prompt", "ensemble"]
)


@pytest.fixture(scope="module")
def slow(double_federation):
    task = double_federation.task
    return SlowClip(task.clip, prompts_for(task.class_names, task.prompt_template), scaling=1.5)


def with_templates(federation, slow, *templates):
    """The same with several templates; one prompt after another, written out."""
    if not templates:
        return federation, slow
    task = replace(federation.task, prompt_template="\n".join(templates))
    prompts = [template.replace("{class}", name) for template in templates for name in task.class_names]
    return replace(federation, task=task), SlowClip(task.clip, prompts, scaling=1.5, templates=len(templates))


def assert_same_tensors(ours, expected):
    assert ours.keys() == expected.keys()
    for name in ours:
        assert_close(ours[name], expected[name].detach(), msg=lambda m, n=name: f"{n}: {m}")


def assert_close(ours, expected, **options):
    torch.testing.assert_close(ours, expected, rtol=0, atol=CLOSE, **options)


def in_double(state):
    return ServerState(state.round, {name: tensor.double() for name, tensor in state.tensors.items()})


def clients_of(federation, method):
    return federation.clients(method, torch.float64)


def assert_moved(before, after):
    assert all((after[name] - before[name]).abs().max() > 1e-4 for name in before)


@several_templates
def test_sft_round_of_feddtl(double_federation, slow, make_experiment, randomised, templates):
    """Broadcast, every client's update with its uplink, average, and the server's text training."""
    experiment = make_experiment()
    double_federation, slow = with_templates(double_federation, slow, *templates)
    method = build_method(double_federation.task, experiment)
    state = in_double(randomised(method.init_server(), round_number=1))
    image, text = select_prefix(state.tensors, "shared"), select_prefix(state.tensors, "text")
    payload = method.broadcast(state)
    embeddings = slow.text_embeddings(text).detach()
    assert_close(payload.tensors["text_embeddings"], embeddings)

    updates, uploads, tuned = [], [], []
    for data in clients_of(double_federation, method):
        update = method.client_update(payload, data, {})
        pixels, labels = double_federation.pixels(data.client), data.labels.tolist()
        factors, metrics = slow_sft(slow, image, lambda factors: embeddings, pixels, labels, experiment, data.client, 2)
        assert_same_tensors(update.weights, factors)
        assert_moved(image, update.weights)
        assert {name: update.metrics[name] for name in metrics} == pytest.approx(metrics, abs=CLOSE)
        features = slow.image_features(factors, pixels.double()).detach()
        uploads.append(features / features.norm(dim=-1, keepdim=True))
        assert_close(update.samples["embeddings"], uploads[-1])
        assert update.samples["labels"].tolist() == labels
        updates.append(update)
        tuned.append(factors)

    after = server_step(method, state, updates).state
    average = slow_average(tuned, [7, 5, 6])
    labels = [label for update in updates for label in update.samples["labels"].tolist()]
    assert after.round == 2
    assert_same_tensors(select_prefix(after.tensors, "shared"), average)
    assert_same_tensors(select_prefix(after.tensors, "anchor"), average)
    expected_text = slow_text_training(slow, text, torch.cat(uploads), labels, experiment, 2)
    assert_same_tensors(select_prefix(after.tensors, "text"), expected_text)
    assert_moved(text, select_prefix(after.tensors, "text"))


RL_OPTIONS = {
    "default": {},
    "epoch": {"rollout": "epoch"},
    "batch": {"rollout": "batch"},
    "sample": {"action": "sample"},
    "exact": {"kl": "exact"},
    "probabilities": {"reference": "probabilities", "anchor_weight": 0.8},
    "normalized": {"noise_on": "normalized", "noise_std": 0.05},
    "automatic noise": {"noise_std": "auto"},
    "automatic noise on unit features": {"noise_std": "auto", "noise_on": "normalized", "rollout": "batch"},
    "anchor-weight": {"anchor_weight": 0.9},
    "group-size": {"group_size": 2},
    "no-kl": {"kl_weight": 0.0},
    "clip": {"clip": 0.02},
}


@pytest.fixture(scope="module")
def rl_start(double_federation, make_experiment, randomised):
    """State after round 2, with an anchor that is not the received model."""
    method = build_method(double_federation.task, make_experiment())
    return in_double(randomised(method.init_server(), round_number=2, seed=5))


def rl_update(federation, experiment, state: ServerState, client=0):
    method = build_method(federation.task, experiment)
    payload = method.broadcast(state)
    return payload, method.client_update(payload, clients_of(federation, method)[client], {})


@pytest.mark.parametrize("option", RL_OPTIONS)
def test_rl_round_of_feddtl(double_federation, slow, make_experiment, rl_start, option):
    """Every option of the RL stage against the loop, and unlike the default: an option that is ignored would fail."""
    experiment = make_experiment(rl=RL_OPTIONS[option], local={"learning_rate": 5e-3})
    payload, update = rl_update(double_federation, experiment, rl_start)
    text = payload.tensors["text_embeddings"]
    factors, metrics = slow_rl(
        slow,
        select_prefix(payload.tensors, "shared"),
        select_prefix(payload.tensors, "anchor"),
        lambda factors: text,
        double_federation.pixels(0),
        double_federation.tables[0].labels.tolist(),
        experiment,
        0,
        3,
    )
    assert_same_tensors(update.weights, factors)
    assert_moved(select_prefix(payload.tensors, "shared"), update.weights)
    for name, value in metrics.items():
        assert update.metrics[name] == pytest.approx(value, abs=CLOSE), name
    assert update.metrics["guarded_ratios"] == 0
    # The round taught something: some groups are mixed, and the reference is not the model itself.
    assert update.metrics["all_equal_groups"] < 1
    assert update.metrics["kl"] > 1e-3
    _, default = rl_update(double_federation, make_experiment(local={"learning_rate": 5e-3}), rl_start)
    difference = max((update.weights[name] - default.weights[name]).abs().max() for name in default.weights)
    assert (difference > 1e-4) == (option != "default")


@several_templates
@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_client_round_of_fedlora(double_federation, slow, make_experiment, randomised, stage, templates):
    """Both towers in one loss: the text embeddings change at every step."""
    experiment = make_experiment(method="fedlora")
    double_federation, slow = with_templates(double_federation, slow, *templates)
    method = build_method(double_federation.task, experiment)
    state = in_double(randomised(method.init_server(), round_number=0 if stage == "sft" else 2, seed=6))
    payload = method.broadcast(state)
    data = clients_of(double_federation, method)[1]
    update = method.client_update(payload, data, {})
    received, anchor = select_prefix(payload.tensors, "shared"), select_prefix(payload.tensors, "anchor")
    shared = double_federation.pixels(1), data.labels.tolist(), experiment, 1, payload.round
    if stage == "sft":
        factors, metrics = slow_sft(slow, received, slow.text_embeddings, *shared)
    else:
        factors, metrics = slow_rl(slow, received, anchor, slow.text_embeddings, *shared)
    assert_same_tensors(update.weights, factors)
    assert_moved(received, update.weights)
    for name, value in metrics.items():
        assert update.metrics[name] == pytest.approx(value, abs=CLOSE), name
