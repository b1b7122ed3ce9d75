"""Faults that released code of federated prompt and adapter learning is known for, looked for in every method here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.small_runs import Bench
from made_records import made_record

from feddtl.config import DataConfig
from feddtl.data.federated import load_federated_data
from feddtl.evaluate import Scores, harmonic_mean
from feddtl.methods.catalog import METHODS, build_method
from feddtl.preparation import prepare
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.runtimes.server_step import server_step
from feddtl.summary import summarise

each_method = pytest.mark.parametrize("method", METHODS)
each_trained = pytest.mark.parametrize("method", [name for name in METHODS if name != "zero-shot"])


def clones(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def updates_of(built, state, clients):
    payload = built.broadcast(state)
    return [built.client_update(payload, data, {}) for data in clients]


# --- class names iterated from a set, so that prompts and labels disagree between processes ------------

ONE_ROUND_OF_EVERY_METHOD = """
import hashlib, sys
from pathlib import Path
from feddtl.methods.catalog import METHODS
from feddtl.config import DataConfig, Experiment, LocalConfig, ScheduleConfig
from feddtl.preparation import prepare
from feddtl.runtimes.runtime import Runtime, Progress

for method in METHODS:
    experiment = Experiment(
        method=method, model=sys.argv[1], rounds=1,
        data=DataConfig(source=sys.argv[2], class_split="half", clients=3),
        local=LocalConfig(learning_rate=0.01), schedule=ScheduleConfig(stages="sft"),
    )
    ready = prepare(experiment)
    runtime = Runtime(ready.method, ready.clients, ready.sets, experiment)
    end = runtime.run(Progress(ready.method.init_server()))
    tensors = [*end.state.tensors.items(), *(pair for kept in end.personal.values() for pair in kept.items())]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in tensors)).hexdigest()
    text = ready.method.classifier(end.state).text_embeddings(ready.data.base_names)
    labels = [data.labels.tolist() for data in ready.clients]
    print(method, ready.data.base_names, ready.data.novel_names, labels, digest, text.tolist())
"""


def test_every_method_gives_the_same_in_processes_that_hash_differently(bench: Bench) -> None:
    """Python orders the words of a set by their hashes, and hashes them anew in every process."""

    def output(hash_seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", ONE_ROUND_OF_EVERY_METHOD, str(bench.clip), str(bench.photos)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first = output("0")
    assert [line.split()[0] for line in first] == list(METHODS)
    assert all("('ant', 'bee', 'cat') ('dog', 'elk', 'fox')" in line for line in first)
    assert output("12345") == first


# --- text features cached and never invalidated -------------------------------------------------------


@each_method
def test_text_features_follow_the_tensors_and_the_names(federation, make_experiment, randomised, method):
    """One state after another and back, one class list after another: always what a model gives that has seen nothing
    else. A cache that forgets to ask for the state or the names would answer with the ones before."""
    built = build_method(federation.task, make_experiment(method=method))
    states = [randomised(built.init_server(), 1, seed=seed) for seed in (0, 1)]
    lists = (federation.task.class_names, ("teapot", "ice cream"), tuple(reversed(federation.task.class_names)))

    def embeddings(state, names, forget):
        if forget:
            federation.task.clip.text._prefixes.clear()
            federation.task.clip.text._tokens.clear()
        return built.classifier(state).text_embeddings(names)

    asked = [(state, names) for names in lists for state in (*states, states[0])]
    with_memory = [embeddings(*pair, forget=False) for pair in asked]
    fresh = [embeddings(*pair, forget=True) for pair in asked]
    for ours, expected in zip(with_memory, fresh, strict=True):
        assert torch.equal(ours, expected)
    # FedSA-LoRA's trained texts are its clients'.
    texts_are_trained = method not in ("fedclip", "zero-shot", "fedsa-lora")
    assert torch.equal(with_memory[0], with_memory[1]) != texts_are_trained
    assert torch.equal(with_memory[0], with_memory[2])
    torch.testing.assert_close(with_memory[0].flip(0), with_memory[6], rtol=0, atol=1e-6)


# --- the average built from aliases, so that the last client wins; a client silently dropped ----------


@each_trained
def test_the_average_is_of_all_clients_and_shares_memory_with_none(federation, make_experiment, method):
    """Σ_k N_k/N · w_k with 7, 5 and 6 images, written out; what clients sent is as it was, whatever the server does."""
    built = build_method(federation.task, make_experiment(method=method, local={"learning_rate": 0.05}))
    state = built.init_server()
    updates = updates_of(built, state, federation.clients(built))
    sent = [clones(update.weights) for update in updates]
    after = server_step(built, state, updates).state
    averaged = {name.removeprefix("shared/"): t for name, t in after.tensors.items() if not name.startswith("anchor/")}
    for name in sent[0]:
        expected = (7 * sent[0][name].double() + 5 * sent[1][name].double() + 6 * sent[2][name].double()) / 18
        torch.testing.assert_close(averaged[name].double(), expected, rtol=0, atol=1e-6)
        assert (sent[0][name] - sent[2][name]).abs().max() > 1e-5, name
    with torch.no_grad():
        for tensor in after.tensors.values():
            tensor.fill_(7.0)
    for update, before in zip(updates, sent, strict=True):
        assert_equal(update.weights, before)


@each_trained
def test_every_client_that_took_part_counts(federation, make_experiment, method):
    """Its weights moved by 1 move the average by N_k/N."""
    built = build_method(federation.task, make_experiment(method=method, server={"epochs": 0}))
    state = built.init_server()
    updates = updates_of(built, state, federation.clients(built))

    def averages(of_clients):
        """Without FedEx-LoRA's residual, which is no average of tensors; see test_lora_aggregation."""
        tensors = server_step(built, state, of_clients).state.tensors
        return {name: tensor for name, tensor in tensors.items() if "residual/" not in name}

    before = averages(updates)
    for client, images in enumerate((7, 5, 6)):
        changed = list(updates)
        weights = {name: tensor + 1 for name, tensor in updates[client].weights.items()}
        changed[client] = replace(updates[client], weights=weights)
        after = averages(changed)
        moves = {name: (after[name] - before[name]) for name in before if not torch.equal(after[name], before[name])}
        assert len(moves) >= len(weights)
        for name, move in moves.items():
            torch.testing.assert_close(move, torch.full_like(move, images / 18), rtol=0, atol=1e-5, msg=name)


# --- optimiser momentum carried from one client, or round, to the next --------------------------------


@each_trained
def test_an_update_does_not_depend_on_what_was_trained_before(federation, make_experiment, method):
    """Client 1 alone in a new object, and after client 0 and two rounds of its own in one that is used."""
    experiment = make_experiment(method=method)
    fresh, used = (build_method(federation.task, experiment) for _ in range(2))
    state, clients = fresh.init_server(), federation.clients(fresh)
    kept = updates_of(fresh, state, clients)[1].personal
    for _ in range(2):
        updates_of(used, state, clients)
    payload = fresh.broadcast(state)
    alone = build_method(federation.task, experiment).client_update(payload, clients[1], kept)
    after_others = used.client_update(payload, clients[1], kept)
    assert_equal(after_others.weights, alone.weights)
    assert_equal(after_others.personal, alone.personal)


# --- test images that were in a client's training set -------------------------------------------------


def pixels_of(table):
    return {table.read(index).tobytes() for index in range(len(table))}


def test_no_test_image_is_a_training_image_where_the_split_is_held_out_here(bench: Bench, tmp_path: Path) -> None:
    """A folder without a test split, compared by pixels; each training image belongs to one client."""
    (tmp_path / "photos").symlink_to(bench.photos / "train")
    for seed in range(3):
        data = load_federated_data(DataConfig(source=str(tmp_path / "photos"), clients=3, regime="full"), seed)
        trained, tested = pixels_of(data.train), pixels_of(data.test_base) | pixels_of(data.test_novel)
        assert len(trained) == len(data.train)
        assert tested
        assert not trained & tested
        owned = np.concatenate(data.partition.train)
        assert sorted(owned.tolist()) == list(range(len(data.train)))


# --- a fixed seed that makes `seed` a no-op -----------------------------------------------------------


@each_trained
def test_the_seed_decides_and_repeats(federation, make_experiment, method):
    """Another seed of the method alone, with the same images on the same clients, ends elsewhere."""
    experiment = make_experiment(method=method)

    def end(seed):
        built = build_method(replace(federation.task, seed=seed), replace(experiment, seed=seed))
        state = built.init_server()
        updates = updates_of(built, state, federation.clients(built))
        return server_step(built, state, updates).state.tensors

    first, again, other = end(1), end(1), end(2)
    assert_equal(first, again)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# --- the best round, or anything else, picked on the test set -----------------------------------------


@each_trained
def test_test_images_decide_nothing(federation, make_experiment, method):
    """With every test label wrong the scores change, and the tensors, shared and personal, do not."""
    experiment = make_experiment(method=method, rounds=2, schedule={"sft_rounds": 1})
    built = build_method(federation.task, experiment)
    sets = federation.sets(built)
    wrong = replace(sets, base=replace(sets.base, labels=(sets.base.labels + 1) % 3))
    ends = []
    for scored in (sets, wrong):
        runtime = Runtime(built, federation.clients(built), scored, experiment)
        ends.append(runtime.run(Progress(built.init_server())))
    assert_equal(ends[0].state.tensors, ends[1].state.tensors)
    for client in ends[0].personal:
        assert_equal(ends[0].personal[client], ends[1].personal[client])


def test_the_headline_is_the_last_round(bench: Bench) -> None:
    """Two rounds of which the first is the better one; every method's summary is made here."""
    experiment = bench.experiment(method="promptfl")
    ready = prepare(experiment)
    rounds = tuple(
        made_record(number, local=1.0, base=base, novel=50.0, harmonic_mean=harmonic_mean(base, 50.0))
        for number, base in ((1, 90.0), (2, 10.0))
    )
    progress = Progress(replace(ready.method.init_server(), round=2), {}, rounds)
    trained = ready.method.trained_parameters()
    summary = summarise(experiment, ready.data, trained, Scores(0.0, 0.0, 0.0), progress, {})
    assert (summary.final["base"], summary.best["base"], summary.best_round) == (10.0, 90.0, 1)
