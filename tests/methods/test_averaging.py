"""What the compared methods have in common: what is sent, what is kept, and for how long."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from compared import COMPARED, PERSONAL_METHODS

from feddtl.backbones.clip import load_clip
from feddtl.checkpoints import read_checkpoint, write_checkpoint
from feddtl.config import ScheduleConfig
from feddtl.messages import tensor_bytes
from feddtl.methods.catalog import build_method
from feddtl.models.kernels import Kernels
from feddtl.runtimes.runtime import Progress, Runtime
from feddtl.system.selection import choose_clients
from feddtl.tensor_groups import add_prefix, select_prefix

# Numbers shared at width 32, 24 features, 4 and 3 blocks, byte-level tokens: 16 · 32; 3 · (7 · 32 + 32 · 32 + 32);
# 16 · 32; 2 groups · 2 · (32 + 32); 3 · (32 · 32 + 32); 2 · (24 · 24 + 24).
SHARED = {"promptfl": 512, "fedmaple": 3_840, "fedpgp": 512, "fedmgp": 256, "pfedmma": 3_168, "fedclip": 1_200}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def course(federation, experiment, start=None, rounds=None):
    """Every `Progress` of a run, the first one included."""
    experiment = replace(experiment, rounds=rounds or experiment.rounds, schedule=ScheduleConfig(stages="sft"))
    method = build_method(federation.task, experiment)
    seen = [start or Progress(method.init_server())]
    runtime = Runtime(method, federation.clients(method), federation.sets(method), experiment)
    runtime.run(seen[0], seen.append)
    return seen


def untimed(record):
    """As it is read back from a checkpoint, where the keys of a JSON object are text."""
    return json.loads(json.dumps({key: value for key, value in record.to_dict().items() if key != "seconds"}))


def assert_same_end(ours, theirs):
    assert ours.state.round == theirs.state.round
    assert equal(ours.state.tensors, theirs.state.tensors)
    assert ours.personal.keys() == theirs.personal.keys()
    assert all(equal(ours.personal[client], theirs.personal[client]) for client in ours.personal)
    assert [untimed(record) for record in ours.records] == [untimed(record) for record in theirs.records]


@pytest.mark.parametrize("method", COMPARED)
def test_only_what_is_shared_travels(federation, make_experiment, method):
    """Four bytes a number, up and down, for each of three clients; personal tensors cost nothing and are not sent."""
    [_, progress] = course(federation, make_experiment(method=method), rounds=1)
    [record] = progress.records
    assert record.bytes_up == record.bytes_down == 3 * 4 * SHARED[method]
    assert tensor_bytes(progress.state.tensors) == 4 * SHARED[method]
    assert sorted(progress.personal) == ([0, 1, 2] if method in PERSONAL_METHODS else [])
    for personal in progress.personal.values():
        assert not personal.keys() & select_prefix(progress.state.tensors, "shared").keys()


@pytest.mark.parametrize("method", COMPARED)
def test_an_update_changes_neither_what_was_sent_nor_what_was_kept(federation, make_experiment, method):
    method = build_method(federation.task, make_experiment(method=method))
    payload, kept = method.broadcast(method.init_server()), method.initial_personal(0)
    before = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in (payload.tensors, kept)]
    update = method.client_update(payload, federation.clients(method)[0], kept)
    assert equal(payload.tensors, before[0])
    assert equal(kept, before[1])
    assert not equal(update.weights, payload.tensors)


@pytest.mark.parametrize("method", PERSONAL_METHODS)
def test_a_client_that_sits_out_keeps_its_own(federation, make_experiment, method):
    """Two of three clients take part in a round: they change what they keep, the third does not."""
    experiment = make_experiment(method=method, participation=0.5, rounds=6)
    seen = course(federation, experiment)
    waited = 0
    for before, after in pairwise(seen):
        chosen = choose_clients(3, 0.5, 3, after.state.round)
        assert len(chosen) == 2
        for client in range(3):
            old, new = before.personal.get(client), after.personal.get(client)
            if client in chosen:
                assert new is not None
                assert old is None or not equal(old, new)
            else:
                assert (old is None) == (new is None)
                assert old is None or equal(old, new)
                waited += old is not None
    assert waited > 0


@pytest.mark.parametrize("method", PERSONAL_METHODS)
def test_a_round_goes_on_from_what_the_client_kept(federation, make_experiment, method):
    experiment = make_experiment(method=method)
    [_, first, second] = course(federation, experiment, rounds=2)
    method = build_method(federation.task, experiment)
    data = federation.clients(method)[1]
    payload = method.broadcast(first.state)
    assert equal(method.client_update(payload, data, first.personal[1]).personal, second.personal[1])
    assert not equal(method.client_update(payload, data, {}).personal, second.personal[1])
    assert not equal(method.client_update(payload, data, first.personal[0]).personal, second.personal[1])


@pytest.mark.parametrize("method", COMPARED)
def test_resumed_from_a_checkpoint_it_ends_in_the_same_state(federation, make_experiment, method, tmp_path):
    experiment = make_experiment(method=method, participation=0.5)
    whole = course(federation, experiment)
    for done in (1, 2, 3):
        folder = tmp_path / str(done)
        folder.mkdir()
        write_checkpoint(folder, whole[done])
        start = read_checkpoint(folder)
        assert_same_end(start, whole[done])
        assert list(start.state.tensors) == list(whole[done].state.tensors)
        assert_same_end(course(federation, experiment, start)[-1], whole[-1])


@pytest.mark.parametrize("method", PERSONAL_METHODS)
def test_the_local_metric_is_of_the_clients_own_model(federation, make_experiment, method):
    """With what it keeps: its logits differ from those of what it sent alone."""
    method = build_method(federation.task, make_experiment(method=method, local={"learning_rate": 0.5}))
    state = method.init_server()
    update = method.client_update(method.broadcast(state), federation.clients(method)[0], {})
    sent = replace(state, tensors=add_prefix("shared", update.weights))
    activations = federation.clients(method)[0].activations.all()
    own, without = (
        found.image_features(activations) @ found.text_embeddings(federation.task.class_names).T
        for found in (method.classifier(state, update), method.classifier(sent))
    )
    assert (own - without).abs().max() > 1e-5


@pytest.mark.parametrize("method", COMPARED)
def test_blocks_in_bfloat16_train_float32_tensors(federation, make_experiment, clip_folder, method):
    """bfloat16 has 8 bits: the first losses agree within a tenth; what is trained and sent stays float32."""
    losses, experiment = [], make_experiment(method=method, local={"batch_size": 64, "epochs": 1})
    for precision in (None, torch.bfloat16):
        clip = load_clip(str(clip_folder))
        clip.use(Kernels(precision=precision))
        task = replace(federation.task, clip=clip)
        method = build_method(task, experiment)
        data = replace(federation, task=task).clients(method)[0]
        update = method.client_update(method.broadcast(method.init_server()), data, {})
        tensors = [*update.weights.values(), *update.personal.values()]
        trained = [tensor for tensor in tensors if tensor.is_floating_point()]
        assert {tensor.dtype for tensor in trained} == {torch.float32}
        assert all(bool(tensor.isfinite().all()) for tensor in trained)
        losses.append(update.metrics["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    if method != "fedclip":  # whose features are made before, in float32 here as there
        assert losses[1] != losses[0]


@pytest.mark.parametrize("method", ["promptfl", "fedpgp", "fedclip"])
def test_without_a_block_to_pass_a_batch_goes_through_at_once(federation, make_experiment, method, monkeypatch):
    monkeypatch.setattr(type(federation.task.clip.image), "images_per_pass", property(lambda self: 2))
    method = build_method(federation.task, make_experiment(method=method, local={"batch_size": 9}))
    assert method.images_per_pass == 9
    assert method.classifier(method.init_server()).images_per_pass == 9
