"""Who takes part in a round."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from feddtl.system.selection import UniformSample, choose_clients


def test_choice_of_clients_is_seeded_and_differs_by_round():
    first = [choose_clients(20, 0.2, 7, number) for number in range(1, 30)]
    assert first == [choose_clients(20, 0.2, 7, number) for number in range(1, 30)]
    assert len({tuple(chosen) for chosen in first}) > 20
    assert first != [choose_clients(20, 0.2, 8, number) for number in range(1, 30)]


@example(clients=100, percent=7, number=1)
@given(clients=st.integers(1, 120), percent=st.integers(1, 100), number=st.integers(1, 50))
def test_choice_has_the_size_that_was_asked_for(clients, percent, number):
    """⌈p·K⌉ in exact integers: 7 % of 100 clients are 7, although 0.07 * 100 is 7.000000000000001."""
    chosen = choose_clients(clients, percent / 100, 0, number)
    assert len(chosen) == -(-percent * clients // 100)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(clients))


def test_choice_of_a_tiny_share_is_one_client():
    assert len(choose_clients(10, 1e-12, 0, 1)) == 1


def test_clients_are_chosen_uniformly():
    """2,000 rounds of 2 of 5: each client 800 times, standard deviation √(2000·0.4·0.6) = 22."""
    counts = Counter(client for number in range(2000) for client in choose_clients(5, 0.4, 0, number))
    assert all(abs(counts[client] - 800) < 4 * 22 for client in range(5))


def test_a_uniform_sample_is_that_of_the_seed_and_the_round():
    selector = UniformSample(20, 0.2, 7)
    assert [selector.choose({}, number) for number in (1, 2)] == [choose_clients(20, 0.2, 7, n) for n in (1, 2)]
    assert selector.observe({}, 1, {}) == {}


def test_with_a_share_of_one_everyone_takes_part():
    for number in (1, 2):
        assert UniformSample(5, 1.0, 0).choose({}, number) == [0, 1, 2, 3, 4]
