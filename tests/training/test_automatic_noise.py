"""`rl.noise_std = "auto"`: each image's noise follows the norm of its feature."""

from __future__ import annotations

import pytest
import torch

from feddtl.methods.catalog import build_method


def update_of(federation, experiment, randomised):
    method = build_method(federation.task, experiment)
    state = randomised(method.init_server(), round_number=2)
    payload, data = method.broadcast(state), federation.clients(method)[0]
    norms = method.received_classifier(payload).encode_images(data.activations.all()).norm(dim=-1)
    return method.client_update(payload, data, {}), norms.detach()


@pytest.mark.parametrize("rollout", ["round", "epoch", "batch"])
def test_metric_is_the_mean_over_the_images(federation, make_experiment, randomised, rollout):
    """In the first epoch of a whole batch, roll-outs of every kind are drawn at the received model."""
    rl = {"noise_std": "auto", "rollout": rollout, "epochs": 1}
    experiment = make_experiment(rl=rl, local={"batch_size": 64})
    update, norms = update_of(federation, experiment, randomised)
    assert update.metrics["noise_std"] == pytest.approx(norms.mean().item() / 20.0, rel=1e-5)


def test_a_number_has_no_metric(federation, make_experiment, randomised):
    update, _ = update_of(federation, make_experiment(), randomised)
    assert "noise_std" not in update.metrics


def test_where_the_noise_enters_makes_no_difference(federation, make_experiment, randomised):
    """z + ‖z‖/s · ε has the direction of z/‖z‖ + ε/s, and only the direction of a noisy feature counts."""
    experiments = [make_experiment(rl={"noise_std": "auto", "noise_on": on}) for on in ("projected", "normalized")]
    (one, _), (other, _) = (update_of(federation, experiment, randomised) for experiment in experiments)
    assert one.metrics["all_equal_groups"] < 1
    for name, tensor in one.weights.items():
        torch.testing.assert_close(tensor, other.weights[name])


def test_number_of_the_mean_norm_teaches_as_much(federation, make_experiment, randomised):
    """The norms of a CLIP's features differ by little, so that one σ for all, mean ‖z‖/s, is nearly the same."""
    update, norms = update_of(federation, make_experiment(rl={"noise_std": "auto"}), randomised)
    number = norms.mean().item() / 20.0
    fixed, _ = update_of(federation, make_experiment(rl={"noise_std": number}), randomised)
    assert fixed.metrics["reward"] == pytest.approx(update.metrics["reward"], abs=0.1)
