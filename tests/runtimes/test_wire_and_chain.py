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
from feddtl.transforms.base import Transform
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
