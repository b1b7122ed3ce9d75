"""Synchronous rounds under a clock: time, losses, and clients that FedPPO chooses."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from feddtl.config import FedPPOConfig, SystemConfig
from feddtl.messages import tensor_bytes
from feddtl.methods.catalog import build_method
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.storage import without_nan
from feddtl.system.clock import Clock
from feddtl.system.ppo_selection import PpoSelection
from feddtl.system.selection import choose_clients
from feddtl.system.validation import Validation, split_off_validation


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def untimed(records):
    """Records with None in place of NaN, which equals nothing."""
    return [without_nan({**record.to_dict(), "seconds": {}}) for record in records]


def run(federation, experiment, saved=None, start=None):
    """Progress after the run; FedPPO holds half of each client's images back."""
    method = build_method(federation.task, experiment)
    clients, validation = federation.clients(method), None
    if experiment.system.selection == "fedppo":
        clients, held = split_off_validation(clients, experiment.fedppo.validation_share, experiment.seed)
        validation = Validation(held, federation.task.class_names, federation.task.clip.logit_scale)
    runtime = Runtime(method, clients, federation.sets(method), experiment, validation=validation)
    return runtime.run(start or Progress(method.init_server()), (saved if saved is not None else []).append)


def test_a_round_lasts_as_long_as_its_slowest_client(federation, make_experiment):
    """Clients of 7, 5 and 6 images; 2 epochs of SFT, 2 of RL. Bytes of all are alike but for the embeddings."""
    system = SystemConfig(seconds_per_image=0.5, speed_spread=0.8, bandwidth_mbit=1.0)
    experiment = make_experiment(system=system)
    clock = Clock(system, 3, experiment.seed)
    records = run(federation, experiment).records
    method = build_method(federation.task, experiment)
    state = method.init_server()
    payload = method.broadcast(state)
    updates = [method.client_update(payload, data, {}) for data in federation.clients(method)]
    expected = max(
        images * 2 * 0.5 * clock.slowness(client)
        + (tensor_bytes(payload.tensors) + tensor_bytes(update.weights, update.samples)) * 8e-6
        for client, (images, update) in enumerate(zip((7, 5, 6), updates, strict=True))
    )
    assert records[0].virtual_seconds == pytest.approx(expected)
    steps = [b.virtual_seconds - a.virtual_seconds for a, b in pairwise(records)]
    assert steps[0] == pytest.approx(expected)
    assert all(step > 0 for step in steps)


def test_clocks_change_no_result(federation, make_experiment):
    """Slow clients and a slow network cost virtual time and nothing else."""
    plain = run(federation, make_experiment())
    slow = run(federation, make_experiment(system=SystemConfig(speed_spread=1.0, slow_share=0.5, bandwidth_mbit=0.1)))
    assert equal(plain.state.tensors, slow.state.tensors)
    assert plain.virtual_seconds < slow.virtual_seconds


def test_everyone_by_name_is_everyone_by_share(federation, make_experiment):
    named = run(federation, make_experiment(system=SystemConfig(selection="all")))
    shared = run(federation, make_experiment())
    assert equal(named.state.tensors, shared.state.tensors)
    assert untimed(named.records) == untimed(shared.records)


def test_lost_updates_are_named_and_the_others_go_on(federation, make_experiment):
    """A round with losses is the round in which only the others took part; what was lost is not sent."""
    experiment = make_experiment(
        rounds=1, schedule={"stages": "sft", "sft_rounds": 0}, system=SystemConfig(dropout=0.5)
    )
    seed = next(
        seed
        for seed in range(100)
        if [Clock(experiment.system, 3, seed).loses(client, 1) for client in range(3)] == [False, True, False]
    )
    progress = run(federation, replace(experiment, seed=seed))
    [record] = progress.records
    assert (record.clients, record.lost, list(record.train_by_client)) == ([0, 1, 2], [1], [0, 2])
    method = build_method(federation.task, replace(experiment, seed=seed))
    state, clients = method.init_server(), federation.clients(method)
    payload = method.broadcast(state)
    updates = [method.client_update(payload, clients[client], {}) for client in (0, 2)]
    assert equal(progress.state.tensors, server_step(method, state, updates).state.tensors)
    assert record.bytes_down == 3 * tensor_bytes(payload.tensors)
    assert record.bytes_up == sum(tensor_bytes(update.weights, update.samples) for update in updates)


def test_a_round_that_loses_all_leaves_the_state_as_it_was(federation, make_experiment):
    experiment = make_experiment(rounds=8, system=SystemConfig(dropout=0.6), evaluation={"client_models": "every"})
    saved = []
    progress = run(federation, experiment, saved)
    empty = [record.round for record in progress.records if record.lost == record.clients]
    assert empty
    assert len(empty) < 8
    states = [build_method(federation.task, experiment).init_server(), *(step.state for step in saved)]
    for number in range(1, 9):
        assert equal(states[number].tensors, states[number - 1].tensors) == (number in empty)
    record = progress.records[empty[0] - 1]
    assert (record.train, record.server, record.bytes_up) == ({}, {}, 0)
    assert math.isnan(record.scores.local)
    assert record.headline["base"] >= 0
    assert record.scores.client_models is None
    assert record.bytes_down > 0


def fedppo(make_experiment, **changes):
    return make_experiment(
        participation=0.5,
        rounds=7,
        system=SystemConfig(selection="fedppo", dropout=0.2),
        fedppo=FedPPOConfig(update_every=2, validation_share=0.4, learning_rate=0.05),
        **changes,
    )


def test_fedppo_chooses_by_what_it_remembers(federation, make_experiment):
    experiment = fedppo(make_experiment)
    saved = []
    records = run(federation, experiment, saved).records
    chooser = PpoSelection(experiment.fedppo, 3, 2, experiment.seed)
    for before, record in zip([{}, *(progress.memory for progress in saved)], records, strict=False):
        assert record.clients == chooser.choose(before, record.round)
        assert len(record.clients) == 2
    assert float(saved[-1].memory["adam/steps"]) > 0
    assert any(record.clients != choose_clients(3, 0.5, experiment.seed, record.round) for record in records)


def test_fedppo_looks_at_no_test_image(federation, make_experiment):
    """Other test images, the same choices, memory and model."""
    experiment = fedppo(make_experiment, evaluation={"every": 100})
    ours = run(federation, experiment)
    method = build_method(federation.task, experiment)
    sets = federation.sets(method)
    wrong = replace(sets, base=replace(sets.base, labels=(sets.base.labels + 1) % 3))
    clients, held = split_off_validation(
        federation.clients(method), experiment.fedppo.validation_share, experiment.seed
    )
    validation = Validation(held, federation.task.class_names, federation.task.clip.logit_scale)
    theirs = Runtime(method, clients, wrong, experiment, validation=validation).run(Progress(method.init_server()))
    assert equal(ours.memory, theirs.memory)
    assert equal(ours.state.tensors, theirs.state.tensors)
    assert ours.records[-1].headline["base"] != theirs.records[-1].headline["base"]


def test_fedppo_goes_on_from_any_round_as_if_never_interrupted(federation, make_experiment):
    experiment = fedppo(make_experiment)
    saved = []
    whole = run(federation, experiment, saved)
    for progress in saved[:-1]:
        resumed = run(federation, experiment, start=progress)
        assert equal(resumed.state.tensors, whole.state.tensors)
        assert equal(resumed.memory, whole.memory)
        assert untimed(resumed.records) == untimed(whole.records)


def test_fedppo_without_validation_images_is_refused(federation, make_experiment):
    experiment = fedppo(make_experiment)
    method = build_method(federation.task, experiment)
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    with pytest.raises(ValueError, match="needs validation images"):
        runtime.run(Progress(method.init_server()))
