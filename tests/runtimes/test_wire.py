"""Parcels: what goes in comes out, and nothing that was tampered with gets through."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from feddtl.config import Experiment, UplinkConfig
from feddtl.errors import ClientError
from feddtl.evaluate import HitCounts, Scores
from feddtl.messages import ExpectedUpdate, Payload, Update
from feddtl.methods.catalog import build_method
from feddtl.models.backbone import Backbone
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError
from feddtl.runtimes.wire.messages import (
    Reply,
    ReplyRequirements,
    pack_counts,
    pack_image_counts,
    pack_payload,
    pack_reply,
    unpack_counts,
    unpack_image_counts,
    unpack_payload,
    unpack_reply,
)
from feddtl.runtimes.wire.values import accuracies
from feddtl.transforms.base import Exchange
from feddtl.transforms.catalog import build_chain
from feddtl.transforms.chain import Chain


def chain_of(transforms: str) -> Chain:
    return build_chain(UplinkConfig(transforms=transforms, max_update_norm=10.0))


CONTRACT = Contract("m" * 64, "c" * 64)
SENT = {"b": torch.zeros(2, 3), "a": torch.zeros(4)}
TERMS = ReplyRequirements(
    CONTRACT, client=1, round=3, images=ImageCounts(5, 4, 2), classes=3,
    expected=ExpectedUpdate(SENT, {"embeddings": 4}, ("labels",)), chain=chain_of("norm-bound"), seed=0,
)  # fmt: skip
HALF_TERMS = replace(TERMS, chain=chain_of("norm-bound,float16"))


def half_reply(update: Update) -> Parcel:
    """A reply whose update passed the transform to 16-bit floats."""
    return pack_reply(Reply(HALF_TERMS.chain.encode(update, Exchange(1, 3, SENT))), 3, CONTRACT)


def make_update(seed: int = 0, rows: int = 5) -> Update:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in SENT.items()}
    samples = {
        "embeddings": normalize(torch.randn(rows, 4, generator=generator), dim=-1),
        "labels": torch.randint(3, (rows,), generator=generator),
    }
    return Update(1, 5, weights, samples, {"loss": 0.5}, personal={"U": torch.ones(2)})


def equal(ours, theirs):
    """The same names in the same order, and the same values."""
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_an_update_comes_out_as_it_went_in_but_for_what_is_personal(seed, rows):
    update = make_update(seed, rows)
    reply = unpack_reply(pack_reply(Reply(update), 3, CONTRACT), TERMS)
    found = reply.update
    assert equal(found.weights, update.weights)
    assert equal(found.samples, update.samples)
    assert (found.client, found.num_images, found.metrics) == (1, 5, {"loss": 0.5})
    assert (found.personal, reply.counts, reply.own, reply.scores) == ({}, None, None, None)


@given(st.integers(0, 2**31))
def test_half_precision_is_off_by_half_a_unit_in_the_last_place_at_most(seed):
    """float16 has 11 significant bits: relative error up to 2^-11, absolute 2^-25 near zero."""
    update = make_update(seed)
    reply = unpack_reply(half_reply(update), HALF_TERMS)
    found = reply.update
    assert reply.size == sum(a.nbytes for a in half_reply(update).arrays.values())
    for name, tensor in update.weights.items():
        assert found.weights[name].dtype == torch.float32
        assert bool(((found.weights[name] - tensor).abs() <= tensor.abs() * 2**-11 + 2**-25).all())
    assert torch.equal(found.samples["labels"], update.samples["labels"])


def test_a_broadcast_comes_out_as_it_went_in():
    payload = Payload(4, {**SENT, "labels": torch.tensor([1, 2])})
    found = unpack_payload(pack_payload(payload, CONTRACT), CONTRACT)
    assert found.round == 4
    assert equal(found.tensors, payload.tensors)


def test_large_arrays_are_not_copied_where_nothing_is_to_be_converted():
    """An update of 64 MB would be held twice on each side; what may not be written, as torch demands, is copied."""
    update = make_update()
    parcel = pack_reply(Reply(update), 3, CONTRACT)
    found = unpack_reply(parcel, TERMS).update
    for kind in ("weights", "samples"):
        for name, tensor in getattr(found, kind).items():
            assert np.shares_memory(parcel.arrays[f"{kind}/{name}"], getattr(update, kind)[name].numpy())
            assert tensor.data_ptr() == getattr(update, kind)[name].data_ptr()
    parcel.arrays["weights/a"].flags.writeable = False
    found = unpack_reply(parcel, TERMS).update
    assert not np.shares_memory(parcel.arrays["weights/a"], found.weights["a"].numpy())
    assert torch.equal(found.weights["a"], update.weights["a"])


def test_weights_that_overflow_are_too_far():
    """(3e38)^2 is beyond float32: infinitely far, and not 'not a number'."""
    with pytest.raises(RejectedMessageError, match="The weights are inf away from what was broadcast"):
        unpack_reply(parcel_with({"weights/a": np.full(4, 3e38, np.float32)}), TERMS)


@pytest.mark.parametrize(
    "method", ["feddtl", "fedlora", "fedpgp", "promptfl", "fedmaple", "fedmgp", "pfedmma", "fedclip"]
)
@pytest.mark.parametrize("round_number", [1, 3], ids=["sft", "rl"])
def test_every_method_s_own_updates_pass(federation, make_experiment, method, round_number):
    """What `expected_update` says is what `client_update` gives, for every method and stage."""
    experiment = make_experiment(method=method)
    method = build_method(federation.task, experiment)
    payload = method.broadcast(replace(method.init_server(), round=round_number - 1))
    contract = Contract.of(federation.task, experiment)
    update = method.client_update(payload, federation.clients(method)[2], {})
    terms = ReplyRequirements(
        contract, 2, round_number, ImageCounts(6, 0), 3, method.expected_update(payload), build_chain(UplinkConfig()), 3
    )
    found = unpack_reply(pack_reply(Reply(update), round_number, contract), terms).update
    assert equal(found.weights, update.weights)
    assert equal(found.samples, update.samples)


def test_a_contract_follows_model_classes_and_prompt(federation):
    task = federation.task
    ours = Contract.of(task, Experiment())
    assert ours == Contract.of(replace(task, seed=9), Experiment())
    for other in (
        replace(task, class_names=task.class_names[::-1]),
        replace(task, prompt_template="a {class}"),
    ):
        assert Contract.of(other, Experiment()).classes != ours.classes
    assert Contract.of(other, Experiment()).model == ours.model


def test_other_weights_are_another_model(federation, make_clip):
    from feddtl.backbones.clip import load_clip

    other = replace(federation.task, clip=load_clip(str(make_clip(image_blocks=3))))
    assert Contract.of(other, Experiment()).model != Contract.of(federation.task, Experiment()).model


def test_another_tokenizer_or_preprocessor_is_another_model(federation, monkeypatch):
    """Both sides would read other texts or see other images."""
    ours, identity = Contract.of(federation.task, Experiment()), federation.task.clip.identity()
    for part in ("tokenizer", "preprocessing", "text_tower"):
        changed = {**identity, part: "another"}
        monkeypatch.setattr(Backbone, "identity", lambda clip, changed=changed: changed)
        assert Contract.of(federation.task, Experiment()).model != ours.model


def parcel_with(arrays=None, scalars=None, metrics=None):
    parcel = pack_reply(Reply(make_update()), 3, CONTRACT)
    return Parcel(
        {**parcel.arrays, **(arrays or {})},
        {**parcel.scalars, **(scalars or {})},
        {**parcel.metrics, **(metrics or {})},
    )


def without(name):
    parcel = parcel_with()
    return Parcel({key: array for key, array in parcel.arrays.items() if key != name}, parcel.scalars)


BAD = {
    "schema": (parcel_with(scalars={"schema": 1}), "schema is 1, not 5"),
    "no schema": (parcel_with(scalars={"schema": None}), "schema is None, not 5"),
    "schema as truth": (parcel_with(scalars={"schema": True}), "schema is True, not 5"),
    "model": (parcel_with(scalars={"model": "x"}), "a different CLIP"),
    "classes": (parcel_with(scalars={"classes": "x"}), "different classes"),
    "precision": (parcel_with(scalars={"precision": "float16"}), "a different precision"),
    "round": (parcel_with(scalars={"round": 2}), "round is 2, not 3"),
    "client": (parcel_with(scalars={"client": 0}), "client is 0, not 1"),
    "images": (parcel_with(scalars={"images": 6}), "images is 6, not 5"),
    "images as float": (parcel_with(scalars={"images": 5.0}), "images is 5.0, not a whole number"),
    "missing": (without("weights/b"), "Tensor 1 is 'weights/a', not 'weights/b'"),
    "missing last": (without("samples/labels"), "Tensor 4 is nothing, not 'samples/labels'"),
    "extra": (parcel_with({"weights/c": np.zeros(1, np.float32)}), "There are 5 tensors, not 4"),
    "order": (
        Parcel(dict(reversed(parcel_with().arrays.items())), parcel_with().scalars),
        "Tensor 1 is 'samples/labels', not 'weights/b'",
    ),
    "shape": (parcel_with({"weights/b": np.zeros((3, 2), np.float32)}), r"'weights/b' has the shape \(3, 2\)"),
    "double": (parcel_with({"weights/b": np.zeros((2, 3))}), "'weights/b' is float64"),
    "text": (parcel_with({"weights/b": np.full((2, 3), "x")}), "'weights/b' is <U1"),
    "whole weights": (parcel_with({"weights/b": np.zeros((2, 3), np.int64)}), "'weights/b' holds torch.int64"),
    "NaN in a wrong shape": (parcel_with({"weights/a": np.full(7, np.nan, np.float32)}), r"has the shape \(7,\)"),
    "NaN": (parcel_with({"weights/a": np.full(4, np.nan, np.float32)}), "'weights/a' holds NaN"),
    "infinite": (parcel_with({"samples/embeddings": np.full((5, 4), -np.inf, np.float32)}), "holds NaN or infinite"),
    "far": (parcel_with({"weights/a": np.full(4, 6, np.float32)}), "away from what was broadcast"),
    "long rows": (parcel_with({"samples/embeddings": np.ones((5, 4), np.float32)}), "length is 1 away from 1"),
    "more rows": (
        parcel_with({"samples/embeddings": np.full((6, 4), 0.5, np.float32), "samples/labels": np.zeros(6, np.int64)}),
        r"\[6\] rows, not one number from 1 to 5",
    ),
    "no rows": (
        parcel_with({"samples/embeddings": np.zeros((0, 4), np.float32), "samples/labels": np.zeros(0, np.int64)}),
        r"\[0\] rows",
    ),
    "uneven rows": (parcel_with({"samples/labels": np.zeros(4, np.int64)}), r"\[4, 5\] rows"),
    "no dimension": (parcel_with({"samples/labels": np.array(1)}), r"\[-1, 5\] rows"),
    "label above": (parcel_with({"samples/labels": np.array([0, 1, 2, 3, 0])}), "holds class 3, .* 0 to 2"),
    "label below": (parcel_with({"samples/labels": np.array([0, 1, 2, -1, 0])}), "holds class -1"),
    "labels as numbers": (
        parcel_with({"samples/labels": np.zeros(5, np.float32)}),
        "holds torch.float32, not torch.int64",
    ),
    "metric": (parcel_with(metrics={"loss": math.inf}), "The metric 'loss' is inf"),
    "metric list": (parcel_with(metrics={"loss": [1.0]}), "not a finite number"),
    "metric name": (parcel_with(metrics={"loss\nnote: forged": 0.0}), "has a name that is not"),
    "metric as truth": (parcel_with(metrics={"loss": True}), "not a finite number"),
    "metrics": (parcel_with(metrics={str(n): 0.0 for n in range(64)}), "There are 65 metrics"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_was_tampered_with_is_rejected_and_named(case):
    parcel, reason = BAD[case]
    with pytest.raises(RejectedMessageError, match=reason):
        unpack_reply(parcel, TERMS)


@given(st.floats(0.1, 20.0))
def test_the_norm_bound_is_a_bound_on_the_distance(norm):
    """Weights (2, 3) and (4,) all x are √10·x away from zero."""
    weights = {name: torch.full_like(tensor, norm / math.sqrt(10)) for name, tensor in SENT.items()}
    parcel = pack_reply(Reply(replace(make_update(), weights=weights)), 3, CONTRACT)
    if norm < 9.999:
        unpack_reply(parcel, TERMS)
    if norm > 10.001:
        with pytest.raises(RejectedMessageError, match="away from what was broadcast"):
            unpack_reply(parcel, TERMS)


@pytest.mark.parametrize("value", [-0.1, 100.5, math.inf, 50, None, "50"])
def test_scores_of_a_client_s_own_model_are_percentages(value):
    terms = replace(TERMS, measured=True)
    good = pack_reply(Reply(make_update(), scores=Scores(math.nan, math.nan, 50.0)), 3, CONTRACT)
    found = unpack_reply(good, terms).scores
    assert found.novel == 50.0
    assert math.isnan(found.base)
    with pytest.raises(RejectedMessageError, match="The accuracy 'base'"):
        unpack_reply(replace(good, scalars={**good.scalars, "base": value}), terms)


def test_what_half_precision_does_not_hold_is_not_sent():
    """The largest float16 is 65504."""
    update = replace(make_update(), weights={"b": torch.full((2, 3), 1e5), "a": torch.zeros(4)})
    with pytest.raises(ClientError, match="'b' holds a value beyond 65504"):
        chain_of("float16").encode(update, Exchange(1, 3, SENT))


COUNTS = HitCounts(3, 4, 0, 2)  # of the 4 + 2 images in TERMS


def test_counts_come_out_as_they_went_in():
    """Each is read where the terms ask for it, and for the images that the client is known to have."""
    parcel = pack_reply(Reply(make_update(), counts=COUNTS, own=HitCounts(4, 4, 2, 2)), 3, CONTRACT)
    found = unpack_reply(parcel, replace(TERMS, counted=True, own_counted=True))
    assert (found.counts, found.own) == (COUNTS, HitCounts(4, 4, 2, 2))
    neither = unpack_reply(parcel, TERMS)
    assert (neither.counts, neither.own) == (None, None)
    assert unpack_counts(pack_counts(COUNTS, 1, 3, CONTRACT), 1, 3, TERMS.images, CONTRACT) == COUNTS


BAD_COUNTS = {
    "global_base": [-1, 5, 3.0, True, None, "3"],
    "global_base_images": [3, 5, 10**12, 4.0, None],
    "global_novel": [3, -1],
    "global_novel_images": [0, 1],
    "round": [2, None],
    "client": [0, 2],
    "schema": [1],
    "model": ["x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_COUNTS.items() for value in values])
def test_counts_that_cannot_be_are_rejected_and_named(name, value):
    """In a reply and in the closing evaluation."""
    reply = pack_reply(Reply(make_update(), counts=COUNTS), 3, CONTRACT)
    alone = pack_counts(COUNTS, 1, 3, CONTRACT)
    reply, alone = (replace(parcel, scalars={**parcel.scalars, name: value}) for parcel in (reply, alone))
    with pytest.raises(RejectedMessageError, match=name):
        unpack_reply(reply, replace(TERMS, counted=True))
    with pytest.raises(RejectedMessageError, match=name):
        unpack_counts(alone, 1, 3, TERMS.images, CONTRACT)


def test_missing_counts_are_named():
    with pytest.raises(RejectedMessageError, match="own_base_images is None"):
        unpack_reply(pack_reply(Reply(make_update()), 3, CONTRACT), replace(TERMS, own_counted=True))


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_holdings_come_out_as_they_went_in(train, base, novel):
    held = ImageCounts(train, base, novel)
    assert unpack_image_counts(pack_image_counts(2, held, ["a", "b"]), most=50) == held


@pytest.mark.parametrize(
    ("name", "value"),
    [("train", 0), ("train", 7), ("train", 3.0), ("base", -1), ("novel", None), ("schema", 1)],
)
def test_holdings_that_cannot_be_are_rejected_and_named(name, value):
    parcel = pack_image_counts(2, ImageCounts(6, 2))
    with pytest.raises(RejectedMessageError, match=f"{name} is {value}"):
        unpack_image_counts(replace(parcel, scalars={**parcel.scalars, name: value}), most=6)


def test_as_many_metrics_as_are_allowed_pass():
    most = {"loss": 0.5, **{f"m{n}": 0.0 for n in range(63)}}
    parcel = pack_reply(Reply(replace(make_update(), metrics=most)), 3, CONTRACT)
    assert unpack_reply(parcel, TERMS).update.metrics == most


@pytest.mark.parametrize(
    ("value", "passes"), [(0.0, True), (100.0, True), (-1e-3, False), (100.001, False), (50, False)]
)
def test_accuracies_are_percentages(value, passes):
    scalars = {"base": value, "novel": 1.0}
    if passes:
        assert accuracies(scalars).base == value
    else:
        with pytest.raises(RejectedMessageError, match="The accuracy 'base'"):
            accuracies(scalars)


def test_as_many_images_as_are_allowed_pass_and_one_more_does_not():
    parcel = pack_image_counts(2, ImageCounts(6, 2))
    assert unpack_image_counts(parcel, most=6).train == 6
    with pytest.raises(RejectedMessageError, match=r"train is 6; data.shots allows 5"):
        unpack_image_counts(parcel, most=5)


@pytest.mark.parametrize(("number", "passes"), [(1, True), (0, False)])
def test_a_broadcast_opens_a_round_from_1(number, passes):
    parcel = pack_payload(Payload(number, SENT), CONTRACT)
    if passes:
        assert unpack_payload(parcel, CONTRACT).round == 1
    else:
        with pytest.raises(RejectedMessageError, match="round is 0"):
            unpack_payload(parcel, CONTRACT)
