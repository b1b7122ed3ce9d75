"""Updates that are applied on arrival: order, delays, losses, resumption; synchronous rounds as a special case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from feddtl.config import AFedPGConfig, SystemConfig
from feddtl.messages import ServerState, tensor_bytes
from feddtl.methods.catalog import build_method
from feddtl.observers import RunObserver
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.storage import without_nan
from feddtl.system.asynchronous_server import ServerMomentum, step, step_rate
from feddtl.system.in_flight import UpdatesInFlight
from feddtl.tensor_groups import select_prefix

ALIKE = SystemConfig(mode="async", seconds_per_image=1e-6)  # all but the network takes no time
SLOW = SystemConfig(mode="async", speed_spread=0.7, seconds_per_image=0.1)


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def untimed(records):
    """Records with None in place of NaN, which equals nothing."""
    return [without_nan({**record.to_dict(), "seconds": {}}) for record in records]


def run(federation, experiment, *, clients=None, saved=None, start=None, observer=None):
    method = build_method(federation.task, experiment)
    data = federation.clients(method)[:clients]
    sets = federation.sets(method)
    sets = replace(sets, shares=sets.shares[:clients])
    runtime = Runtime(method, data, sets, experiment, observer)
    return runtime.run(start or Progress(method.init_server()), (saved if saved is not None else []).append)


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_one_client_without_look_ahead_is_the_synchronous_run(federation, make_experiment, method):
    """No delay, rate 1, α = 1: the same model bit for bit in both stages, the same bytes, the same virtual time."""
    afedpg = AFedPGConfig(server_rate=1.0, direction_weight=1.0)
    synchronous = run(federation, make_experiment(method=method), clients=1)
    ours = run(
        federation,
        make_experiment(method=method, system=SystemConfig(mode="async"), afedpg=afedpg),
        clients=1,
    )
    assert equal(ours.state.tensors, synchronous.state.tensors)
    assert ours.state.round == synchronous.state.round == 4
    for mine, theirs in zip(untimed(ours.records), untimed(synchronous.records), strict=True):
        assert mine.pop("delays") == [0]
        assert mine.pop("virtual_seconds") == pytest.approx(theirs.pop("virtual_seconds"))
        theirs.pop("federated", None)  # in asynchronous runs no reply tells of the round before
        assert mine == theirs


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_frozen_a_moves_b_alone(federation, make_experiment, method):
    """In both stages, with delays; A is neither in the state nor sent."""
    experiment = make_experiment(method=method, lora={"aggregation": "frozen-a"}, system=SLOW)
    start = build_method(federation.task, experiment).init_server()
    end = run(federation, experiment)
    shared = select_prefix(end.state.tensors, "shared")
    assert all("lora_B" in name and tensor.abs().max() > 1e-3 for name, tensor in shared.items())
    assert end.state.tensors.keys() == start.tensors.keys()
    assert any(delay for record in end.records for delay in record.delays)


def test_order_of_arrival_and_delays(federation, make_experiment):
    """All three work at once. Each start, arrival and delay is replayed from the virtual durations alone."""
    experiment = make_experiment(rounds=3, schedule={"stages": "sft", "sft_rounds": 0}, system=SLOW)
    saved = []
    records = run(federation, experiment, saved=saved).records
    arrived = [client for record in records for client in record.clients]
    assert len(arrived) == 9
    # With everyone at work, a client that arrived is the only idle one and starts again: its duration never changes.
    first = {job.client: job for job in UpdatesInFlight.from_tensors(saved[-1].memory).jobs}
    length = {client: duration_of(federation, experiment, client) for client in range(3)}
    ends, versions, delays = dict(length), dict.fromkeys(range(3), 0), []
    for applied, client in enumerate(arrived):
        assert client == min(ends, key=ends.__getitem__)
        delays.append(applied - versions[client])
        versions[client] = applied + 1
        now = ends[client]
        ends[client] += length[client]
    assert [delay for record in records for delay in record.delays] == delays
    assert records[-1].virtual_seconds == pytest.approx(now)
    assert {client: job.arrival for client, job in first.items()} == pytest.approx(
        {client: end for client, end in ends.items() if client != arrived[-1]}
    )
    assert max(delays) > 2, "the slowest client should be overtaken"


def duration_of(federation, experiment, client):
    """Virtual seconds of an SFT update, which sends and receives as much in every round."""
    from feddtl.system.clock import Clock

    method = build_method(federation.task, experiment)
    payload = method.broadcast(method.init_server())
    data = federation.clients(method)[client]
    update = method.client_update(payload, data, {})
    moved = tensor_bytes(payload.tensors) + tensor_bytes(update.weights, update.samples)
    return Clock(experiment.system, 3, experiment.seed).seconds(client, len(data), 2, moved)


@pytest.mark.parametrize("aggregator", ["mean", "unweighted-mean"])
def test_a_round_against_a_plain_loop(federation, make_experiment, aggregator):
    """The first round with two clients at a time, α = 1: each update is applied to what is there when it arrives."""
    experiment = make_experiment(
        rounds=1,
        participation=0.5,
        schedule={"stages": "sft", "sft_rounds": 0},
        server={"aggregator": aggregator},
        system=ALIKE,
        afedpg=AFedPGConfig(direction_weight=1.0, delay_exponent=1.0),
    )
    progress = run(federation, experiment)
    [record] = progress.records
    method = build_method(federation.task, experiment)
    data, initial = federation.clients(method), method.init_server()
    first, second = record.clients
    # Both started at once; neither is fast enough to come twice.
    assert record.delays == [0, 1]
    weights, momentum = initial.tensors, ServerMomentum()
    for delay, client in enumerate((first, second)):
        update = method.client_update(method.broadcast(initial), data[client], {})
        reached = server_step(method, initial, [update]).state.tensors
        share = len(data[client]) / 6 if aggregator == "mean" else 1  # 18 images of 3 clients
        rate = step_rate(experiment.afedpg, share, delay, 2)
        assert rate == pytest.approx(share / 2 / (1 + delay / 2))
        weights, momentum = step(
            weights, initial.tensors, reached, momentum, rate=rate, weight=1.0, updates_per_round=2
        )
    assert equal(progress.state.tensors, weights)
    # Three clients started: two at once, the third when the first arrived.
    payload = method.broadcast(ServerState(0, initial.tensors))
    assert record.bytes_down == 3 * tensor_bytes(payload.tensors)


def test_lost_updates_are_named_and_replaced(federation, make_experiment):
    """Every round has its full number of applied updates; a loss costs time and the broadcast."""
    losing = replace(SLOW, dropout=0.4)
    records = run(federation, make_experiment(system=losing)).records
    without = run(federation, make_experiment(system=SLOW)).records
    assert all(len(record.clients) == 3 for record in records)
    lost = [client for record in records for client in record.lost]
    assert lost
    assert set(lost) <= {0, 1, 2}
    assert not any(record.lost for record in without)
    assert records[-1].virtual_seconds > without[-1].virtual_seconds
    assert sum(record.bytes_down for record in records) > sum(record.bytes_down for record in without)


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_a_run_goes_on_from_any_round_as_if_never_interrupted(federation, make_experiment, method):
    """Clients at work are trained again from the state that they were sent."""
    experiment = make_experiment(
        method=method, rounds=5, participation=0.6, system=replace(SLOW, dropout=0.2), evaluation={"every": 2}
    )
    saved = []
    whole = run(federation, experiment, saved=saved)
    assert any(UpdatesInFlight.from_tensors(progress.memory).jobs for progress in saved)
    for progress in saved[:-1]:
        resumed = run(federation, experiment, start=progress)
        assert equal(resumed.state.tensors, whole.state.tensors)
        assert equal(resumed.memory, whole.memory)
        assert untimed(resumed.records) == untimed(whole.records)


def test_what_a_client_keeps_comes_back_to_it_when_it_starts_again(federation, make_experiment):
    experiment = make_experiment(rounds=3, system=SLOW)
    method = build_method(federation.task, experiment)
    found, plain = [], method.client_update

    def count_visits(payload, data, personal, observer):
        before = int(personal.get("visits", torch.tensor(0)))
        found.append((data.client, before))
        return replace(plain(payload, data, {}, observer), personal={"visits": torch.tensor(before + 1)})

    method.client_update = count_visits
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    progress = runtime.run(Progress(method.init_server()))
    for client in range(3):
        assert [before for who, before in found if who == client] == list(range(sum(who == client for who, _ in found)))
    arrived = [client for record in progress.records for client in record.clients]
    assert {client: int(kept["visits"]) for client, kept in progress.personal.items()} == {
        client: arrived.count(client) for client in set(arrived)
    }


def test_both_stages_meet_in_a_round(federation, make_experiment):
    """Clients alike arrive in turns, so two SFT updates arrive in the first RL round; each mean is over its own."""
    record = run(federation, make_experiment(system=ALIKE)).records[2]
    assert record.stage == "rl"
    first, second, third = (record.train_by_client[client] for client in record.clients)
    assert ["reward" in metrics for metrics in (first, second, third)] == [False, False, True]
    assert record.train["reward"] == third["reward"]
    a, b = ((7, 5, 6)[client] for client in record.clients[:2])
    assert record.train["accuracy"] == pytest.approx((a * first["accuracy"] + b * second["accuracy"]) / (a + b))


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_the_anchor_is_frozen_with_the_last_sft_round(federation, make_experiment, method):
    """Two SFT updates arrive in the first RL round; they move the model, and neither the anchor nor what is sent of it.

    The server's momentum begins anew, so no RL client starts ahead of the model by steps of the SFT stage.
    """
    saved = []
    run(federation, make_experiment(method=method, system=ALIKE), saved=saved)
    end_of_sft = saved[1].state
    anchor = select_prefix(end_of_sft.tensors, "anchor")
    assert equal(anchor, select_prefix(end_of_sft.tensors, "shared"))
    assert UpdatesInFlight.from_tensors(saved[1].memory).momentum == ServerMomentum()
    for progress in saved[2:]:
        assert equal(select_prefix(progress.state.tensors, "anchor"), anchor)
        assert not equal(progress.state.tensors, end_of_sft.tensors)
        of_rl = [job for job in UpdatesInFlight.from_tensors(progress.memory).jobs if job.begun.round >= 2]
        assert of_rl
        assert all(equal(select_prefix(job.begun.tensors, "anchor"), anchor) for job in of_rl)


def test_the_server_s_metrics_are_means_over_the_steps(federation, make_experiment):
    record = run(
        federation, make_experiment(rounds=1, schedule={"stages": "sft", "sft_rounds": 0}, system=SLOW)
    ).records[0]
    assert "client_drift" not in record.server  # each step has one update, which is the aggregate
    assert "averaging_error" not in record.server
    assert record.server["loss"] > 0


def test_observers_hear_of_each_arrival(federation, make_experiment):
    class Diary(RunObserver):
        def __init__(self):
            self.events = []

        def round_started(self, round_number, stage, clients):
            self.events.append(("round", round_number, len(clients)))

        def client_finished(self, client):
            self.events.append(("client", client))

        def round_finished(self, record):
            self.events.append(("done", record.round))

    diary = Diary()
    records = run(federation, make_experiment(system=SLOW), observer=diary).records
    expected = []
    for record in records:
        expected += [
            ("round", record.round, 3),
            *(("client", c) for c in record.clients),
            ("done", record.round),
        ]
    assert diary.events == expected
