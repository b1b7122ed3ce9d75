"""The benchmark's opponent does the same work as feddtl: same draws, same adapters; and the harness runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feddtl.evaluate import accuracy, score_global, share_hits
from feddtl.methods.catalog import build_method
from feddtl.models.text_tower import prompts_for
from feddtl.runtimes.server_step import server_step
from feddtl.seeding import torch_generator
from feddtl.tensor_groups import select_prefix

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

reference_loop = pytest.importorskip("benchmarks.reference_loop", reason="the opponent needs peft")

from benchmarks.reference_parts import Compute, Federation, Images, Settings, State  # noqa: E402

# Both in double precision: in single, Adam magnifies rounding, which is the processor's own.
CLOSE = {"rtol": 0, "atol": 1e-8}
PREFIX = "base_model.model."
# By their name in the plain loop, groups of the server state.
GROUPS = {"image": "shared/image", "text": "text", "anchor": "anchor/image"}
# The reference has one batch size, which leaves a remainder for every client; a clip range narrow enough to act, and
# an uneven mix of anchor and received model.
TELLING = {"server": {"batch_size": 3}, "rl": {"clip": 0.02, "anchor_weight": 0.8}}


def same_settings(experiment, roles):
    rl = experiment.rl
    return Settings(
        rounds=experiment.rounds,
        sft_rounds=experiment.training.last_sft_round,
        sft_epochs=experiment.local.epochs,
        rl_epochs=rl.epochs,
        server_epochs=experiment.server.epochs,
        batch_size=experiment.local.batch_size,
        learning_rate=experiment.local.learning_rate,
        rank=experiment.lora.rank,
        lora_alpha=experiment.lora.alpha,
        group_size=rl.group_size,
        noise_std=rl.noise_std,
        clip=rl.clip,
        kl_weight=rl.kl_weight,
        anchor_weight=rl.anchor_weight,
        roles=roles,
    )


def same_images(federation):
    def images(table):
        pixels = federation.task.clip.image.preprocess([table.read(row) for row in range(len(table))])
        return Images(pixels, torch.from_numpy(table.labels))

    task = federation.task
    return Federation(
        [images(table) for table in federation.tables],
        images(federation.test_base),
        images(federation.test_novel),
        (torch.arange(4), torch.arange(0), torch.arange(4, 12)),
        prompts_for(task.class_names, task.prompt_template),
        prompts_for(("teapot", "ice cream"), task.prompt_template),
    )


def in_peft_names(factors):
    return {PREFIX + name: tensor for name, tensor in factors.items()}


def assert_same(theirs, ours):
    assert theirs.keys() == in_peft_names(ours).keys()
    for name, tensor in in_peft_names(ours).items():
        torch.testing.assert_close(theirs[name], tensor, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


def in_double(state):
    return replace(state, tensors={name: tensor.double() for name, tensor in state.tensors.items()})


@pytest.fixture
def build(double_federation, clip_folder):
    """A reference loop on the shared tiny federation, drawing what feddtl draws."""

    def make(experiment, roles="per-role", padding="longest"):
        def draws(purpose, *numbers):
            return torch_generator(double_federation.task.seed, purpose, *numbers)

        settings, compute = same_settings(experiment, roles), Compute("float64", evaluation_batch=4, padding=padding)
        images = same_images(double_federation)
        loop = reference_loop.ReferenceLoop(clip_folder, images, settings, compute, compute, draws)
        # It reads the scale from a file in single precision.
        loop.client.scale = loop.server.scale = double_federation.task.clip.logit_scale
        return loop

    return make


@pytest.mark.parametrize(
    ("round_number", "roles", "padding"),
    [(1, "per-role", "longest"), (1, "per-role", "max_length")]
    + [(3, roles, "longest") for roles in ("per-role", "per-sample", "once")],
)
def test_a_round_gives_feddtls_adapters(
    double_federation, make_experiment, randomised, build, round_number, roles, padding
):
    """SFT in round 1, RL in round 3: broadcast, losses, adapters, uplink, average, text training, scores."""
    experiment = make_experiment(**TELLING)
    method = build_method(double_federation.task, experiment)
    state = in_double(randomised(method.init_server(), round_number - 1))
    loop = build(experiment, roles, padding)
    groups = {group: select_prefix(state.tensors, GROUPS[group]) for group in GROUPS}
    theirs = State(**{group: in_peft_names(factors) for group, factors in groups.items()})

    payload, text = method.broadcast(state), loop.broadcast(theirs)
    torch.testing.assert_close(text, payload.tensors["text_embeddings"], **CLOSE)
    updates = [method.client_update(payload, data, {}) for data in double_federation.clients(method, torch.float64)]
    results = loop.local(theirs, text, round_number)
    for update, (adapter, embeddings, loss) in zip(updates, results, strict=True):
        assert update.metrics["loss"] == pytest.approx(loss, abs=CLOSE["atol"])
        assert_same(adapter, select_prefix(update.weights, "image"))
        torch.testing.assert_close(embeddings, update.samples["embeddings"], **CLOSE)

    after, their_after = server_step(method, state, updates).state, loop.aggregate(theirs, results, round_number)
    for group in ("image", "text", "anchor"):
        assert_same(getattr(their_after, group), select_prefix(after.tensors, GROUPS[group]))

    sets = double_federation.sets(method, torch.float64)
    models = {update.client: method.classifier(state, update) for update in updates}
    local = [accuracy(hits) for hits in share_hits(models, sets).values()]
    scores = score_global(method.classifier(after), sets, sum(local) / len(local))
    expected = {"local": scores.local, "base": scores.base, "novel": scores.novel}
    assert loop.evaluate(their_after, [adapter for adapter, _, _ in results], text) == pytest.approx(expected)


def test_whole_run_gives_feddtls_final_adapters(double_federation, make_experiment, build):
    """Both stages in turn, from the same fresh factors."""
    experiment = make_experiment(**TELLING)
    method = build_method(double_federation.task, experiment)
    state, loop = in_double(method.init_server()), build(experiment)
    start = {group: in_peft_names(select_prefix(state.tensors, GROUPS[group])) for group in GROUPS}
    loop.start = lambda: State(**start)
    clients = double_federation.clients(method, torch.float64)
    for _ in range(experiment.rounds):
        payload = method.broadcast(state)
        state = server_step(method, state, [method.client_update(payload, data, {}) for data in clients]).state
    final, records = loop.run()
    assert len(records) == experiment.rounds
    for group in ("image", "text", "anchor"):
        assert_same(getattr(final, group), select_prefix(state.tensors, GROUPS[group]))


@pytest.mark.slow
def test_bench_runs_end_to_end(tmp_path):
    """All quick measures, whole runs in child processes among them; a later call keeps the lines of an earlier one."""
    output = tmp_path / "results.json"
    options = ["--quick", "--repeats", "1", "--work", str(tmp_path / "work"), "--output", str(output)]
    command = [sys.executable, "-m", "benchmarks.bench"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, text=True)
    first = json.loads(output.read_text())["rows"]
    assert {"SFT local epoch, all clients", "Evaluation round", "Peak memory of that run"} <= first.keys()
    for row in first.values():
        # Times this short say nothing; a difference of two may even be negative.
        assert None not in (row["ours"], row["reference"], row["ratio"])
        assert row["machine"]["packages"]["peft"] != "missing"
        assert (row["met"] is None) == (not row["target"])
    assert str(tmp_path) not in output.read_text()

    subprocess.run([*command, "evaluation", *options], cwd=ROOT, check=True, capture_output=True, text=True)
    second = json.loads(output.read_text())["rows"]
    assert second.keys() == first.keys()
    assert second["Evaluation round"] != first["Evaluation round"]
    assert second["Growth: twice the images"] == first["Growth: twice the images"]
