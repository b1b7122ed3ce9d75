"""FedPPO: client selection by proximal policy optimisation, rewarded on validation images.

State: the global accuracy and every client's last accuracy (K + 1 numbers; 0 for a client that has not participated).
Action: m clients without replacement. Reward of a client: its accuracy, plus its share of the round's decrease of
the loss times the global accuracy.

Departures. The original measures on test images; here, each client measures on its own images that are not used for
training. Only participating clients measure: the model they receive (its mean accuracy over these clients is the
global accuracy of a round) and their own model after training. Each pick has its own reward, because shares sum to 1
and would cancel in a reward for the whole round. Network, initial values and the normalisation of advantages are
ours; the first policy is the uniform sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear

from feddtl.config import FedPPOConfig
from feddtl.models.lora import Tensors
from feddtl.objectives.ppo import (
    actor_critic_loss,
    discounted_returns,
    normalised,
    pick_log_probs,
    sample_without_replacement,
)
from feddtl.seeding import torch_generator
from feddtl.system.selection import Selector, Visit
from feddtl.tensor_groups import add_prefix, select_prefix


class PpoSelection(Selector):
    """A learned sample without replacement.

    Memory: `accuracies` (K + 1,), `network/…`, `adam/…`, and `rounds/…`, one row per round since the last update.

    Args:
        config: Network and PPO.
        clients: K.
        count: m, clients per round.
        seed: Seed of the run.
    """

    learns = True

    def __init__(self, config: FedPPOConfig, clients: int, count: int, seed: int) -> None:
        self._config = config
        self._clients = clients
        self._count = count
        self._seed = seed

    def choose(self, memory: Tensors, round_number: int) -> list[int]:
        """Sorted ids, drawn from the policy with this round's noise."""
        return sorted(self._picks(memory or self._first_memory(), round_number)[1].tolist())

    def observe(self, memory: Tensors, round_number: int, visits: Mapping[int, Visit]) -> Tensors:
        """Store the round's rewards, and every few rounds improve the policy with them.

        A round without any update carries no information and is not stored.
        """
        memory = memory or self._first_memory()
        if not visits:
            return memory
        logits, picks = self._picks(memory, round_number)
        earned = rewards(visits)
        row = {
            "states": memory["accuracies"],
            "picks": picks,
            "log_probs": pick_log_probs(logits[None], picks[None])[0],
            "rewards": torch.tensor([earned.get(client, 0.0) for client in picks.tolist()]),
            "arrived": torch.tensor([client in earned for client in picks.tolist()]),
        }
        before = select_prefix(memory, "rounds")
        rounds = {name: torch.cat([*([before[name]] if before else []), row[name][None]]) for name in row}
        accuracies = memory["accuracies"].clone()
        accuracies[0] = global_accuracy(visits)
        for client, visit in visits.items():
            accuracies[1 + client] = visit.accuracy
        learnt = {name: tensor for name, tensor in memory.items() if name.startswith(("network/", "adam/"))}
        if len(rounds["rewards"]) == self._config.update_every:
            learnt, rounds = self._improve(learnt, rounds, accuracies), {}
        return {**learnt, "accuracies": accuracies, **add_prefix("rounds", rounds)}

    def _first_memory(self) -> Tensors:
        """Hidden weights from N(0, 1/inputs), output weights 0: the first policy is uniform, the first value 0."""
        inputs, width = self._clients + 1, self._config.hidden_width
        network: Tensors = {}
        for part, outputs in (("actor", self._clients), ("critic", 1)):
            drawn = torch.randn(width, inputs, generator=torch_generator(self._seed, f"fedppo/{part}"))
            network |= {
                f"{part}/hidden/weight": drawn / inputs**0.5,
                f"{part}/hidden/bias": torch.zeros(width),
                f"{part}/output/weight": torch.zeros(outputs, width),
                f"{part}/output/bias": torch.zeros(outputs),
            }
        moments = {name: torch.zeros_like(tensor) for name, tensor in network.items()}
        return {
            "accuracies": torch.zeros(inputs),
            **add_prefix("network", network),
            **add_prefix("adam/mean", moments),
            **add_prefix("adam/square", {name: tensor.clone() for name, tensor in moments.items()}),
            "adam/steps": torch.tensor(0.0),
        }

    def _picks(self, memory: Tensors, round_number: int) -> tuple[Tensor, Tensor]:
        """Logits (K,) and picks (m,) in the order drawn."""
        logits = layers(select_prefix(memory, "network/actor"), memory["accuracies"])
        uniform = torch.rand(self._clients, generator=torch_generator(self._seed, "fedppo/picks", round_number))
        return logits, sample_without_replacement(logits, uniform, self._count)

    def _improve(self, learnt: Tensors, rounds: Tensors, last_state: Tensor) -> Tensors:
        """Network and Adam's moments after some epochs on all stored rounds at once."""
        config = self._config
        network = {name: tensor.clone().requires_grad_() for name, tensor in select_prefix(learnt, "network").items()}
        optimizer = restored_adam(network, learnt, config.learning_rate)
        returns, advantages = self._targets(network, rounds, last_state)
        for _ in range(config.epochs):
            loss = actor_critic_loss(
                pick_log_probs(layers(select_prefix(network, "actor"), rounds["states"]), rounds["picks"]),
                rounds["log_probs"],
                advantages,
                layers(select_prefix(network, "critic"), rounds["states"])[:, 0],
                returns,
                rounds["arrived"],
                config.clip,
                config.value_weight,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return saved_adam(network, optimizer)

    @torch.no_grad()
    def _targets(self, network: Tensors, rounds: Tensors, last_state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (T,) of the rounds' mean rewards, and advantages (T, m) = r + γ R_{t+1} - V(s_t), normalised."""
        arrived, critic = rounds["arrived"], select_prefix(network, "critic")
        mean_rewards = (rounds["rewards"] * arrived).sum(dim=1) / arrived.sum(dim=1)  # (T,)
        returns = discounted_returns(mean_rewards, self._config.discount, layers(critic, last_state)[0])  # (T + 1,)
        values = layers(critic, rounds["states"])  # (T, 1)
        advantages = rounds["rewards"] + self._config.discount * returns[1:, None] - values
        return returns[:-1], normalised(advantages, arrived)


def rewards(visits: Mapping[int, Visit]) -> dict[int, float]:
    """r_k = accuracy_k + Δ_k/Σ Δ · global accuracy, with Δ_k = max(0, decrease of the loss by k's training)."""
    decreases = {client: max(0.0, visit.received_loss - visit.loss) for client, visit in visits.items()}
    total, accuracy = sum(decreases.values()), global_accuracy(visits)
    return {
        client: visit.accuracy + (decreases[client] / total * accuracy if total else 0.0)
        for client, visit in visits.items()
    }


def global_accuracy(visits: Mapping[int, Visit]) -> float:
    """Accuracy of the broadcast model on all validation images of the participating clients."""
    images = sum(visit.images for visit in visits.values())
    return sum(visit.received_accuracy * visit.images for visit in visits.values()) / images


def layers(network: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """W₂ tanh(W₁ x + b₁) + b₂: (..., K + 1) -> (..., outputs)."""
    hidden = torch.tanh(linear(inputs, network["hidden/weight"], network["hidden/bias"]))
    return linear(hidden, network["output/weight"], network["output/bias"])


def restored_adam(network: Mapping[str, Tensor], saved: Tensors, learning_rate: float) -> torch.optim.Adam:
    """Adam that continues with the moments of `saved_adam`."""
    optimizer = torch.optim.Adam(network.values(), lr=learning_rate)
    for name, parameter in network.items():
        optimizer.state[parameter] = {
            "step": saved["adam/steps"].clone(),
            "exp_avg": saved[f"adam/mean/{name}"].clone(),
            "exp_avg_sq": saved[f"adam/square/{name}"].clone(),
        }
    return optimizer


def saved_adam(network: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> Tensors:
    """Parameters as `network/…`, moments as `adam/mean/…` and `adam/square/…`, and `adam/steps`."""
    states = {name: optimizer.state[parameter] for name, parameter in network.items()}
    return {
        **add_prefix("network", {name: parameter.detach() for name, parameter in network.items()}),
        **add_prefix("adam/mean", {name: state["exp_avg"] for name, state in states.items()}),
        **add_prefix("adam/square", {name: state["exp_avg_sq"] for name, state in states.items()}),
        "adam/steps": next(iter(states.values()))["step"],
    }
