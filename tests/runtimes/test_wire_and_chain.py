"""The wire's checks stand on both sides of the chain: what was sent, and what a transform made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from feddtl.config import UplinkConfig
from feddtl.messages import ExpectedUpdate, Payload, Update
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import Contract, RejectedMessageError
from feddtl.runtimes.wire.messages import (
    Reply,
    ReplyRequirements,
    pack_payload,
    pack_reply,
    unpack_payload,
    unpack_reply,
)
from feddtl.transforms.base import Exchange, RejectedUpdateError, Transform
from feddtl.transforms.chain import Chain

CONTRACT = Contract("m" * 64, "c" * 64)
RECEIVED = {"a": torch.randn(4, generator=torch.Generator().manual_seed(1))}


class Decoding(Transform):
    """Calls a function in place of decoding."""

    def __init__(self, decode):
        super().__init__(UplinkConfig())
        self._decode = decode

    def decode(self, update, exchange):
        return self._decode(update)


def required(decode=lambda update: update):
    """What a client with 5 images of 3 classes must send, through a chain that decodes like this."""
    expected = ExpectedUpdate(RECEIVED, {"embeddings": 4}, ("labels",))
    chain = Chain([Decoding(decode)])
    return ReplyRequirements(CONTRACT, 1, 3, ImageCounts(5, 4, 2), classes=3, expected=expected, chain=chain, seed=0)


def parcel_of(**samples):
    embeddings = normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(2)), dim=-1)
    samples = {"embeddings": embeddings, "labels": torch.tensor([0, 1, 2, 0, 1]), **samples}
    return pack_reply(Reply(Update(1, 5, dict(RECEIVED), samples, {"loss": 0.5})), 3, CONTRACT)


def never(update):
    raise AssertionError("A transform decoded what was not checked.")


BAD_SAMPLES = {
    "label": ({"labels": torch.tensor([0, 1, 2, 3, 0])}, "holds class 3"),
    "width": ({"embeddings": normalize(torch.ones(5, 3), dim=-1)}, r"has the shape \(5, 3\), not \(5, 4\)"),
    "length": ({"embeddings": torch.ones(5, 4)}, "length is 1 away from 1"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_samples_are_checked_before_a_transform_sees_them(case):
    samples, reason = BAD_SAMPLES[case]
    with pytest.raises(RejectedMessageError, match=reason):
        unpack_reply(parcel_of(**samples), required(never))


def test_weights_are_checked_before_a_transform_sees_them():
    parcel = parcel_of()
    parcel.arrays["weights/a"] = np.zeros(5, np.float32)
    with pytest.raises(RejectedMessageError, match=r"'weights/a' has the shape \(5,\), not \(4,\)"):
        unpack_reply(parcel, required(never))


DECODED = {
    "shape": (lambda update: replace(update, weights={"a": torch.zeros(5)}), r"'weights/a' has the shape \(5,\)"),
    "type": (lambda update: replace(update, weights={"a": torch.zeros(4).half()}), "'weights/a' holds torch.float16"),
    "label": (
        lambda update: replace(update, samples={**update.samples, "labels": torch.tensor([0, 1, 2, 3, 0])}),
        "holds class 3",
    ),
    "length": (
        lambda update: replace(update, samples={**update.samples, "embeddings": torch.ones(5, 4)}),
        "length is 1 away from 1",
    ),
}


@pytest.mark.parametrize("case", DECODED)
def test_what_a_transform_decoded_is_checked_again(case):
    decode, reason = DECODED[case]
    unpack_reply(parcel_of(), required())
    with pytest.raises(RejectedMessageError, match=reason):
        unpack_reply(parcel_of(), required(decode))


def test_a_broadcast_of_another_model_is_rejected():
    parcel = pack_payload(Payload(4, dict(RECEIVED)), replace(CONTRACT, model="x" * 64))
    with pytest.raises(RejectedMessageError, match="a different CLIP"):
        unpack_payload(parcel, CONTRACT)


def test_a_broadcast_that_half_precision_does_not_hold_is_not_sent():
    """The largest float16 is 65504."""
    with pytest.raises(RejectedMessageError, match="'a' is not finite in float16; nothing was sent"):
        pack_payload(Payload(4, {"a": torch.full((4,), 1e5)}), replace(CONTRACT, precision="float16"))


class Largest(Transform):
    """Sends the two largest changes of each tensor, and where they are."""

    summable = False

    def expected(self, expected):
        like = {"values": torch.zeros(2), "positions": torch.zeros(2, dtype=torch.int64)}
        weights = {f"{name}.{part}": tensor for name in expected.weights for part, tensor in like.items()}
        return replace(expected, weights=weights)

    def encode(self, update, exchange):
        weights = {}
        for name, tensor in update.weights.items():
            change = (tensor - exchange.received[name]).flatten()
            positions = change.abs().topk(2).indices
            weights |= {f"{name}.values": change[positions], f"{name}.positions": positions}
        return replace(update, weights=weights)

    def decode(self, update, exchange):
        weights = {}
        for name, received in exchange.received.items():
            positions = update.weights[f"{name}.positions"]
            if int(positions.min()) < 0 or int(positions.max()) >= received.numel():
                raise RejectedUpdateError(f"'{name}' has no value at {positions.tolist()}.")
            change = torch.zeros(received.numel()).index_put((positions,), update.weights[f"{name}.values"])
            weights[name] = received + change.reshape(received.shape)
        return replace(update, weights=weights)


def sparse_parcel():
    """What a client sends through `Largest`, what it must be, and the update before."""
    requirements = replace(required(), chain=Chain([Largest(UplinkConfig())]))
    change = torch.tensor([0.1, -3.0, 0.2, 2.0])
    samples = {"embeddings": normalize(torch.ones(5, 4), dim=-1), "labels": torch.zeros(5, dtype=torch.int64)}
    update = Update(1, 5, {"a": RECEIVED["a"] + change}, samples, {})
    sent = requirements.chain.encode(update, Exchange(1, 3, RECEIVED))
    return pack_reply(Reply(sent), 3, CONTRACT), requirements


def test_a_transform_may_send_other_tensors_than_it_got():
    parcel, requirements = sparse_parcel()
    reply = unpack_reply(parcel, requirements)
    torch.testing.assert_close(reply.update.weights["a"] - RECEIVED["a"], torch.tensor([0.0, -3.0, 0.0, 2.0]))
    assert reply.size == 2 * 4 + 2 * 8 + 5 * 4 * 4 + 5 * 8  # values, positions, embeddings, labels


@pytest.mark.parametrize("bad", [np.array([0, 4]), np.array([-1, 0]), np.array([0, 1, 2]), np.zeros(2, np.float32)])
def test_what_such_a_transform_sends_is_checked_like_any_other(bad):
    parcel, requirements = sparse_parcel()
    parcel.arrays["weights/a.positions"] = bad
    with pytest.raises(RejectedMessageError, match=r"'a' has no value at|'weights/a.positions'"):
        unpack_reply(parcel, requirements)
