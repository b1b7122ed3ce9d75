"""Broadcasts, replies, counts and holdings: how each is packed, and checked when it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from feddtl.evaluate import HitCounts, Scores
from feddtl.messages import ExpectedUpdate, Payload, Update
from feddtl.runtimes.node import Holdings
from feddtl.runtimes.wire.contract import SCHEMA, Contract, Parcel, RejectedMessageError, Scalar
from feddtl.runtimes.wire.tensors import check_samples, check_weights, require_names, to_arrays, to_tensor
from feddtl.runtimes.wire.values import accuracies, finite_metrics, hit_counts, require_numbers, whole_number
from feddtl.tensor_groups import add_prefix, select_prefix

_LEAST_HELD = {"train": 1, "base": 0, "novel": 0}


@dataclass(frozen=True)
class Terms:
    """What the update of a client in a round must be.

    Attributes:
        contract: In common.
        client: Whose update.
        round: Of which round.
        images: How many that client has.
        classes: C, number of base classes.
        expected: Tensors.
        max_update_norm: Largest L2 distance between received and returned weights.
        measured: Whether the client must have scored its own model on all test images.
        counted: Whether the client must have counted for the model that it was broadcast.
        own_counted: Whether it must have counted for its own model.
    """

    contract: Contract
    client: int
    round: int
    images: Holdings
    classes: int
    expected: ExpectedUpdate
    max_update_norm: float
    measured: bool = False
    counted: bool = False
    own_counted: bool = False


@dataclass(frozen=True)
class Reply:
    """What a client answers in a round.

    Attributes:
        update: What it trained.
        counts: Of the model that it was broadcast, on test images of its own; None where the round before is not
            scored.
        own: The same of its own model; None where the round is not scored.
        scores: Base and novel accuracy of its own model on all test images, NaN in rounds that do not ask for them;
            None where the server measures them.
    """

    update: Update
    counts: HitCounts | None = None
    own: HitCounts | None = None
    scores: Scores | None = None


def pack_payload(payload: Payload, contract: Contract) -> Parcel:
    """A broadcast as it travels."""
    return Parcel(to_arrays(payload.tensors, contract), {**contract.scalars(), "round": payload.round})


def unpack_payload(parcel: Parcel, contract: Contract) -> Payload:
    """A broadcast as it was sent. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    tensors = {name: to_tensor(name, array, contract) for name, array in parcel.arrays.items()}
    return Payload(whole_number(parcel.scalars, "round", 1), tensors)


def pack_reply(reply: Reply, round_number: int, contract: Contract) -> Parcel:
    """A reply as it travels; what is personal does not.

    Args:
        reply: Of a client.
        round_number: The round that it answers.
        contract: In common.
    """
    update = reply.update
    tensors = {**add_prefix("weights", update.weights), **add_prefix("samples", update.samples)}
    scalars = {**contract.scalars(), "round": round_number, "client": update.client, "images": update.num_images}
    for model, counts in (("global", reply.counts), ("own", reply.own)):
        scalars |= _count_scalars(model, counts) if counts else {}
    if reply.scores is not None:
        scalars |= {"base": reply.scores.base, "novel": reply.scores.novel}
    return Parcel(to_arrays(tensors, contract), scalars, dict(update.metrics))


def unpack_reply(parcel: Parcel, terms: Terms) -> Reply:
    """A client's reply, with what the terms ask for beside the update.

    Raises:
        RejectedMessageError: Anything in it is not what the terms say.
    """
    terms.contract.require(parcel.scalars)
    require_numbers(parcel.scalars, round=terms.round, client=terms.client, images=terms.images.train)
    require_names(parcel, terms.expected)
    tensors = {name: to_tensor(name, array, terms.contract) for name, array in parcel.arrays.items()}
    weights, samples = select_prefix(tensors, "weights"), select_prefix(tensors, "samples")
    check_weights(weights, terms.expected.weights, terms.max_update_norm)
    check_samples(samples, terms.expected, terms.images.train, terms.classes)
    return Reply(
        Update(terms.client, terms.images.train, weights, samples, finite_metrics(parcel.metrics)),
        hit_counts(parcel.scalars, "global", terms.images) if terms.counted else None,
        hit_counts(parcel.scalars, "own", terms.images) if terms.own_counted else None,
        accuracies(parcel.scalars) if terms.measured else None,
    )


def pack_counts(counts: HitCounts, client: int, round_number: int, contract: Contract) -> Parcel:
    """What a client counted for a broadcast outside a round, as it travels."""
    scalars = {**contract.scalars(), "round": round_number, "client": client, **_count_scalars("global", counts)}
    return Parcel({}, scalars)


def unpack_counts(parcel: Parcel, client: int, round_number: int, images: Holdings, contract: Contract) -> HitCounts:
    """What a client counted. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    require_numbers(parcel.scalars, round=round_number, client=client)
    return hit_counts(parcel.scalars, "global", images)


def pack_holdings(client: int, images: Holdings, notes: Sequence[str] = ()) -> Parcel:
    """How many images a client has, as it travels, with what whoever runs the experiment should know."""
    return Parcel({}, {"schema": SCHEMA, "client": client, **asdict(images), "notes": "\n".join(notes)})


def unpack_holdings(parcel: Parcel, most: int | None = None) -> Holdings:
    """How many images a client says that it has; one at least to train on, and no more than `most`.

    Raises:
        RejectedMessageError: A number is missing or out of range.
    """
    require_numbers(parcel.scalars, schema=SCHEMA)
    train, base, novel = (whole_number(parcel.scalars, name, least) for name, least in _LEAST_HELD.items())
    if most is not None and train > most:
        raise RejectedMessageError(f"train is {train}; data.shots allows {most} training images.")
    return Holdings(train, base, novel)


def _count_scalars(model: str, counts: HitCounts) -> dict[str, Scalar]:
    return {f"{model}_{name}": value for name, value in asdict(counts).items()}
