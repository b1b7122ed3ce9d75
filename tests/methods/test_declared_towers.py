"""What a method declares in `client_towers` and `server_towers` is enough for either party."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import feddtl.preparation as preparation
from feddtl.backbones.clip import load_clip
from feddtl.methods.catalog import METHODS, build_method, method_class
from feddtl.models.kernels import Kernels
from feddtl.runtimes.server_step import server_step


def with_towers(federation, experiment, towers):
    task = federation.task
    return build_method(replace(task, clip=load_clip(task.clip.source, towers=towers)), experiment)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.trains])
def test_a_round_with_them_is_equal_to_one_with_the_whole_model(federation, make_experiment, method):
    """Server state, broadcast, update and aggregate, to the last bit."""
    experiment, kind = make_experiment(method=method), method_class(method)
    whole = build_method(federation.task, experiment)
    server = with_towers(federation, experiment, kind.server_towers)
    client = with_towers(federation, experiment, kind.client_towers)
    data = federation.clients(whole)[0]
    state = server.init_server()
    assert_equal(state.tensors, whole.init_server().tensors)
    payload = server.broadcast(state)
    assert_equal(payload.tensors, whole.broadcast(state).tensors)
    update, expected = (side.client_update(payload, data, {}) for side in (client, whole))
    for part in ("weights", "samples", "personal"):
        assert_equal(getattr(update, part), getattr(expected, part))
    assert_equal(server_step(server, state, [update]).state.tensors, server_step(whole, state, [update]).state.tensors)
    assert server.trained_parameters() == client.trained_parameters() == whole.trained_parameters()


def test_feddtl_declares_one_tower_each():
    assert method_class("feddtl").client_towers == {"image"}
    assert method_class("feddtl").server_towers == {"text"}


@pytest.mark.parametrize("towers", [frozenset({"text"}), frozenset({"image"}), None])
def test_kernels_are_measured_on_an_image_tower_that_is_there(make_experiment, clip, monkeypatch, towers):
    """Also by a server that keeps the text tower alone; they are the same for all parties."""
    measured = []

    def choose(clip, first_block, precision, attention, folder):
        measured.append(clip.image.stack.is_loaded)
        return Kernels(None, "eager")

    monkeypatch.setattr(preparation, "choose_kernels", choose)
    experiment = make_experiment(method="feddtl", model=clip.source)
    loaded = preparation.load_model(experiment, towers=towers)
    assert measured == [True]
    assert loaded.image.stack.is_loaded == (towers != {"text"})
    assert loaded.text.stack.kernels.attention == "eager"
    preparation.load_model(experiment, Kernels(None, "sdpa"), towers)
    assert measured == [True]
