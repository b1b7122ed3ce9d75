"""Clients whose steps are computed as one get what each gets alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from feddtl.backbones.clip import load_clip
from feddtl.errors import ClientError
from feddtl.methods.catalog import build_method
from feddtl.models.activations import Activations
from feddtl.models.kernels import Kernels
from feddtl.models.towers import BlockStack
from feddtl.observers import RunObserver
from feddtl.runtimes.runtime import Progress, Runtime

RL_VARIANTS = [
    {},
    {"rollout": "epoch", "action": "sample"},
    {"rollout": "batch", "action": "sample", "kl": "exact"},
    {"rollout": "batch", "noise_on": "normalized", "reference": "probabilities"},
]


def run(federation, experiment, dtype=torch.float64):
    method = build_method(federation.task, experiment)
    runtime = Runtime(method, federation.clients(method, dtype), federation.sets(method, dtype), experiment)
    start = method.init_server()
    tensors = {name: tensor.to(dtype) for name, tensor in start.tensors.items()}
    return runtime.run(Progress(replace(start, tensors=tensors)))


@pytest.fixture(scope="module")
def in_one_pass(double_federation):
    """The run of an experiment in float64, once for all tests of this file that compare with it."""
    return cache(lambda experiment: run(double_federation, experiment))


def assert_same_course(ours, theirs, tolerance=1e-8):
    """Losses of a whole run and its final adapters, relative; adapters as one vector.

    An RL loss is a difference of terms of size 1, hence the absolute 1e-6.
    Layer by layer or number by number, float32 says less: Adam turns the rounding of a gradient that is zero, such
    as the first of an RL round with groups of equal rewards, into steps of the learning rate.
    """
    for record, other in zip(ours.records, theirs.records, strict=True):
        assert record.train.keys() == other.train.keys()
        for name in ("loss", "accuracy", "reward", "all_equal_groups"):
            if name in record.train:
                assert record.train[name] == pytest.approx(other.train[name], rel=tolerance, abs=0.1 * tolerance), name
        for client, metrics in record.train_by_client.items():
            expected = other.train_by_client[client]["loss"]
            assert metrics["loss"] == pytest.approx(expected, rel=tolerance, abs=0.1 * tolerance)
        assert record.headline == other.headline
    ours_vector, expected = (
        torch.cat([state.tensors[name].flatten() for name in sorted(state.tensors)])
        for state in (ours.state, theirs.state)
    )
    assert (ours_vector - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("together", [2, 3])
@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_batched_run_equals_one_client_at_a_time(in_one_pass, make_experiment, method, together):
    """Three clients of 7, 5 and 6 images in batches of 3: they end after different numbers of steps and the last
    batches have 1, 2 and 3 images."""
    alone = in_one_pass(make_experiment(method=method))
    assert any(tensor.abs().max() > 1e-3 for name, tensor in alone.state.tensors.items() if "lora_B" in name)
    assert_same_course(in_one_pass(make_experiment(method=method, compute={"clients_together": together})), alone)


@pytest.mark.parametrize("aggregation", ["residual", "frozen-a", "alternate"])
@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_batched_run_with_other_aggregations_of_lora(double_federation, make_experiment, method, aggregation):
    changes = {"method": method, "lora": {"aggregation": aggregation}}
    alone = run(double_federation, make_experiment(**changes))
    together = run(double_federation, make_experiment(**changes, compute={"clients_together": 3}))
    assert_same_course(together, alone)


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_batched_run_in_single_precision(federation, make_experiment, method):
    """As users run it: 1e-5 relative."""
    alone, together = (
        run(federation, make_experiment(method=method, compute={"clients_together": count}), torch.float32)
        for count in (1, 3)
    )
    assert_same_course(together, alone, 1e-5)


@pytest.mark.parametrize("rl", RL_VARIANTS, ids=str)
@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
def test_batched_reinforcement_equals_one_client_at_a_time(in_one_pass, make_experiment, method, rl):
    settings = {"method": method, "rl": rl, "schedule": {"sft_rounds": 1}}
    alone = in_one_pass(make_experiment(**settings))
    batched = in_one_pass(make_experiment(**settings, compute={"clients_together": 3}))
    assert_same_course(batched, alone)


@pytest.mark.parametrize("rl", RL_VARIANTS, ids=str)
@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
@pytest.mark.parametrize("together", [1, 3])
def test_passes_make_no_difference(double_federation, in_one_pass, make_experiment, monkeypatch, method, together, rl):
    """Batches of 3, or of three clients' 9, in one pass and in passes of two images."""
    settings = {"method": method, "rl": rl, "schedule": {"sft_rounds": 1}}
    experiment = make_experiment(**settings, compute={"clients_together": together})
    whole = in_one_pass(experiment)
    monkeypatch.setattr(BlockStack, "sequences_per_pass", lambda stack, tokens: 2)
    assert_same_course(run(double_federation, experiment), whole)


def test_number_of_clients_together_follows_the_batch(federation, clip_folder, make_experiment, monkeypatch):
    monkeypatch.setattr(BlockStack, "sequences_per_pass", lambda stack, tokens: 20)
    assert build_method(federation.task, make_experiment(local={"batch_size": 3})).clients_together == 1
    clip = load_clip(str(clip_folder))
    clip.use(Kernels(torch.bfloat16))
    task = replace(federation.task, clip=clip)
    for batch_size, expected in ((3, 6), (20, 1), (64, 1), (1, 16)):
        method = build_method(task, make_experiment(local={"batch_size": batch_size}))
        assert method.clients_together == expected


def test_broken_client_of_a_batch_is_named_and_the_others_are_kept(federation, make_experiment):
    """NaN in client 1's image: the error names client 1, and the updates of 0 and 2 are those they have alone."""

    class Arrivals(RunObserver):
        def __init__(self):
            self.clients = []

        def client_finished(self, client):
            self.clients.append(client)

    experiment = make_experiment(compute={"clients_together": 3})
    method = build_method(federation.task, experiment)
    clients = federation.clients(method)
    broken = clients[1].activations.all().clone()
    broken[0, 1, 2] = torch.nan
    clients[1] = replace(clients[1], activations=Activations.of(broken))
    arrivals = Arrivals()
    runtime = Runtime(method, clients, federation.sets(method), experiment, arrivals)
    with pytest.raises(ClientError, match="client 1 in round 1"):
        runtime.run(Progress(method.init_server()))
    assert arrivals.clients == [0]


@pytest.mark.slow
def test_thousands_of_clients_need_no_more_memory(clip_folder):
    """4,000 images on 20 and on 4,000 clients, ten of which train a round: what a client that waits costs."""

    def peak(clients):
        command = [sys.executable, str(Path(__file__).with_name("many_clients.py")), str(clip_folder), str(clients)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = peak(20), peak(4000)
    assert many - few < 4000 * 5_000  # an index and two small objects each; an adapter alone is 9 kB
