"""What averaging factors leaves out, and residuals, against dense matrices in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.models.averaging import anonymous, averaging_error, averaging_residual, product_norm
from feddtl.models.lora import Lora, LoraGroup
from feddtl.models.peft_format import load_adapter, save_adapter
from feddtl.models.residual import as_factors, grown, joined, of_one_rank

LAYERS = {"image/a": (6, 5), "text/b": (4, 9)}


def factors(seed, rank=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        name + suffix: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, (rows, columns) in LAYERS.items()
        for suffix, shape in ((".lora_A.weight", (rank, columns)), (".lora_B.weight", (rows, rank)))
    }


def dense(some):
    return {
        layer: some[f"{layer}.weight"]
        if f"{layer}.weight" in some
        else some[f"{layer}.lora_B.weight"] @ some[f"{layer}.lora_A.weight"]
        for layer in LAYERS
    }


def mean(tensors, shares):
    return sum(share * tensor for share, tensor in zip(shares, tensors, strict=True))


def norm(matrices):
    return sum(float(matrix.square().sum()) for matrix in matrices.values()) ** 0.5


@given(counts=st.lists(st.integers(1, 1000), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_the_residual_and_the_error_are_those_of_dense_products(counts, seed):
    clients = [factors(seed + client) for client in range(len(counts))]
    shares = [count / sum(counts) for count in counts]
    whole = {layer: mean([dense(client)[layer] for client in clients], shares) for layer in LAYERS}
    averaged = dense({name: mean([client[name] for client in clients], shares) for name in clients[0]})
    expected = {layer: whole[layer] - averaged[layer] for layer in LAYERS}
    residual = averaging_residual(clients, shares)
    for layer in LAYERS:
        torch.testing.assert_close(dense(residual)[layer], expected[layer], rtol=1e-9, atol=1e-12)
        assert len(residual[f"{layer}.lora_A.weight"]) == 2 * (len(counts) - 1)
    assert product_norm(clients[0]) == pytest.approx(norm(dense(clients[0])))
    assert averaging_error(clients, shares) == pytest.approx(norm(expected) / norm(whole), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("same", ["lora_A", "lora_B"])
def test_factors_of_which_one_is_common_are_averaged_without_error(same):
    common = factors(99)
    clients = [{n: common[n] if same in n else t for n, t in factors(seed).items()} for seed in range(4)]
    assert averaging_error(clients, [0.1, 0.2, 0.3, 0.4]) < 1e-15


def test_anonymous_factors_follow_from_the_product_alone():
    """B·A = (B M)(M⁻¹ A): other factors of the same products give the same, up to the sign of a direction."""
    some, other = factors(1), factors(1)
    turn = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double()
    for layer in LAYERS:
        other[f"{layer}.lora_B.weight"] = other[f"{layer}.lora_B.weight"] @ turn
        other[f"{layer}.lora_A.weight"] = turn.inverse() @ other[f"{layer}.lora_A.weight"]
    ours, theirs = anonymous(some), anonymous(other)
    for layer in LAYERS:
        torch.testing.assert_close(dense(ours)[layer], dense(some)[layer])
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.abs(), theirs[name].abs())
    one = anonymous(averaging_residual([some], [1.0]))
    assert all(tensor.numel() == 0 for tensor in one.values())


def test_nothing_has_no_error():
    nothing = {name: torch.zeros_like(tensor) for name, tensor in factors(0).items()}
    assert averaging_error([nothing, nothing], [0.5, 0.5]) == 0.0


def test_a_residual_is_kept_in_the_smaller_form():
    """Rank 2 of 6 × 5 are 22 numbers of 30, rank 4 are 44; rank 2 of 4 × 9 are 26 of 36."""
    one, two = factors(1), factors(2)
    first = grown({}, one, torch.float64)
    assert first.keys() == one.keys()
    second = grown(first, two, torch.float64)
    assert set(second) == {"image/a.weight", "text/b.weight"}
    third = grown(second, two, torch.float64)
    for layer in LAYERS:
        expected = dense(one)[layer] + 2 * dense(two)[layer]
        torch.testing.assert_close(dense(third)[layer], expected)
        torch.testing.assert_close(dense(as_factors(third))[layer], expected)
        torch.testing.assert_close(dense(joined(factors(3), third))[layer], expected + dense(factors(3))[layer])
    assert joined(one, {}).keys() == one.keys()
    nothing = averaging_residual([one], [1.0])
    assert grown({}, nothing, torch.float64) == {}
    for before in (first, second):
        kept = grown(before, nothing, torch.float64)
        assert kept.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())


@pytest.mark.parametrize("rank", [1, 2, 12])
def test_factors_of_one_rank_have_the_same_products(rank):
    """Of 6 × 5 and 4 × 9 the smaller sides are 5 and 4, so five directions are enough for any product."""
    some = factors(4, rank)
    some["text/b.lora_A.weight"], some["text/b.lora_B.weight"] = torch.ones(1, 9).double(), torch.ones(4, 1).double()
    equal = of_one_rank(some)
    assert {len(tensor) for name, tensor in equal.items() if "lora_A" in name} == {min(rank, 5)}
    for layer in LAYERS:
        torch.testing.assert_close(dense(equal)[layer], dense(some)[layer])


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_adapter_with_a_residual_is_written_as_one_of_a_higher_rank(tmp_path, rounds):
    own, residual = factors(5), {}
    for seed in range(rounds):
        residual = grown(residual, factors(seed), torch.float64)
    save_adapter(tmp_path / "adapter", Lora(own, 1.5, as_factors(residual)), "clip")
    read = load_adapter(tmp_path / "adapter")
    assert not read.residual
    assert read.scaling == 1.5
    for layer in LAYERS:
        torch.testing.assert_close(dense(read.factors)[layer], dense(own)[layer] + dense(residual)[layer])


def test_several_adapters_share_a_residual():
    """Rows of a batch with their owner's adapter, and the residual once for all."""
    residual = as_factors(grown({}, factors(9), torch.float64))
    members = [Lora(factors(seed), 1.5, residual) for seed in range(3)]
    owners = torch.tensor([2, 0, 0, 1])
    inputs = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = LoraGroup(members, owners).low_rank("image/a")
    found = change.add_to(torch.zeros(4, 3, 6, dtype=torch.float64), inputs)
    for row, owner in enumerate(owners.tolist()):
        weight = 1.5 * (dense(members[owner].factors)["image/a"] + dense(residual)["image/a"])
        torch.testing.assert_close(found[row], inputs[row] @ weight.T)
