"""Transforms: what the server gets of what a client sent, what is expected of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddtl.config import UplinkConfig
from feddtl.errors import ClientError, ConfigError
from feddtl.messages import ExpectedUpdate, Update, tensor_bytes
from feddtl.tensor_groups import update_norm
from feddtl.transforms.base import Aggregation, Exchange, RejectedUpdateError, Transform
from feddtl.transforms.catalog import TRANSFORMS, build_chain
from feddtl.transforms.chain import Chain


def random_tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {"a": scale * torch.randn(3, 5, generator=generator), "b": scale * torch.randn(7, generator=generator)}


def made_update(change=0.01, seed=0):
    """An update, and the exchange in which a client received what it started from."""
    received, moved = random_tensors(seed), random_tensors(seed + 1, change)
    weights = {name: received[name] + moved[name] for name in received}
    rows = torch.nn.functional.normalize(random_tensors(seed + 2)["a"], dim=-1)
    samples = {"embeddings": rows, "labels": torch.tensor([0, 2, 1])}
    return Update(4, 3, weights, samples, {"loss": 1.0}, {"own": torch.ones(2)}), Exchange(4, 2, received)


def chain_of(transforms, **settings):
    return build_chain(UplinkConfig(transforms=transforms, **settings))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_default_chain_leaves_an_usual_update_as_it_is_to_the_bit():
    update, exchange = made_update()
    chain = build_chain(UplinkConfig())
    sent = chain.encode(update, exchange)
    arrived = chain.decode(sent, exchange)
    for found in (sent, arrived):
        assert same(found.weights, update.weights)
        assert same(found.samples, update.samples)


@given(seed=st.integers(0, 10**6), change=st.sampled_from([1e-3, 0.1, 10.0]))
def test_float16_rounds_the_change_and_not_the_weight(seed, change):
    """float16 has 11 significant bits, and below 2^-14 a spacing of 2^-24."""
    update, exchange = made_update(change, seed)
    chain = chain_of("float16")
    sent = chain.encode(update, exchange)
    assert {tensor.dtype for tensor in sent.weights.values()} == {torch.float16}
    assert tensor_bytes(sent.weights) * 2 == tensor_bytes(update.weights)
    assert sent.samples["labels"].dtype == torch.int64
    arrived = chain.decode(sent, exchange)
    for name, tensor in update.weights.items():
        moved = (tensor - exchange.received[name]).abs()
        # The sum in float32 rounds once more.
        allowed = moved * 2**-11 + 2**-25 + tensor.abs() * 2**-22
        assert bool(((arrived.weights[name] - tensor).abs() <= allowed).all())
    assert arrived.samples["embeddings"].dtype == torch.float32


def test_a_value_that_float16_does_not_hold_is_not_sent():
    update, exchange = made_update()
    update.weights["a"][0, 0] = 1e6
    with pytest.raises(ClientError, match="'a' holds a value beyond 65504"):
        chain_of("float16").encode(update, exchange)


@given(seed=st.integers(0, 10**6), bound=st.floats(1e-3, 10))
def test_norm_bound_scales_a_larger_change_to_the_bound(seed, bound):
    update, exchange = made_update(1.0, seed)
    sent = chain_of("norm-bound", max_update_norm=bound).encode(update, exchange)
    before, after = update_norm(update.weights, exchange.received), update_norm(sent.weights, exchange.received)
    assert after == pytest.approx(min(before, bound), rel=1e-3, abs=1e-6)
    for name, tensor in sent.weights.items():  # the same direction
        moved = update.weights[name] - exchange.received[name]
        torch.testing.assert_close(
            tensor - exchange.received[name], moved * min(1, bound / before), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("factor", [1.01, 100.0, float("inf")])
def test_the_server_rejects_what_no_client_with_the_bound_sends(factor):
    update, exchange = made_update()
    bound = update_norm(update.weights, exchange.received)
    chain = chain_of("norm-bound", max_update_norm=bound)
    chain.decode(update, exchange)
    weights = {
        name: exchange.received[name] + factor * (w - exchange.received[name]) for name, w in update.weights.items()
    }
    with pytest.raises(RejectedUpdateError, match=r"uplink\.max_update_norm"):
        chain.decode(replace(update, weights=weights), exchange)


@pytest.mark.parametrize("transforms", ["norm-bound,float16", "float16", "", "norm-bound"])
def test_what_is_sent_is_what_is_expected(transforms):
    """Names, shapes and types: the checks of the wire go by them."""
    update, exchange = made_update(5.0)
    chain = chain_of(transforms, max_update_norm=1.0)
    expected = chain.expected(ExpectedUpdate(exchange.received, {"embeddings": 5}, ("labels",)))
    sent = chain.encode(update, exchange)
    assert sent.weights.keys() == expected.weights.keys()
    for name, tensor in sent.weights.items():
        assert (tensor.shape, tensor.dtype) == (expected.weights[name].shape, expected.weights[name].dtype)
    assert sent.samples["embeddings"].dtype == expected.embedding_type
    arrived = chain.decode(sent, exchange)
    assert (arrived.client, arrived.num_images, arrived.metrics) == (4, 3, {"loss": 1.0})
    assert same(arrived.personal, update.personal)
    for name, tensor in arrived.weights.items():
        assert (tensor.shape, tensor.dtype) == (exchange.received[name].shape, torch.float32)


class Noted(Transform):
    """Adds a number on the way there and writes down what it was asked."""

    def __init__(self, number, log):
        super().__init__(UplinkConfig())
        self.number, self.log = number, log

    def encode(self, update, exchange):
        self.log.append(("encode", self.number))
        return update

    def decode(self, update, exchange):
        self.log.append(("decode", self.number))
        return update

    def after_aggregation(self, aggregate, aggregation):
        self.log.append(("after", self.number, aggregation.clients))
        return {name: tensor + self.number for name, tensor in aggregate.items()}


class PromisesTooMuch(Transform):
    """Can protect a sum, and so refuses rows of single images."""

    summable = False

    def expected(self, expected):
        if expected.embeddings:
            raise ConfigError("Rows of single images cannot be hidden in a sum.")
        return expected


def test_members_go_in_order_on_the_client_and_in_reverse_on_the_server():
    log: list[tuple[object, ...]] = []
    chain = Chain([Noted(1, log), Noted(2, log)])
    update, exchange = made_update()
    chain.decode(chain.encode(update, exchange), exchange)
    aggregate = chain.after_aggregation({"a": torch.zeros(2)}, Aggregation(5, 1, 0))
    assert log == [("encode", 1), ("encode", 2), ("decode", 2), ("decode", 1), ("after", 2, 5), ("after", 1, 5)]
    assert aggregate["a"].tolist() == [3.0, 3.0]


def test_noise_after_aggregation_is_fresh_in_each_and_the_same_again():
    """A transform draws from the aggregation's own generator, so a resumed run adds the same noise."""

    def draw(aggregation, purpose="noise"):
        return torch.randn(5, generator=aggregation.generator(purpose)).tolist()

    assert draw(Aggregation(3, 1, 7)) == draw(Aggregation(2, 1, 7))
    others = [draw(Aggregation(3, 2, 7)), draw(Aggregation(3, 1, 8)), draw(Aggregation(3, 1, 7), "mask")]
    assert all(drawn != draw(Aggregation(3, 1, 7)) for drawn in others)


def test_a_chain_can_be_summed_if_all_members_can_and_refuses_what_one_refuses():
    assert all(build_chain(UplinkConfig(transforms=name)).summable for name in TRANSFORMS)
    chain = Chain([Noted(1, []), PromisesTooMuch(UplinkConfig())])
    assert not chain.summable
    chain.expected(ExpectedUpdate({"a": torch.zeros(2)}))
    with pytest.raises(ConfigError, match="Rows of single images"):
        chain.expected(ExpectedUpdate({"a": torch.zeros(2)}, {"embeddings": 5}, ("labels",)))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("float15", "uplink.transforms = 'float15' is unknown"),
        ("float16,float16", "each transform once"),
    ],
)
def test_settings_that_name_no_chain_are_refused(transforms, message):
    with pytest.raises(ConfigError) as error:
        UplinkConfig(transforms=transforms)
    assert message in f"{error.value.message} {error.value.hint}"
