"""Algebra of low-rank factors against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feddtl.models.lora import Lora, LoraGroup, LowRank, grouped, init_factors, layer_names, mix, stacked, truncate

SHAPES = {"block.q_proj": (6, 9), "block.fc1": (11, 9)}


def product(factors, layer):
    return factors[f"{layer}.lora_B.weight"].double() @ factors[f"{layer}.lora_A.weight"].double()


def test_adapted_layer_by_hand():
    """W x + b = 16 with x = (4, 1), A = [[1, -1]], B = [[3]], scaling 0.5: A x = 3, B·3 = 9, halved 4.5; sum 20.5."""
    lora = Lora({"l.lora_A.weight": torch.tensor([[1.0, -1.0]]), "l.lora_B.weight": torch.tensor([[3.0]])}, 0.5)
    x, plain = torch.tensor([[4.0, 1.0]]), torch.tensor([[16.0]])
    assert lora.low_rank("l").add_to(plain, x).item() == 20.5
    assert lora.low_rank("l").add_to(plain, x, gain=2.0).item() == 25.0
    assert lora.low_rank("another") is None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("which", [(0, 1, 2), (0, 2), (1,)], ids=str)
def test_stacked_layers_are_the_layers_side_by_side(which, masked):
    """Three layers of width 4 on inputs of width 5, some without an adapter; mask of two sequences."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[1, 0], [0, 1]]) if masked else None
    parts = [LowRank(draw(2, 5), draw(4, 2), mask) if layer in which else None for layer in range(3)]
    x, plain = draw(2, 3, 5), draw(2, 3, 12)
    each = [
        output if part is None else part.add_to(output, x)
        for part, output in zip(parts, plain.split(4, dim=-1), strict=True)
    ]
    torch.testing.assert_close(stacked(parts, 4).add_to(plain, x), torch.cat(each, dim=-1), rtol=0, atol=1e-12)
    assert stacked([None, None], 4) is None


def random_lora(generator, scaling=1.5):
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 5), (4, 2)))
    return Lora({"l.lora_A.weight": a.requires_grad_(), "l.lora_B.weight": b.requires_grad_()}, scaling)


def test_gradients_of_the_adapter_pass_gradcheck():
    generator = torch.Generator().manual_seed(0)
    lora = random_lora(generator)
    x = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def adapted(a, b, x, plain):
        factors = {"l.lora_A.weight": a, "l.lora_B.weight": b}
        return Lora(factors, 1.5).low_rank("l").add_to(plain, x)

    assert torch.autograd.gradcheck(adapted, (*lora.factors.values(), x, plain))


@pytest.mark.parametrize("between", [(), (7,), (2, 3)], ids=["row", "tokens", "heads"])
def test_group_gives_every_sequence_its_owners_adapter(between):
    """Values and gradients against each member alone, for tensors (B, d), (B, S, d) and (B, heads, S, d)."""
    generator = torch.Generator().manual_seed(1)
    members = [random_lora(generator) for _ in range(3)]
    owners = torch.tensor([0, 2, 2, 1, 0])
    x, plain = (torch.randn(5, *between, width, generator=generator, dtype=torch.float64) for width in (5, 4))
    together = LoraGroup(members, owners).low_rank("l").add_to(plain, x)
    alone = torch.stack(
        [members[k].low_rank("l").add_to(plain[i : i + 1], x[i : i + 1])[0] for i, k in enumerate(owners.tolist())]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    leaves = [factor for member in members for factor in member.factors.values()]
    weights = torch.randn(together.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((result * weights).sum(), leaves) for result in (together, alone))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_group_of_one_is_the_member_itself():
    lora = random_lora(torch.Generator().manual_seed(0))
    assert grouped([lora], torch.zeros(3, dtype=torch.long)) is lora
    assert LoraGroup([lora, lora], torch.zeros(3, dtype=torch.long)).low_rank("another") is None


def test_initial_factors_follow_kaiming_uniform_with_zero_b():
    """a = √5 gives the bound gain·√(3/n) = √(2/6)·√(3/n) = 1/√n; the variance of U(-h, h) is h²/3."""
    columns = 400
    factors = init_factors({"layer": (7, columns)}, rank=50, seed=3)
    a = factors["layer.lora_A.weight"]
    bound = 1 / math.sqrt(columns)
    assert a.shape == (50, columns)
    assert torch.equal(factors["layer.lora_B.weight"], torch.zeros(7, 50))
    assert 0.999 * bound < a.abs().max() <= bound
    # 20,000 draws: four standard errors of mean and variance.
    assert abs(a.mean()) < 4 * bound / math.sqrt(3 * a.numel())
    assert a.var() == pytest.approx(bound**2 / 3, rel=0.03)


def test_initial_factors_depend_on_seed_and_layer_only():
    """A layer's factors do not change when other layers come or go."""
    factors = init_factors(SHAPES, rank=4, seed=0)
    alone = init_factors({"block.fc1": (11, 9)}, rank=4, seed=0)
    assert torch.equal(factors["block.fc1.lora_A.weight"], alone["block.fc1.lora_A.weight"])
    assert not torch.equal(factors["block.fc1.lora_A.weight"], factors["block.q_proj.lora_A.weight"])
    assert not torch.equal(
        factors["block.fc1.lora_A.weight"], init_factors(SHAPES, rank=4, seed=1)["block.fc1.lora_A.weight"]
    )


def test_layer_names_are_sorted_and_without_suffix():
    assert layer_names(init_factors(SHAPES, rank=1, seed=0)) == ["block.fc1", "block.q_proj"]


@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40)
def test_mix_is_the_weighted_sum_of_products(random_factors, ranks, weights, seed):
    """Σ_i w_i B_i A_i summed in float64, with parts of different ranks; the ranks add up."""
    parts = [random_factors(SHAPES, rank, seed + index) for index, rank in enumerate(ranks)]
    weights = weights[: len(ranks)]
    mixed = mix(parts, weights)
    for layer in SHAPES:
        expected = sum(w * product(part, layer) for part, w in zip(parts, weights, strict=True))
        assert mixed[f"{layer}.lora_A.weight"].shape[0] == sum(ranks)
        torch.testing.assert_close(product(mixed, layer), expected, rtol=1e-12, atol=1e-14)


def test_mix_refuses_a_missing_weight(random_factors):
    with pytest.raises(ValueError, match="zip"):
        mix([random_factors(SHAPES), random_factors(SHAPES, seed=1)], [1.0])


@given(summed=st.integers(1, 8), wanted=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_truncate_is_the_best_approximation_of_its_rank(random_factors, summed, wanted, seed):
    """Eckart-Young: the SVD of the dense product, cut at the rank, is the nearest matrix of that rank."""
    factors = random_factors(SHAPES, summed, seed)
    truncated = truncate(factors, wanted)
    for layer, (rows, columns) in SHAPES.items():
        u, s, vh = torch.linalg.svd(product(factors, layer))
        rank = min(wanted, summed, rows, columns)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(product(truncated, layer), best, rtol=1e-9, atol=1e-12)
        assert truncated[f"{layer}.lora_A.weight"].shape == (rank, columns)
        assert truncated[f"{layer}.lora_B.weight"].shape == (rows, rank)


def test_truncate_splits_the_singular_values_evenly(random_factors):
    """A row j and B column j both have the norm √s_j."""
    factors = random_factors(SHAPES, 3)
    truncated = truncate(factors, 3)
    singular = torch.linalg.svdvals(product(factors, "block.fc1"))[:3]
    torch.testing.assert_close(truncated["block.fc1.lora_A.weight"].norm(dim=1), singular.sqrt())
    torch.testing.assert_close(truncated["block.fc1.lora_B.weight"].norm(dim=0), singular.sqrt())
