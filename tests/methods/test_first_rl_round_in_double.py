"""FedLoRA's first RL round where it is most sensitive, in single precision against the slow loop in double.

s = 100, σ = 2, rate 1e-2, and a first batch whose groups are all equal: its gradient is zero, and Adam makes a step of
0.01 in every factor of whatever rounding leaves of it. With a reference that is only equal up to rounding, the loss of
the second step is 5.6 (4.2) instead of 0, and those of the round are 0.76 and 0.75 instead of 2.31 and 0.61.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from slow_rounds import SlowClip, slow_rl

from feddtl.messages import ServerState
from feddtl.methods.catalog import build_method
from feddtl.models.text_tower import prompts_for
from feddtl.tensor_groups import add_prefix, select_prefix

SCALE = 100.0


def at_scale(federation):
    task = federation.task
    return replace(federation, task=replace(task, clip=replace(task.clip, logit_scale=SCALE)))


@pytest.mark.parametrize(("seed", "loss"), [(0, 2.3084), (1, 0.6100)])
def test_single_precision_follows_double(federation, double_federation, make_experiment, seed, loss):
    """Client 0 has seven images; in batches of two, the first two batches of a round have 2 and 1 or 0 equal groups."""
    experiment = make_experiment(
        method="fedlora",
        rl={"noise_std": 2.0, "epochs": 3, "group_size": 3},
        local={"learning_rate": 1e-2, "batch_size": 2},
    )
    single, double = at_scale(federation), at_scale(double_federation)
    method = build_method(single.task, experiment)
    generator = torch.Generator().manual_seed(seed)
    shared = {
        name: tensor + 0.03 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in method.init_server().tensors.items()
        if name.startswith("shared/")
    }
    shared = select_prefix(shared, "shared")
    state = ServerState(2, {**add_prefix("shared", shared), **add_prefix("anchor", shared)})
    update = method.client_update(method.broadcast(state), single.clients(method)[0], {})

    slow = SlowClip(double.task.clip, prompts_for(single.task.class_names, single.task.prompt_template), scaling=1.5)
    slow.scale = SCALE
    labels = double.tables[0].labels.tolist()
    factors, metrics = slow_rl(slow, shared, shared, slow.text_embeddings, double.pixels(0), labels, experiment, 0, 3)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-4)
    for name in ("loss", "policy_objective", "kl", "mean_ratio"):
        assert update.metrics[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-5), name
    for name in ("reward", "all_equal_groups", "clip_fraction"):
        assert update.metrics[name] == pytest.approx(metrics[name], abs=1e-6), name
    moved = torch.cat([(factors[name].detach() - shared[name]).flatten() for name in shared])
    ours = torch.cat([(update.weights[name] - shared[name]).flatten() for name in shared])
    assert (ours - moved).norm() < 1e-3 * moved.norm()
