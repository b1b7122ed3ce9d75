"""The first RL round: its reference is the received model, so the KL is 0 until the model has moved, bit for bit.

Adam's first step has the size of the learning rate however small the gradient is, so that rounding in the reference
would move a model that has nothing to learn.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from feddtl.backbones.clip import load_clip
from feddtl.messages import ServerState
from feddtl.methods.catalog import build_method
from feddtl.models.kernels import Kernels
from feddtl.models.towers import BlockStack
from feddtl.tensor_groups import add_prefix, select_prefix

OPTIONS = [
    {},
    {"kl": "exact", "rollout": "epoch"},
    {"reference": "probabilities", "anchor_weight": 0.3, "rollout": "batch"},
    {"anchor_weight": 0.7, "kl": "exact"},
]
# pFedMMA has personal tensors.
CASES = [("feddtl", options) for options in OPTIONS] + [("fedlora", OPTIONS[1]), ("pfedmma", OPTIONS[2])]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def any_federation(request, federation, clip_folder):
    """The tiny federation with blocks in either precision."""
    clip = load_clip(str(clip_folder))
    clip.use(Kernels(request.param))
    return replace(federation, task=replace(federation.task, clip=clip))


def first_rl_round(federation, experiment, randomised, together, anchor_too=True):
    """The updates of all clients in round 3, the first RL round, by `together` clients a step."""
    method = build_method(federation.task, experiment)
    state = randomised(method.init_server(), round_number=2)
    if anchor_too:
        anchor = add_prefix("anchor", select_prefix(state.tensors, "shared"))
        state = ServerState(2, {**state.tensors, **anchor})
    payload, clients = method.broadcast(state), federation.clients(method)
    starts = range(0, len(clients), together)
    groups = [clients[start : start + together] for start in starts]
    return [update for group in groups for update in method.client_updates(payload, group, [{}] * len(group))]


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
@pytest.mark.parametrize(("together", "batch_size"), [(1, 3), (3, 3), (3, 64)])
def test_without_noise_nothing_moves(
    any_federation, make_experiment, randomised, method, together, batch_size, options
):
    """σ = 0: every group is all-equal. Clients of 7, 5 and 6 images: full batches and ragged ones."""
    experiment = make_experiment(
        method=method,
        schedule={"sft_rounds": 2, "stages": "sft-then-rl"},
        rl={"noise_std": 0.0, **options},
        local={"batch_size": batch_size, "optimizer": "adam"},
    )
    for update in first_rl_round(any_federation, experiment, randomised, together):
        assert update.metrics["kl"] == 0
        assert update.metrics["gradient_norm"] == 0
        assert update.metrics["update_norm"] == 0


@pytest.mark.parametrize("together", [1, 3])
def test_passes_make_no_difference(any_federation, make_experiment, randomised, monkeypatch, together):
    """Batches of 3 images, or of three clients' 9, in passes of two."""
    monkeypatch.setattr(BlockStack, "sequences_per_pass", lambda stack, tokens: 2)
    updates = first_rl_round(any_federation, make_experiment(rl={"noise_std": 0.0}), randomised, together)
    assert [update.metrics["update_norm"] for update in updates] == [0, 0, 0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("together", [1, 3])
def test_kl_is_zero_before_the_first_step_and_not_after_it(
    any_federation, make_experiment, randomised, together, options
):
    """With noise there is something to learn: one step sees a KL of 0, and the next ones another."""

    def kl(epochs):
        rl = {"noise_std": 1.0, "epochs": epochs, **options}
        experiment = make_experiment(rl=rl, local={"batch_size": 64})
        updates = first_rl_round(any_federation, experiment, randomised, together)
        assert all(update.metrics["update_norm"] > 1e-3 for update in updates)
        return [update.metrics["kl"] for update in updates]

    assert kl(epochs=1) == [0, 0, 0]
    assert all(value > 1e-9 for value in kl(epochs=2))


def test_reference_without_a_share_of_the_anchor_is_the_received_model(any_federation, make_experiment, randomised):
    """Whatever the anchor is, in every RL round."""
    experiment = make_experiment(rl={"noise_std": 0.0, "anchor_weight": 0.0})
    updates = first_rl_round(any_federation, experiment, randomised, 3, anchor_too=False)
    assert [update.metrics["update_norm"] for update in updates] == [0, 0, 0]


def test_another_anchor_acts_at_once(any_federation, make_experiment, randomised):
    """An anchor that differs in one number of one tensor is another model."""
    experiment = make_experiment(rl={"noise_std": 0.0}, local={"batch_size": 64})
    method = build_method(any_federation.task, experiment)
    state = randomised(method.init_server(), round_number=2)
    anchor = add_prefix("anchor", select_prefix(state.tensors, "shared"))
    name = next(name for name in anchor if "lora_B" in name)
    anchor[name] = anchor[name].clone()
    anchor[name][0, 0] += 1.0
    payload = method.broadcast(ServerState(2, {**state.tensors, **anchor}))
    update = method.client_update(payload, any_federation.clients(method)[0], {})
    assert update.metrics["kl"] > 0
    assert update.metrics["update_norm"] > 1e-3
