"""The same experiment over Flower and in one process: equal to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import CLIENTS, final_state, records
from runtimes.flower.flower_runs import ROUNDS, assert_equal_states, facts, grid_of, make_experiment, short

from feddtl import deployment
from feddtl.config import (
    AttackConfig,
    DataConfig,
    DeploymentConfig,
    EvaluationConfig,
    LoraConfig,
    RlConfig,
    ServerConfig,
    SystemConfig,
    UplinkConfig,
)
from feddtl.errors import ConfigError
from feddtl.experiment import run_experiment


def alike(ours, theirs):
    """Nested values that are the same but for the last digits of numbers."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize(
    ("method", "cache"),
    # Without a cache, images are encoded where they are: the same for all methods, with and without personal tensors.
    [
        *((name, "") for name in ("feddtl", "fedlora", "fedsa-lora", "fedpgp", "fedmgp")),
        ("feddtl", "off"),
        ("fedpgp", "off"),
    ],
)
def test_equal_to_a_run_in_one_process(bench, tmp_path, monkeypatch, method, cache):
    """All clients' own models are scored each round; FedPGP's are scored where their personal part is."""
    experiment = make_experiment(bench, method, evaluation=EvaluationConfig(client_models="every"))
    if method == "fedlora":  # several prompts: each client averages what it encodes itself
        experiment = replace(experiment, data=replace(experiment.data, prompt="ensemble"))
    if cache:
        # A cache is each machine's own affair. Measured kernels are remembered there too: without it, name them. A
        # client's images also meet other images in a batch then: 16 bits would make a last digit of float32 a digit of
        # its own, and Adam divides small gradients by their own size.
        compute = replace(experiment.compute, precision="float32", attention="sdpa")
        experiment = replace(experiment, compute=compute)
        monkeypatch.setenv("FEDDTL_CACHE", cache)
    run_experiment(experiment, tmp_path / "local")
    grid = grid_of()
    deployment.serve(experiment, tmp_path / "flower", grid)
    assert_equal_states(tmp_path / "flower", tmp_path / "local", tolerance=1e-5 if cache else 1e-6)
    assert alike(records(tmp_path / "flower"), records(tmp_path / "local"))
    assert alike(facts(tmp_path / "flower"), facts(tmp_path / "local"))
    assert sum(message.metadata.message_type == "train" for message in grid.sent) == ROUNDS * CLIENTS
    kinds = [message.metadata.message_type for message in grid.sent]
    assert (kinds.count("query"), kinds.count("evaluate")) == (CLIENTS, CLIENTS)
    for record in records(tmp_path / "flower"):
        assert record["federated"]["base"] == record["base"], "all base test images are in the clients' shares"
        assert record["federated"]["base_images"] == 9


@pytest.mark.parametrize(
    ("aggregator", "transforms", "method"),
    [
        ("median", "norm-bound,float16", "feddtl"),
        ("trimmed-mean", "float16", "fedlora"),
        ("median", "", "promptfl"),
    ],
)
def test_aggregators_and_transforms_are_the_same(bench, tmp_path, aggregator, transforms, method):
    """States, and bytes as they were sent; the bound is one that an update of these rounds exceeds."""
    uplink = UplinkConfig(transforms=transforms, max_update_norm=0.05)
    server = ServerConfig(aggregator=aggregator, trim_share=0.4)
    experiment = make_experiment(bench, method, uplink=uplink, server=server)
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "flower", grid_of())
    assert_equal_states(tmp_path / "flower", tmp_path / "local")
    assert alike(records(tmp_path / "flower"), records(tmp_path / "local"))
    assert not any(record["lost"] for record in records(tmp_path / "flower"))


@pytest.mark.parametrize("method", ["feddtl", "fedlora"])
@pytest.mark.parametrize("aggregation", ["product", "residual", "frozen-a", "alternate"])
def test_aggregations_of_lora_are_the_same(bench, tmp_path, aggregation, method):
    """A round of each stage, with a transform that needs to know what the client started from."""
    uplink = UplinkConfig(transforms="norm-bound,float16")
    experiment = short(bench, method, lora=LoraConfig(aggregation=aggregation), uplink=uplink)
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "flower", grid_of())
    assert_equal_states(tmp_path / "flower", tmp_path / "local")
    assert alike(records(tmp_path / "flower"), records(tmp_path / "local"))
    assert not any(record["lost"] for record in records(tmp_path / "flower"))


@pytest.mark.parametrize("rollout", ["round", "batch"])
def test_automatic_noise_is_the_same(bench, tmp_path, rollout):
    """It follows the features, so each client has it at hand; the server gets its mean alone."""
    experiment = make_experiment(bench, rl=RlConfig(noise_std="auto", rollout=rollout, epochs=1))
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "flower", grid_of())
    assert_equal_states(tmp_path / "flower", tmp_path / "local")
    assert facts(tmp_path / "local")["noise_std"] > 0
    assert alike(facts(tmp_path / "flower"), facts(tmp_path / "local"))


def test_sampled_clients_and_simulated_losses_are_the_same(bench, tmp_path):
    experiment = make_experiment(
        bench, "fedpgp", participation=0.6, rounds=5, system=SystemConfig(dropout=0.3), evaluation=EvaluationConfig(2)
    )
    run_experiment(experiment, tmp_path / "local")
    deployment.serve(experiment, tmp_path / "flower", grid_of())
    assert any(record["lost"] for record in records(tmp_path / "local"))
    assert_equal_states(tmp_path / "flower", tmp_path / "local")
    assert records(tmp_path / "flower") == records(tmp_path / "local")


@pytest.mark.parametrize(
    ("method", "sent"), [("fedpgp", {"weights/context"}), ("fedmgp", {"weights/text", "weights/visual"})]
)
def test_what_is_personal_never_travels(bench, tmp_path, state_of_clients, method, sent):
    """No reply holds a tensor of the name or size of U or V, or a third group; they are on the client's disk."""
    replies = []
    experiment = make_experiment(bench, method)
    deployment.serve(experiment, tmp_path / "run", grid_of(after=lambda client, reply: replies.append(reply) or reply))
    names = {name for reply in replies for name in reply.content.array_records["arrays"]}
    assert names == sent
    kept = sorted(path.name for path in state_of_clients.rglob("client-1/*"))
    assert kept == ["round-0002.safetensors", "round-0003.safetensors"]


def test_half_precision_halves_what_travels_and_stays_close(bench, tmp_path):
    sizes = {}
    for precision in ("float32", "float16"):
        uplink = UplinkConfig(transforms={"float32": "norm-bound", "float16": "norm-bound,float16"}[precision])
        deployment_config = DeploymentConfig(precision=precision, round_timeout=0.2)
        experiment = short(bench, deployment=deployment_config, uplink=uplink)
        replies = []
        grid = grid_of(after=lambda client, reply, replies=replies: replies.append(reply) or reply)
        deployment.serve(experiment, tmp_path / precision, grid)
        arrays = replies[0].content.array_records["arrays"]
        sizes[precision] = sum(a.numpy().nbytes for name, a in arrays.items() if name != "samples/labels")
    assert sizes["float32"] == 2 * sizes["float16"]
    half, whole = (final_state(tmp_path / precision) for precision in ("float16", "float32"))
    assert any(not torch.equal(half[name], whole[name]) for name in whole)


def test_the_broadcast_is_packed_once_for_all(bench, tmp_path):
    grid = grid_of()
    deployment.serve(short(bench), tmp_path / "run", grid)
    sent = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len({id(message.content.array_records["arrays"]) for message in sent}) == 2  # rounds


@pytest.mark.parametrize("system", [{"selection": "fedppo"}, {"mode": "async"}], ids=["fedppo", "asynchronous"])
def test_policies_that_need_one_process_are_refused(bench, tmp_path, system):
    experiment = make_experiment(
        bench,
        participation=0.5,
        system=SystemConfig(**system),
        data=DataConfig(source=str(bench.photos), clients=CLIENTS, class_split="half"),
    )
    with pytest.raises(ConfigError, match="needs all clients in one process"):
        deployment.serve(experiment, tmp_path / "run", grid_of())
    assert not (tmp_path / "run").exists()


def test_an_experiment_with_hostile_clients_is_refused(bench, tmp_path):
    with pytest.raises(ConfigError, match="no federation may run that"):
        deployment.serve(make_experiment(bench, attack=AttackConfig(name="ipm")), tmp_path / "run", grid_of())
    assert not (tmp_path / "run").exists()


def test_the_experiment_travels_as_json_and_comes_back(bench, tmp_path):
    grid = grid_of()
    experiment = short(bench)
    deployment.serve(experiment, tmp_path / "run", grid)
    sent = json.loads(grid.sent[-1].content.config_records["scalars"]["experiment"])
    assert sent["data"] == json.loads((tmp_path / "run" / "config.json").read_text())["data"]


def test_what_concerns_the_servers_machine_alone_does_not_travel(bench, tmp_path):
    """A client has a device and a cache of its own."""
    grid = grid_of()
    experiment = short(bench)
    experiment = replace(
        experiment, compute=replace(experiment.compute, device="cpu", cache_folder=str(tmp_path / "c"))
    )
    deployment.serve(experiment, tmp_path / "run", grid)
    sent = json.loads(grid.sent[-1].content.config_records["scalars"]["experiment"])["compute"]
    assert not sent.keys() & {"device", "loading_threads", "cache_folder", "cache_disk_gb", "cache_memory_gb"}
    assert sent["activations"] == experiment.compute.activations
