"""What hostile clients send, and that it reaches the server as an upload that passed its checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from feddtl.attacks.base import Knowledge, hostile_clients
from feddtl.attacks.catalog import ATTACKS, build_attack
from feddtl.config import AttackConfig, DataConfig, Experiment, SystemConfig
from feddtl.config.without_effect import without_effect
from feddtl.errors import ConfigError
from feddtl.launch.submission import submit
from feddtl.messages import Update
from feddtl.methods.catalog import build_method
from feddtl.notes import Warned
from feddtl.observers import RunObserver
from feddtl.runtimes.hostile import require_embeddings
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.seeding import torch_generator

CLASSES, WIDTH, IMAGES = 5, 8, 6


def update_of(client):
    source = torch.Generator().manual_seed(client)
    embeddings = torch.nn.functional.normalize(torch.randn(IMAGES, WIDTH, generator=source), dim=-1)
    labels = torch.randint(CLASSES, (IMAGES,), generator=source)
    weights = {"a": torch.randn(2, 3, generator=source), "b": torch.randn(4, generator=source)}
    return Update(client, IMAGES, weights, {"embeddings": embeddings, "labels": labels})


RECEIVED = update_of(99).weights
HONEST = [update_of(client) for client in (1, 2, 4)]


def uploaded(name, scale=1.0, honest=HONEST, most=None):
    """What a hostile client sends, and what it trained."""
    known = Knowledge(RECEIVED, honest, CLASSES, most, torch.Generator().manual_seed(7))
    trained = update_of(0)
    return build_attack(name, scale).upload(trained, known), trained


def row(weights):
    return np.concatenate([tensor.double().numpy().ravel() for tensor in weights.values()])


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("sign-flip", 10.0, lambda own, start, honest: start - 10 * (own - start)),
        ("scaling", 100.0, lambda own, start, honest: start + 100 * (own - start)),
        ("inflated-count", 3.0, lambda own, start, honest: 2 * start - own),
        ("alie", 1.5, lambda own, start, honest: honest.mean(axis=0) - 1.5 * honest.std(axis=0)),
        ("ipm", 0.5, lambda own, start, honest: start - 0.5 * (honest.mean(axis=0) - start)),
        ("upload-flip", 1.0, lambda own, start, honest: own),
        ("one-class", 1.0, lambda own, start, honest: own),
        ("random-embeddings", 1.0, lambda own, start, honest: own),
        ("label-flip", 1.0, lambda own, start, honest: own),
    ],
)
def test_weights_that_are_sent(name, scale, expected):
    sent, trained = uploaded(name, scale)
    honest = np.stack([row(update.weights) for update in HONEST])
    np.testing.assert_allclose(row(sent.weights), expected(row(trained.weights), row(RECEIVED), honest), rtol=1e-5)
    assert all(sent.weights[key].dtype == torch.float32 for key in RECEIVED)


def test_embeddings_labels_and_counts_that_are_sent():
    sent, trained = uploaded("upload-flip")
    assert sent.samples["labels"].tolist() == [4 - label for label in trained.samples["labels"].tolist()]
    assert torch.equal(sent.samples["embeddings"], trained.samples["embeddings"])
    assert set(uploaded("one-class")[0].samples["labels"].tolist()) == {0}
    drawn = uploaded("random-embeddings")[0].samples
    torch.testing.assert_close(drawn["embeddings"].norm(dim=-1), torch.ones(IMAGES))
    assert (drawn["embeddings"] * trained.samples["embeddings"]).sum(dim=-1).abs().max() < 0.9
    assert torch.equal(drawn["labels"], trained.samples["labels"])
    assert uploaded("inflated-count", 3.0)[0].num_images == 3 * IMAGES
    assert uploaded("inflated-count", 3.0, most=10)[0].num_images == 10
    assert build_attack("label-flip", 1.0).labels(torch.tensor([0, 1, 4]), CLASSES).tolist() == [4, 3, 0]


@pytest.mark.parametrize("name", ["alie", "ipm"])
def test_without_an_honest_client_there_is_nothing_to_know(name):
    sent, trained = uploaded(name, honest=[])
    assert sent is trained


def test_hostile_clients_follow_from_the_seed_alone():
    def chosen(seed, name="alie"):
        attack = AttackConfig(name=name, share=0.2)
        return hostile_clients(Experiment(seed=seed, data=DataConfig(clients=10), attack=attack))

    assert all(len(set(chosen(seed))) == 2 for seed in range(20))
    assert chosen(3) == chosen(3, "label-flip")
    assert {client for seed in range(60) for client in chosen(seed)} == set(range(10))
    assert hostile_clients(Experiment(data=DataConfig(clients=10))) == []
    # Nothing is trained there, so nothing is spoiled.
    assert hostile_clients(Experiment(method="zero-shot", attack=AttackConfig(name="alie"))) == []


def federated(federation, make_experiment, name, observer=None, **settings):
    """The method, its clients and the progress after a round, one of three clients hostile."""
    attack = AttackConfig(name=name, share=0.3, scale=settings.pop("scale", "auto"))
    experiment = make_experiment(
        rounds=1, schedule={"sft_rounds": 1}, data=DataConfig(clients=3), attack=attack, **settings
    )
    own = build_method(federation.task, experiment)
    clients = federation.clients(own)
    runtime = Runtime(own, clients, federation.sets(own), experiment, observer)
    return own, clients, runtime.run(Progress(own.init_server()))


@pytest.mark.parametrize("name", ["label-flip", "random-embeddings", "inflated-count", "alie"])
def test_a_round_is_the_server_s_step_with_the_upload_of_the_attack(federation, make_experiment, name):
    """Clients by hand: the honest ones as always, and then the hostile one with what these have sent."""
    method, clients, progress = federated(federation, make_experiment, name)
    [hostile] = hostile_clients(
        Experiment(seed=3, data=DataConfig(clients=3), attack=AttackConfig(name=name, share=0.3))
    )
    attack, classes = build_attack(name, ATTACKS[name].scale or 1.0), len(method.task.class_names)
    state = method.init_server()
    payload = method.broadcast(state)
    data = [replace(c, labels=attack.labels(c.labels, classes)) if c.client == hostile else c for c in clients]
    trained = [method.client_update(payload, one, {}) for one in data]
    honest = [update for update in trained if update.client != hostile]
    received, generator = method.expected_update(payload).weights, torch_generator(3, "attack", hostile, 1)
    known = Knowledge(received, honest, classes, 16 * classes, generator)  # 16 shots, in the few-shot regime
    updates = [attack.upload(u, known) if u.client == hostile else u for u in trained]
    for key, tensor in server_step(method, state, updates).state.tensors.items():
        torch.testing.assert_close(progress.state.tensors[key], tensor, rtol=1e-5, atol=1e-6)
    assert not progress.records[0].lost


def test_an_upload_that_the_server_rejects_is_lost(federation, make_experiment):
    """A change that does not fit float32; the round goes on without it."""
    _, _, progress = federated(federation, make_experiment, "scaling", scale=1e300)
    [(client, reason)] = progress.records[0].failures.items()
    assert progress.records[0].lost == [client]
    assert "not finite" in reason
    assert all(bool(torch.isfinite(tensor).all()) for tensor in progress.state.tensors.values())


class Notes(RunObserver):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            {"aggregator": "trimmed-mean"},
            "with 2 of 3 clients, server.aggregator = 'trimmed-mean' drops 0 instead of 1",
        ),
        ({"aggregator": "median"}, None),
        (
            {"aggregator": "median", "nearest_neighbour_mixing": True},
            "server.aggregator = 'median' drops 0 instead of 1",
        ),
    ],
)
def test_a_defence_that_lost_clients_weaken_says_so(federation, make_experiment, server, said):
    """One of three clients is rejected; of the two that are left, nobody can be dropped."""
    notes = Notes()
    federated(federation, make_experiment, "scaling", notes, scale=1e300, server={"trim_share": 0.34, **server})
    found = [text for text in notes.said if "withstands" in text]
    assert [isinstance(text, Warned) for text in found] == [True] * bool(said)
    assert all(said in text for text in found)


def test_a_change_beyond_the_bound_on_norms_is_scaled_down_to_it(federation, make_experiment):
    method, _, progress = federated(federation, make_experiment, "scaling", scale=1e6, uplink={"max_update_norm": 0.5})
    assert not progress.records[0].lost
    start = method.init_server().tensors
    moved = [tensor - start[key] for key, tensor in progress.state.tensors.items() if key.startswith("shared/")]
    assert torch.cat([change.flatten() for change in moved]).norm() <= 0.5 * 1.001


def test_attacks_that_cannot_be_carried_out(federation, make_experiment, tmp_path):
    with pytest.raises(ConfigError, match="'allie' is unknown") as caught:
        AttackConfig(name="allie")
    assert "alie" in caught.value.hint
    with pytest.raises(ConfigError, match="is carried out in rounds"):
        Experiment(attack=AttackConfig(name="ipm"), system=SystemConfig(mode="async"))
    with pytest.raises(ConfigError, match="of 5 clients is 0 hostile ones") as caught:
        Experiment(attack=AttackConfig(name="ipm", share=0.05))
    assert "0.2" in caught.value.hint
    experiment = make_experiment(method="promptfl", attack=AttackConfig(name="one-class"))
    with pytest.raises(ConfigError, match="'promptfl' sends none") as caught:
        require_embeddings(experiment, build_method(federation.task, experiment))
    assert "sign-flip" in caught.value.hint
    with pytest.raises(ConfigError, match="no federation may run that") as caught:
        submit(tmp_path, Experiment(attack=AttackConfig(name="ipm")), tmp_path, resume=False, show=print)
    assert "feddtl run" in caught.value.hint


def test_settings_of_an_attack_without_effect():
    assert without_effect(Experiment(attack=AttackConfig(share=0.4)), "sgd") == [
        "attack.share = 0.4 has no effect: attack.name is 'none'."
    ]
    assert without_effect(Experiment(attack=AttackConfig(name="label-flip", scale=2.0)), "sgd") == [
        "attack.scale = 2.0 has no effect: attack.name is 'label-flip'."
    ]
