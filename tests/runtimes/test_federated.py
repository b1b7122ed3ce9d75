"""Accuracy put together from what clients count, against counts by hand and against the central accuracy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_records import made_record

from feddtl.config import SystemConfig
from feddtl.evaluate import HitCounts, accuracy, correct
from feddtl.federated_accuracy import FederatedAccuracy
from feddtl.messages import ServerState
from feddtl.methods.catalog import build_method
from feddtl.observers import RunObserver
from feddtl.runtimes.federated import among, federated_accuracy, federated_of, with_counts
from feddtl.runtimes.runtime import Progress, Runtime

PARTS = (torch.arange(5), torch.arange(5, 9), torch.arange(9, 12))  # of the 12 base test images


class Diary(RunObserver):
    def __init__(self):
        self.counted = []

    def clients_counted(self, round_number, federated):
        self.counted.append(round_number)


def runtime_of(federation, experiment, shares=PARTS, observer=None):
    method = build_method(federation.task, experiment)
    sets = replace(federation.sets(method), shares=shares)
    return method, Runtime(method, federation.clients(method), sets, experiment, observer)


def run(federation, experiment, shares=PARTS, start=None, observer=None):
    method, runtime = runtime_of(federation, experiment, shares, observer)
    saved = []
    progress = runtime.run(start or Progress(method.init_server()), saved.append)
    return runtime.close(progress), saved


def test_each_image_weighs_the_same():
    """1 of 1 and 2 of 9 are 3 of 10 and not the mean of 100 % and 22 %; novel: 1 of 4 of one client alone.

    HM = 2 · 30 · 25 / 55.
    """
    found = federated_accuracy({4: HitCounts(2, 9), 1: HitCounts(1, 1, 1, 4)}, {})
    assert (found.base, found.novel) == (30.0, 25.0)
    assert found.harmonic_mean == pytest.approx(1500 / 55)
    assert (found.base_images, found.novel_images, found.clients) == (10, 4, [1, 4])
    assert "failures" not in found.to_dict()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=6))
def test_the_accuracy_of_a_part_is_that_of_all_images_at_once(pairs):
    """Clients' counts against the accuracy over all hits, as one vector."""
    counts = {client: HitCounts(min(pair), max(pair)) for client, pair in enumerate(pairs)}
    hits = torch.cat([torch.arange(max(pair)) < min(pair) for pair in pairs])
    assert federated_accuracy(counts, {}).base == pytest.approx(accuracy(hits), nan_ok=True)


def test_without_images_there_is_no_accuracy():
    found = federated_accuracy({}, {2: "gone"})
    assert math.isnan(found.base)
    assert math.isnan(found.harmonic_mean)
    assert (found.clients, found.failures) == ([], {2: "gone"})


def test_counts_join_the_round_that_they_tell_of():
    """Before round 1 there is no record; a record without scores of its own takes them, one with scores keeps them."""
    counts = {0: HitCounts(1, 2)}
    before = with_counts(Progress(ServerState(0, {})), counts)
    assert (before.before.base, before.records) == (50.0, ())
    records = (made_record(1), made_record(2, base=75.0))
    central = with_counts(Progress(ServerState(2, {}), records=records), counts)
    assert central.records[0] == records[0]
    assert (central.records[1].headline["base"], central.records[1].federated.base) == (75.0, 50.0)
    elsewhere = with_counts(Progress(ServerState(1, {}), records=records[:1]), counts)
    assert elsewhere.records[0].headline["base"] == elsewhere.records[0].federated.base == 50.0
    assert elsewhere.before is None
    assert records[0] == made_record(1), "a record in a checkpoint is not changed"


THREE, TWO, NONE = HitCounts(1, 3, 2, 2), HitCounts(2, 2), HitCounts(0, 0)  # of clients 0, 1 and 2


def test_a_client_that_does_not_answer_takes_its_images_out_and_is_named():
    """Clients 0, 1 and 2 have 3 + 2, 2 + 0 and 0 + 0 test images: without 0, 2 of 5 base and 0 of 2 novel remain.

    Client 2 has no test image, and once that is known it is never missing; the images of client 3 are never known.
    """
    start = with_counts(Progress(ServerState(0, {})), {0: THREE, 1: TWO, 2: NONE}, everyone=range(3))
    assert (start.before.missing, start.before.all_base_images, start.before.clients) == ([], None, [0, 1])
    assert start.before.counts[2] == {"base": 0, "base_images": 0, "novel": 0, "novel_images": 0}
    later = replace(start, state=ServerState(1, {}), records=(made_record(1),))
    found = with_counts(later, {1: TWO}, {0: "gone", 2: "gone"}, everyone=range(3)).records[0].federated
    assert (found.base, found.base_images, found.missing) == (100.0, 2, [0])
    assert (found.all_base_images, found.all_novel_images) == (5, 2)
    assert found.coverage() == "2 of 5 base and 0 of 2 novel images; client 0 missing"
    unknown = with_counts(later, {1: TWO}, everyone=range(4)).records[0].federated
    assert (unknown.missing, unknown.all_base_images) == ([0, 3], None)
    assert unknown.coverage() == "2 base images; clients 0 and 3 missing"
    assert FederatedAccuracy.from_dict(json.loads(json.dumps(found.to_dict()))).to_dict() == found.to_dict()


def test_accuracy_over_the_same_clients():
    """Over client 1 alone, 2 of 2; the novel images are client 0's."""
    whole = with_counts(Progress(ServerState(0, {})), {0: THREE, 1: TWO, 2: NONE}, everyone=range(3)).before
    part = among(whole, [1])
    assert (part.base, part.base_images, part.novel_images, part.clients) == (100.0, 2, 0, [1])
    assert math.isnan(part.novel)
    assert among(whole, [0, 1]).scores == whole.scores
    assert whole.base == 60.0


def test_where_the_server_has_test_images_nobody_is_missing():
    found = with_counts(Progress(ServerState(0, {})), {1: TWO}, {0: "gone"}).before
    assert found.to_dict().keys() == {*("base", "novel", "harmonic_mean", "base_images", "novel_images"),
                                      *("clients", "failures")}  # fmt: skip


@pytest.mark.parametrize("method", ["feddtl", "fedlora", "fedpgp", "promptfl"])
def test_with_all_images_on_clients_federated_is_central(federation, make_experiment, method):
    """Every base test image in one share, all clients in each round: the same accuracy to the last bit."""
    progress, _ = run(federation, make_experiment(method=method))
    assert len(progress.records) == 4
    for record in progress.records:
        assert record.federated.base == record.headline["base"]
        assert (record.federated.base_images, record.federated.novel_images) == (12, 0)
        assert record.federated.clients == [0, 1, 2]
        assert math.isnan(record.federated.novel)


@pytest.mark.parametrize("method", ["feddtl", "promptfl"])
def test_before_training_it_is_the_model_that_round_1_broadcasts(federation, make_experiment, method):
    experiment = make_experiment(method=method, rounds=3)
    progress, _ = run(federation, experiment)
    method = build_method(federation.task, experiment)
    hits = correct(method.classifier(method.init_server()), federation.sets(method).base)
    assert progress.before.base == accuracy(hits)


@pytest.mark.parametrize("method", ["feddtl", "fedlora", "promptfl"])
def test_a_client_s_view_of_the_broadcast_is_the_global_model(federation, make_experiment, method):
    """The classifier that a client forms from the payload predicts what the server's does, after training too."""
    experiment = make_experiment(method=method, rounds=3)
    progress, _ = run(federation, experiment)
    method = build_method(federation.task, experiment)
    received = method.received_classifier(method.broadcast(progress.state))
    central, images = method.classifier(progress.state), federation.sets(method).base
    texts = [c.text_embeddings(images.class_names) for c in (received, central)]
    torch.testing.assert_close(*texts)
    rows = images.activations.rows(torch.arange(12))
    torch.testing.assert_close(received.image_features(rows), central.image_features(rows))
    update = method.client_update(method.broadcast(progress.state), federation.clients(method)[0], {})
    own = [method.received_classifier(method.broadcast(progress.state), update),
           method.classifier(progress.state, update)]  # fmt: skip
    torch.testing.assert_close(*(c.image_features(rows) for c in own))


def test_novel_texts_travel_where_clients_score_them(federation, make_experiment):
    """FedDTL's clients have no text tower: what they need of it comes with the broadcast, or is refused."""
    from feddtl.errors import ClientError

    names = ("teapot", "ice cream")
    method = build_method(replace(federation.task, novel_names=names), make_experiment())
    state = method.init_server()
    sent = method.broadcast(state)
    texts = method.received_classifier(sent).text_embeddings(names)
    torch.testing.assert_close(texts, method.classifier(state).text_embeddings(names))
    plain = build_method(federation.task, make_experiment())
    assert "novel_text_embeddings" not in plain.broadcast(state).tensors
    with pytest.raises(ClientError, match="no text embeddings of these classes: teapot"):
        plain.received_classifier(plain.broadcast(state)).text_embeddings(names)


def test_a_sample_of_clients_scores_its_own_part(federation, make_experiment):
    """Round t + 1's clients tell of round t; the last round is told of by all. Client 1 has no test image."""
    shares = (torch.arange(5), torch.arange(0), torch.arange(5, 12))
    progress, _ = run(federation, make_experiment(participation=0.6), shares)
    records = progress.records
    for record, following in pairwise(records):
        counting = [client for client in following.clients if client != 1]
        found = record.federated
        images = sum(len(shares[client]) for client in counting)
        assert (found.clients, found.base_images) == (counting, images) if found else not counting
    assert records[-1].federated.clients == [0, 2]
    assert records[-1].federated.base == records[-1].headline["base"]


def test_clients_whose_reply_is_lost_do_not_count(federation, make_experiment):
    progress, _ = run(federation, make_experiment(rounds=6, system=SystemConfig(dropout=0.5)))
    assert any(record.lost for record in progress.records)
    for record, following in pairwise(progress.records):
        arrived = [client for client in following.clients if client not in following.lost]
        assert (record.federated.clients if record.federated else []) == arrived


def test_rounds_that_are_not_scored_are_not_counted(federation, make_experiment):
    diary = Diary()
    progress, _ = run(federation, make_experiment(rounds=5, evaluation={"every": 2}), observer=diary)
    assert [record.round for record in progress.records if record.federated] == [2, 4, 5]
    assert diary.counted == [0, 2, 4, 5]


def test_a_run_goes_on_from_any_round_with_the_same_counts(federation, make_experiment):
    """The last record of a checkpoint is not counted yet; the next round amends it, and the closing is done once."""
    experiment = make_experiment()
    whole, saved = run(federation, experiment)
    assert all(progress.records[-1].federated is None for progress in saved)
    for progress in saved:
        resumed, _ = run(federation, experiment, start=progress)
        assert [federated(r) for r in resumed.records] == [federated(r) for r in whole.records]
        assert resumed.before.base == whole.before.base
    _, runtime = runtime_of(federation, experiment)
    assert runtime.close(whole) is whole


def federated(record):
    return record.federated.to_dict()


def test_no_test_image_is_encoded_again_for_the_counts(federation, make_experiment, monkeypatch):
    """Four rounds: the model before training and after each round, five passes, with the final predictions.

    In the last round each of the three clients' own models takes another one.
    """
    from feddtl.runtimes import context

    passes = []
    plain = context.predict_test_images
    monkeypatch.setattr(context, "predict_test_images", lambda *given: passes.append(1) or plain(*given))
    method, runtime = runtime_of(federation, make_experiment())
    progress = runtime.close(runtime.run(Progress(method.init_server())))
    runtime.predictions(progress.state)
    assert len(passes) == 5 + 3


def test_in_asynchronous_runs_all_clients_score_the_last_model(federation, make_experiment):
    progress, _ = run(federation, make_experiment(system=SystemConfig(mode="async")))
    assert [record.federated is not None for record in progress.records] == [False, False, False, True]
    assert federated_of(progress).base == progress.records[-1].headline["base"]
    assert progress.before is None
