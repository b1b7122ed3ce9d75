"""The reference runtime: who takes part, what is refused, and that watching changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from feddtl.errors import ClientError
from feddtl.evaluate import accuracy, mean, predict_test_images, score_global, share_hits
from feddtl.messages import tensor_bytes
from feddtl.methods.catalog import build_method
from feddtl.methods.feddtl.method import FedDTL
from feddtl.models.activations import Activations
from feddtl.observers import RunObserver
from feddtl.runtimes import context
from feddtl.runtimes.context import require_finite_tensors
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.storage import without_nan
from feddtl.system.selection import choose_clients


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def make_runtime(federation, experiment, **options):
    method = build_method(federation.task, experiment)
    return Runtime(method, federation.clients(method), federation.sets(method), experiment, **options), Progress(
        method.init_server()
    )


def with_value(data, where, value):
    """A client with other activations."""
    changed = data.activations.all().clone()
    changed[where] = value
    return replace(data, activations=Activations.of(changed))


class Diary(RunObserver):
    def __init__(self):
        self.events = []

    def round_started(self, round_number, stage, clients):
        self.events.append(("round", round_number, stage, list(clients)))

    def epoch_finished(self, client, epoch, epochs):
        self.events.append(("epoch", client, epoch, epochs))

    def client_finished(self, client):
        self.events.append(("client", client))

    def round_finished(self, record):
        self.events.append(("done", record.round))


def test_only_the_chosen_clients_train(federation, make_experiment):
    experiment = make_experiment(participation=0.5)
    diary = Diary()
    runtime, start = make_runtime(federation, experiment, observer=diary)
    records = runtime.run(start).records
    for record in records:
        chosen = choose_clients(3, 0.5, 3, record.round)
        assert len(chosen) == 2
        assert record.clients == chosen
        assert list(record.train_by_client) == chosen
    trained = [event[1] for event in diary.events if event[0] == "client"]
    assert trained == [client for record in records for client in record.clients]


def test_observer_is_told_in_order(federation, make_experiment):
    diary = Diary()
    runtime, start = make_runtime(federation, make_experiment(rounds=3), observer=diary)
    runtime.run(start)
    clients = [
        event for client in range(3) for event in [*(("epoch", client, e, 2) for e in (1, 2)), ("client", client)]
    ]
    expected = []
    for number, stage in ((1, "sft"), (2, "sft"), (3, "rl")):
        expected += [("round", number, stage, [0, 1, 2]), *clients, ("done", number)]
    assert diary.events == expected


@pytest.mark.parametrize("done", [0, 2], ids=["sft", "rl"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_client_stops_the_round_and_is_named(federation, make_experiment, randomised, done, value):
    """One number of one image of client 1. Nothing of the round is kept: no checkpoint is asked for."""
    experiment = make_experiment()
    method = build_method(federation.task, experiment)
    clients = federation.clients(method)
    clients[1] = with_value(clients[1], (2, 0, 5), value)
    saved = []
    runtime = Runtime(method, clients, federation.sets(method), experiment)
    with pytest.raises(ClientError, match=f"update of client 1 in round {done + 1} holds NaN") as caught:
        runtime.run(Progress(randomised(method.init_server(), done)), saved.append)
    assert "learning_rate" in caught.value.hint
    assert saved == []


@pytest.mark.parametrize("group", ["weights", "samples", "personal"])
def test_every_part_of_an_update_is_checked(federation, make_experiment, group):
    experiment = make_experiment()
    method = build_method(federation.task, experiment)
    plain = method.client_update

    def break_last_client(payload, data, personal, observer):
        update = plain(payload, data, personal, observer)
        broken = {**getattr(update, group), "extra": torch.tensor([1.0, float("nan")])}
        return replace(update, **{group: broken}) if data.client == 2 else update

    method.client_update = break_last_client
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    with pytest.raises(ClientError, match=r"client 2 in round 1 .*'extra'"):
        runtime.run(Progress(method.init_server()))


def test_broken_client_that_does_not_take_part_does_no_harm(federation, make_experiment):
    experiment = make_experiment(participation=0.3, rounds=3)
    method = build_method(federation.task, experiment)
    clients = federation.clients(method)
    took_part = {client for number in (1, 2, 3) for client in choose_clients(3, 0.3, 3, number)}
    for client in set(range(3)) - took_part:
        clients[client] = with_value(clients[client], slice(None), float("nan"))
    assert took_part != {0, 1, 2}
    runtime = Runtime(method, clients, federation.sets(method), experiment)
    assert runtime.run(Progress(method.init_server())).state.round == 3


def test_broken_server_training_is_named(federation, make_experiment, monkeypatch):
    healthy = FedDTL._train_text

    def diverged(self, *arguments):
        factors, metrics = healthy(self, *arguments)
        return {name: tensor * math.nan for name, tensor in factors.items()}, metrics

    monkeypatch.setattr(FedDTL, "_train_text", diverged)
    runtime, start = make_runtime(federation, make_experiment())
    with pytest.raises(ClientError, match=r"server's state after round 1 .*'text/") as caught:
        runtime.run(start)
    assert "server.learning_rate" in caught.value.hint


def test_finite_check_skips_integers_and_names_the_tensor():
    require_finite_tensors({"labels": torch.tensor([1, 2]), "x": torch.ones(2)}, "It", "Mend it")
    with pytest.raises(ClientError, match="It holds NaN or infinite values in 'x'"):
        require_finite_tensors({"ok": torch.ones(1), "x": torch.tensor([1.0, -math.inf])}, "It", "Mend it")


def test_scoring_does_not_change_training(federation, make_experiment):
    """Scored after every round with all client models, or once at the end: the same state, bit for bit."""
    often, seldom = (
        make_experiment(evaluation={"every": every, "client_models": models})
        for every, models in ((1, "every"), (100, "never"))
    )
    results = []
    for experiment in (often, seldom):
        runtime, start = make_runtime(federation, experiment)
        results.append(runtime.run(start))
    assert equal(results[0].state.tensors, results[1].state.tensors)
    assert [record.is_scored for record in results[0].records] == [True] * 4
    assert [record.is_scored for record in results[1].records] == [False, False, False, True]
    assert [bool(record.scores.client_models) for record in results[0].records] == [True] * 4
    assert results[1].records[-1].scores.client_models is None
    assert results[1].records[-1].headline == results[0].records[-1].headline


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_run_that_goes_on_from_any_round_equals_an_uninterrupted_one(federation, make_experiment, method):
    experiment = make_experiment(method=method, participation=0.7)
    runtime, start = make_runtime(federation, experiment)
    saved = []
    whole = runtime.run(start, saved.append)
    assert [progress.state.round for progress in saved] == [1, 2, 3, 4]
    for progress in saved[:3]:
        again, _ = make_runtime(federation, experiment)
        resumed = again.run(progress)
        assert equal(resumed.state.tensors, whole.state.tensors)
        ours, theirs = ([without_nan({**r.to_dict(), "seconds": {}}) for r in run.records] for run in (resumed, whole))
        assert ours == theirs


def test_record_of_a_round(federation, make_experiment, monkeypatch):
    """Bytes counted from the messages themselves, means weighted by 7, 5 and 6 images, scores of the right models."""
    # The server moves the text tower far, so that it matters which one a client's model is scored with.
    experiment = make_experiment(
        rounds=3, evaluation={"client_models": "last"}, server={"epochs": 8, "learning_rate": 0.1}
    )
    method = build_method(federation.task, experiment)
    clients, sets = federation.clients(method), federation.sets(method)
    saved, scored = [], []

    def watch(model, sets):
        scored.append(model)
        return predict_test_images(model, sets)

    monkeypatch.setattr(context, "predict_test_images", watch)
    Runtime(method, clients, sets, experiment).run(Progress(method.init_server()), saved.append)
    state, record = saved[1].state, saved[2].records[-1]

    payload = method.broadcast(state)
    updates = [method.client_update(payload, data, {}) for data in clients]
    aggregate = server_step(method, state, updates)
    assert record.bytes_down == 3 * tensor_bytes(payload.tensors)
    assert record.bytes_up == sum(tensor_bytes(update.weights, update.samples) for update in updates)
    for name in updates[0].metrics:
        expected = sum(n * update.metrics[name] for n, update in zip((7, 5, 6), updates, strict=True)) / 18
        assert record.train[name] == pytest.approx(expected)
    assert record.server == aggregate.metrics
    own, mixed_up = (
        {update.client: method.classifier(begun, update) for update in updates} for begun in (state, aggregate.state)
    )
    scores = score_global(method.classifier(aggregate.state), sets, 0.0)
    assert (record.headline["base"], record.headline["novel"]) == (scores.base, scores.novel)
    hits = share_hits(own, sets)
    local = {client: accuracy(right) for client, right in hits.items()}
    assert record.scores.local_by_client == local
    assert record.headline["local"] == pytest.approx(sum(local.values()) / 2)
    # The text tower that the client was sent, not the one that its embeddings led to.
    names = federation.task.class_names
    assert len(scored) == 7  # the start, the global model of each round, and before the last one each client's model
    for client, model in enumerate(scored[3:6]):
        assert torch.equal(model.text_embeddings(names), own[client].text_embeddings(names))
        assert not torch.allclose(model.text_embeddings(names), mixed_up[client].text_embeddings(names), atol=1e-2)
    each = [score_global(own[client], sets, 0.0) for client in range(3)]
    assert record.scores.client_models["base"] == pytest.approx(sum(score.base for score in each) / 3)
    assert record.scores.client_models["novel"] == pytest.approx(sum(score.novel for score in each) / 3)
    found = saved[2].own_hits
    for client, right in hits.items():
        assert found.local[sets.shares[client]].tolist() == right.long().tolist()
    assert found.scored.tolist() == [3] * len(sets.labels)
    base = len(sets.base.labels)
    assert 100 * float(found.right[:base].sum()) / base / 3 == pytest.approx(record.scores.client_models["base"])
    assert saved[1].own_hits.scored.tolist() == [0] * len(sets.labels)


def test_scores_before_training_are_those_of_zero_shot(federation, make_experiment):
    runtime, _ = make_runtime(federation, make_experiment())
    zero_shot, _ = make_runtime(federation, make_experiment(method="zero-shot"))
    (scores, predictions), (expected, their_predictions) = (r.score_before_training() for r in (runtime, zero_shot))
    assert scores == expected
    assert torch.equal(predictions.among_half, their_predictions.among_half)
    assert torch.equal(predictions.among_all, their_predictions.among_all)


def test_mean_leaves_out_what_could_not_be_scored():
    assert mean([10.0, float("nan"), 40.0]) == 25.0
    assert math.isnan(mean([float("nan")]))
    assert math.isnan(mean([]))


def test_what_a_client_keeps_comes_back_to_it_alone(federation, make_experiment):
    """A method with personal tensors: each client finds what it kept in its own last round, and none on the wire."""
    experiment = make_experiment(participation=0.5)
    method = build_method(federation.task, experiment)
    found, plain = [], method.client_update

    def keep_rounds(payload, data, personal, observer):
        found.append((data.client, payload.round, [int(v) for v in personal.get("rounds", torch.empty(0))]))
        kept = torch.cat([personal.get("rounds", torch.empty(0)), torch.tensor([float(payload.round)])])
        return replace(plain(payload, data, {}, observer), personal={"rounds": kept})

    method.client_update = keep_rounds
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    progress = runtime.run(Progress(method.init_server()))
    took_part = {client: [n for n in range(1, 5) if client in choose_clients(3, 0.5, 3, n)] for client in range(3)}
    for client, number, rounds in found:
        assert rounds == [earlier for earlier in took_part[client] if earlier < number]
    assert {client: kept["rounds"].tolist() for client, kept in progress.personal.items()} == {
        client: rounds for client, rounds in took_part.items() if rounds
    }
    untouched, start = make_runtime(federation, experiment)
    assert [r.bytes_up for r in untouched.run(start).records] == [r.bytes_up for r in progress.records]
