"""Weighted averages of client updates against loops in double precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.aggregators.base import client_drift, sample_shares
from feddtl.aggregators.catalog import AGGREGATORS, build_aggregator
from feddtl.aggregators.product import Product
from feddtl.config import ServerConfig
from feddtl.messages import Update
from feddtl.tensor_groups import update_norm

LAYERS = {"a": (6, 5), "b": (4, 7)}


def combined(name, updates, **settings):
    if name == "product":
        return Product(ServerConfig()).combine(updates).tensors
    return build_aggregator(ServerConfig(aggregator=name, **settings)).combine(updates).tensors


def of_lora(updates, rank, name):
    """The aggregate, which must have the updates' rank."""
    found = combined(name, updates)
    assert all(tensor.shape[0] == rank for key, tensor in found.items() if "lora_A" in key)
    return found


def make_updates(counts, seed=0, rank=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        Update(
            client,
            count,
            {
                name + suffix: torch.randn(shape, generator=generator)
                for name, (rows, columns) in LAYERS.items()
                for suffix, shape in ((".lora_A.weight", (rank, columns)), (".lora_B.weight", (rows, rank)))
            },
        )
        for client, count in enumerate(counts)
    ]


def product(weights, layer):
    return weights[f"{layer}.lora_B.weight"].double() @ weights[f"{layer}.lora_A.weight"].double()


def test_average_by_hand():
    """Clients with 1 and 3 images: (1·2 + 3·10)/4 = 8 and (1·(-4) + 3·0)/4 = -1."""
    updates = [
        Update(0, 1, {"w": torch.tensor([2.0, -4.0])}),
        Update(1, 3, {"w": torch.tensor([10.0, 0.0])}),
    ]
    assert sample_shares(updates) == [0.25, 0.75]
    assert combined("mean", updates)["w"].tolist() == [8.0, -1.0]


def test_unweighted_mean_by_hand():
    """Clients with 1 and 3 images count alike: (2 + 10)/2 = 6 and (-4 + 0)/2 = -2."""
    updates = [
        Update(0, 1, {"w": torch.tensor([2.0, -4.0])}),
        Update(1, 3, {"w": torch.tensor([10.0, 0.0])}),
    ]
    assert combined("unweighted-mean", updates)["w"].tolist() == [6.0, -2.0]


@given(counts=st.lists(st.integers(1, 10_000), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_average_equals_a_loop_in_double_precision(counts, seed):
    updates = make_updates(counts, seed)
    average = combined("mean", updates)
    assert average.keys() == updates[0].weights.keys()
    for name, tensor in average.items():
        expected = torch.zeros(tensor.shape, dtype=torch.float64)
        for position in itertools.product(*map(range, tensor.shape)):
            for update in updates:
                expected[position] += update.num_images / sum(counts) * update.weights[name][position].item()
        assert tensor.dtype == torch.float32
        # Accumulated in float64, so the only error is the rounding to float32 at the end.
        torch.testing.assert_close(tensor.double(), expected, rtol=6e-8, atol=1e-12)


def test_many_equal_clients_average_to_themselves_exactly():
    """A sum in float32 of a thousand times 1/1000 would drift."""
    weights = make_updates([1])[0].weights
    updates = [Update(client, 7, weights) for client in range(1000)]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in combined("mean", updates).items())


@pytest.mark.parametrize("how", ["mean", "product"])
def test_average_leaves_the_updates_alone_and_is_no_alias(how):
    """A known fault of released code: the sum is built in a client's own tensors, and the last client wins."""
    updates = make_updates([3, 5, 2])
    before = [{name: tensor.clone() for name, tensor in update.weights.items()} for update in updates]
    average = of_lora(updates, 2, how)
    for tensor in average.values():
        tensor.fill_(99.0)
    for update, weights in zip(updates, before, strict=True):
        assert all(torch.equal(update.weights[name], weights[name]) for name in weights)


@pytest.mark.parametrize("how", ["mean", "product"])
def test_every_client_counts_and_none_wins(how):
    """Moving any one client moves the average, and the average is no client."""
    updates = make_updates([3, 5, 2])
    average = of_lora(updates, 2, how)
    for index, update in enumerate(updates):
        assert not torch.allclose(product(average, "a"), product(update.weights, "a"), atol=1e-2)
        moved = {name: tensor + 0.5 for name, tensor in update.weights.items()}
        changed = [*updates[:index], Update(update.client, update.num_images, moved), *updates[index + 1 :]]
        assert not torch.allclose(product(of_lora(changed, 2, how), "a"), product(average, "a"), atol=1e-2)


@pytest.mark.parametrize("how", ["mean", "product"])
def test_order_of_updates_does_not_matter(how):
    updates = make_updates([3, 5, 2])
    expected = of_lora(updates, 2, how)
    for order in itertools.permutations(updates):
        for layer in LAYERS:
            torch.testing.assert_close(
                product(of_lora(order, 2, how), layer), product(expected, layer), rtol=1e-4, atol=1e-5
            )


def test_product_average_is_the_best_approximation_of_the_mean_product():
    """Σ N_k/N · B_k A_k as a dense matrix, cut at the rank by SVD; the mean of factors is something else."""
    updates = make_updates([3, 5, 2])
    averaged = of_lora(updates, 2, "product")
    for layer in LAYERS:
        dense = sum(update.num_images / 10 * product(update.weights, layer) for update in updates)
        u, s, vh = torch.linalg.svd(dense)
        torch.testing.assert_close(product(averaged, layer), (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-4, atol=1e-5)
        by_factors = product(of_lora(updates, 2, "mean"), layer)
        assert (by_factors - dense).norm() > (product(averaged, layer) - dense).norm()
        assert averaged[f"{layer}.lora_A.weight"].shape[0] == 2


def test_one_client_is_its_own_average_either_way():
    update = make_updates([4])
    for layer in LAYERS:
        own = product(update[0].weights, layer)
        for how in ("mean", "product"):
            torch.testing.assert_close(product(of_lora(update, 2, how), layer), own, rtol=1e-5, atol=1e-6)


def test_update_norm_by_hand():
    """Differences (3, 0) and (0, 4) over two tensors: √(9 + 16) = 5."""
    weights = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([[0.0, 6.0]])}
    start = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[0.0, 2.0]])}
    assert update_norm(weights, start) == 5.0


def test_client_drift_by_hand():
    """Clients at 0 and 4 with 1 and 3 images: mean 3, distances 3 and 1, weighted (1·3 + 3·1)/4 = 1.5."""
    updates = [Update(0, 1, {"w": torch.tensor([0.0])}), Update(1, 3, {"w": torch.tensor([4.0])})]
    assert client_drift(build_aggregator(ServerConfig()), updates, combined("mean", updates)) == 1.5


def test_drift_of_equal_products_is_zero_whatever_their_factors():
    """B·A = (2B)·(A/2): the factors differ, the model does not."""
    [update] = make_updates([5])
    other = {name: tensor * (2.0 if "lora_B" in name else 0.5) for name, tensor in update.weights.items()}
    updates = [update, Update(1, 3, other)]
    aggregator = Product(ServerConfig())
    assert client_drift(aggregator, updates, aggregator.combine(updates).tensors) < 1e-2
    assert client_drift(build_aggregator(ServerConfig()), updates, combined("mean", updates)) > 0.5


def test_drift_of_products_is_their_distance_in_full():
    updates = make_updates([5, 2, 4])
    aggregator = Product(ServerConfig())
    aggregate = aggregator.combine(updates).tensors
    distances = [
        sum(float((product(update.weights, layer) - product(aggregate, layer)).square().sum()) for layer in LAYERS)
        ** 0.5
        for update in updates
    ]
    expected = sum(n * distance for n, distance in zip((5, 2, 4), distances, strict=True)) / 11
    assert client_drift(aggregator, updates, aggregate) == pytest.approx(expected, rel=1e-5)


def column(*values):
    """Clients with a number each, and with very different numbers of images."""
    return [Update(i, 10**i, {"w": torch.tensor([value, -value])}) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"), [((3.0, -1.0, 100.0), 3.0), ((3.0, -1.0, 100.0, 5.0), 4.0), ((7.0,), 7.0)]
)
def test_median_by_hand(values, expected):
    """The middle value, or the mean of the two in the middle; numbers of images do not count."""
    assert combined("median", column(*values))["w"].tolist() == [expected, -expected]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 22.0), (0.19, 22.0), (0.2, 4.0), (0.4, 3.0)],
)
def test_trimmed_mean_by_hand(share, expected):
    """Of 1, 3, 8, 98, 0: nothing dropped, 110/5; one at each end, (1 + 3 + 8)/3; two, 3."""
    found = combined("trimmed-mean", column(1.0, 3.0, 8.0, 98.0, 0.0), trim_share=share)
    torch.testing.assert_close(found["w"], torch.tensor([expected, -expected]))


@pytest.mark.parametrize("name", [*AGGREGATORS, "product"])
def test_an_aggregate_shares_memory_with_no_update(name):
    updates = make_updates([3, 1, 7])
    before = [{key: tensor.clone() for key, tensor in update.weights.items()} for update in updates]
    for tensor in combined(name, updates).values():
        tensor.fill_(99.0)
    for update, kept in zip(updates, before, strict=True):
        assert all(torch.equal(update.weights[key], kept[key]) for key in kept)
