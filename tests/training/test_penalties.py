"""FedProx's penalty against its formula, its gradient, and a round of every method."""

from __future__ import annotations

import pytest
import torch

from feddtl.config import LocalConfig
from feddtl.messages import Update
from feddtl.methods.catalog import METHODS, build_method
from feddtl.tensor_groups import update_norm
from feddtl.training.penalties import penalties_of, proximal_term


def test_proximal_term_and_gradient_by_hand():
    """μ/2 · (1² + 2² + 2²) = 0.6/2 · 9 = 2.7; its gradient is μ (w - w_global)."""
    received = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0])}
    tensors = {"a": torch.tensor([2.0, 3.0], requires_grad=True), "b": torch.tensor([-2.0], requires_grad=True)}
    own = {**tensors, "personal": torch.tensor([50.0], requires_grad=True)}
    term = proximal_term(own, received, 0.6)
    assert float(term.detach()) == pytest.approx(2.7)
    term.backward()
    torch.testing.assert_close(tensors["a"].grad, torch.tensor([0.6, 1.2]))
    torch.testing.assert_close(tensors["b"].grad, torch.tensor([-1.2]))
    assert own["personal"].grad is None


def test_no_weight_is_no_penalty():
    assert penalties_of(LocalConfig(), {"a": torch.zeros(1)}) == []
    assert len(penalties_of(LocalConfig(proximal_weight=0.1), {"a": torch.zeros(1)})) == 1


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.trains])
def test_every_method_stays_nearer_to_what_it_received(federation, make_experiment, name):
    def update(weight: float, optimizer: str = "sgd") -> tuple[Update, dict[str, torch.Tensor]]:
        # Two steps at the least: in the first one the client is where it started and the penalty is zero.
        local = {"proximal_weight": weight, "learning_rate": 0.05, "epochs": 6, "optimizer": optimizer, "batch_size": 4}
        method = build_method(federation.task, make_experiment(method=name, local=local))
        payload = method.broadcast(method.init_server())
        found = method.client_update(payload, federation.clients(method)[0], {})
        return found, method.expected_update(payload).weights

    (free, received), (held, _) = update(0.0), update(5.0)
    assert "penalty" not in free.metrics
    assert held.metrics["penalty"] > 0
    assert update_norm(held.weights, received) < update_norm(free.weights, received)
