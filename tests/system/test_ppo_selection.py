"""FedPPO's rewards and memory by hand, and that the policy moves to the clients that earn more."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors.torch import load, save

from feddtl.config import FedPPOConfig
from feddtl.system.ppo_selection import PpoSelection, global_accuracy, rewards
from feddtl.system.selection import Visit

CLIENTS, COUNT = 6, 2


def selector(seed=0, **changes):
    return PpoSelection(FedPPOConfig(**changes), CLIENTS, COUNT, seed)


def visit(accuracy, received_loss=1.0, loss=1.0, received_accuracy=0.5, images=4):
    return Visit(received_accuracy, received_loss, accuracy, loss, images)


def play(chooser, rounds, earn, memory=None, first=1):
    """Memory after rounds from `first` on, in which a client's accuracy is `earn(client)`."""
    memory = memory or {}
    for number in range(first, first + rounds):
        chosen = chooser.choose(memory, number)
        memory = chooser.observe(memory, number, {client: visit(earn(client)) for client in chosen})
    return memory


def test_rewards_by_hand():
    """Decreases 0.3, 0.1 and none (a rise counts as none); global accuracy (4·0.5 + 12·0.75 + 4·0.25)/20 = 0.6.

    r = 0.8 + 3/4 · 0.6 = 1.25, 0.5 + 1/4 · 0.6 = 0.65, and 0.9 alone.
    """
    visits = {
        0: Visit(0.5, 1.3, 0.8, 1.0, 4),
        3: Visit(0.75, 1.1, 0.5, 1.0, 12),
        4: Visit(0.25, 1.0, 0.9, 2.0, 4),
    }
    assert global_accuracy(visits) == pytest.approx(0.6)
    assert rewards(visits) == pytest.approx({0: 1.25, 3: 0.65, 4: 0.9})


def test_where_no_loss_fell_the_reward_is_the_accuracy():
    assert rewards({1: visit(0.25, loss=2.0)}) == {1: 0.25}


def test_the_first_policy_is_uniform_and_of_the_seed():
    """1,500 rounds of 2 of 6 without learning: each client 500 times, standard deviation 18."""
    counts = Counter(client for number in range(1500) for client in selector().choose({}, number))
    assert all(abs(counts[client] - 500) < 4 * 19 for client in range(CLIENTS))
    drawn = [[selector(seed).choose({}, number) for number in range(20)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(chosen == sorted(set(chosen)) and len(chosen) == COUNT for chosen in drawn[0])


def test_what_is_remembered_of_a_round():
    """Accuracies of those that took part, the reward of each pick, and which pick was lost."""
    chooser = selector()
    chosen = chooser.choose({}, 1)
    arrived, _ = chosen
    memory = chooser.observe({}, 1, {arrived: visit(0.75)})
    expected = torch.zeros(1 + CLIENTS)
    expected[0], expected[1 + arrived] = 0.5, 0.75
    assert torch.equal(memory["accuracies"], expected)
    picks = memory["rounds/picks"][0].tolist()
    assert sorted(picks) == chosen
    assert memory["rounds/rewards"][0, picks.index(arrived)] == 0.75
    assert memory["rounds/arrived"][0].tolist() == [pick == arrived for pick in picks]
    # The uniform policy: one of six, then one of the five that are left.
    assert memory["rounds/log_probs"][0].exp().tolist() == pytest.approx([1 / 6, 1 / 5])
    assert torch.equal(memory["rounds/states"][0], torch.zeros(1 + CLIENTS))


def test_a_round_without_arrivals_is_not_remembered():
    chooser = selector()
    before = play(chooser, 2, lambda client: 0.5)
    after = chooser.observe(before, 3, {})
    assert {name: tensor.tolist() for name, tensor in after.items()} == {n: t.tolist() for n, t in before.items()}


def test_the_policy_is_updated_every_few_rounds_and_starts_to_collect_again():
    chooser = selector(update_every=3)
    before, after = play(chooser, 2, lambda client: client / 6), play(chooser, 3, lambda client: client / 6)
    assert len(before["rounds/rewards"]) == 2
    assert not before["adam/steps"]
    assert "rounds/rewards" not in after
    assert float(after["adam/steps"]) == 5
    assert not torch.equal(after["network/actor/output/bias"], before["network/actor/output/bias"])
    following = play(chooser, 1, lambda client: 0.5, after, first=4)
    assert len(following["rounds/rewards"]) == 1


def test_the_critic_learns_the_discounted_mean_rewards():
    """One update on three rounds of mean reward 0.6, 0.2 and 0.4, γ = 0.5, and a critic that says 0 at the start.

    Returns: 0.4, 0.2 + 0.2 = 0.4, 0.6 + 0.2 = 0.8. After many steps the critic says so of the three states.
    """
    chooser = selector(update_every=3, epochs=400, discount=0.5, learning_rate=0.05, value_weight=1.0)
    memory, states = {}, []
    for number, accuracy in ((1, 0.6), (2, 0.2), (3, 0.4)):
        states.append(memory.get("accuracies", torch.zeros(1 + CLIENTS)))
        chosen = chooser.choose(memory, number)
        visits = {client: visit(accuracy, received_accuracy=accuracy) for client in chosen}
        memory = chooser.observe(memory, number, visits)
    weight, bias, out, out_bias = (
        memory[f"network/critic/{name}"] for name in ("hidden/weight", "hidden/bias", "output/weight", "output/bias")
    )
    values = torch.tanh(torch.stack(states) @ weight.T + bias) @ out.T + out_bias
    assert values[:, 0].tolist() == pytest.approx([0.8, 0.4, 0.4], abs=0.02)


def test_clients_that_earn_more_are_chosen_more_often():
    """Clients 4 and 5 earn 1, the others 0. Uniformly they would be a third of the choices."""
    chooser = selector(learning_rate=0.03)
    memory = play(chooser, 150, lambda client: float(client >= 4))
    late = Counter(client for number in range(200) for client in chooser.choose(memory, 1000 + number))
    assert (late[4] + late[5]) / 400 > 0.6


@pytest.mark.parametrize("done", [1, 4, 5, 7])
def test_a_memory_that_was_written_and_read_goes_on_alike(done):
    chooser = selector()
    whole = play(chooser, 12, lambda client: client / 6)
    half = load(save(play(chooser, done, lambda client: client / 6)))
    resumed = play(selector(), 12 - done, lambda client: client / 6, half, first=1 + done)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
