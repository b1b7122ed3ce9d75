"""Broadcasts, replies, hit counts and image counts: how each is packed, and checked on arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from feddtl.evaluate import HitCounts, Scores
from feddtl.messages import ExpectedUpdate, Payload, Update, tensor_bytes
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import SCHEMA, Contract, Parcel, RejectedMessageError, Scalar
from feddtl.runtimes.wire.tensors import (
    check_samples,
    check_weights,
    require_finite,
    require_names,
    to_arrays,
    to_tensor,
)
from feddtl.runtimes.wire.values import accuracies, finite_metrics, hit_counts, require_numbers, whole_number
from feddtl.tensor_groups import add_prefix, select_prefix
from feddtl.transforms.base import Exchange, RejectedUpdateError
from feddtl.transforms.chain import Chain

_LEAST_IMAGES = {"train": 1, "base": 0, "novel": 0}


@dataclass(frozen=True)
class ReplyRequirements:
    """The requirements for a client's update in a round.

    Attributes:
        contract: What both sides have in common.
        client: The client that sends it.
        round: The round that it answers.
        images: The client's image counts.
        classes: C, number of base classes.
        expected: The update before any transform; its weights are those that the client received.
        chain: The transforms that encoded it.
        seed: Seed of the experiment.
        measured: Whether the client must have scored its own model on all test images.
        counted: Whether the client must have counted for the model that it was broadcast.
        own_counted: Whether it must have counted for its own model.
    """

    contract: Contract
    client: int
    round: int
    images: ImageCounts
    classes: int
    expected: ExpectedUpdate
    chain: Chain
    seed: int
    measured: bool = False
    counted: bool = False
    own_counted: bool = False


@dataclass(frozen=True)
class Reply:
    """A client's reply in a round.

    Attributes:
        update: The trained tensors.
        counts: Hits of the broadcast model on the client's own test images; None if the previous round is not scored.
        own: The same of the client's own model; None if the round is not scored.
        scores: Base and novel accuracy of the client's own model on all test images, NaN in rounds that do not ask for
            them; None if the server measures them.
        size: Bytes of the update as it was sent, without framing; 0 on the client.
    """

    update: Update
    counts: HitCounts | None = None
    own: HitCounts | None = None
    scores: Scores | None = None
    size: int = 0


def pack_payload(payload: Payload, contract: Contract) -> Parcel:
    """A broadcast as a parcel."""
    return Parcel(to_arrays(payload.tensors, contract.precision), {**contract.scalars(), "round": payload.round})


def unpack_payload(parcel: Parcel, contract: Contract) -> Payload:
    """The broadcast in a parcel. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    tensors = {name: _single(to_tensor(name, array, contract.precision)) for name, array in parcel.arrays.items()}
    for name, tensor in tensors.items():
        require_finite(name, tensor)
    return Payload(whole_number(parcel.scalars, "round", 1), tensors)


def pack_reply(reply: Reply, round_number: int, contract: Contract) -> Parcel:
    """A reply as a parcel, without the personal tensors.

    Args:
        reply: The client's reply.
        round_number: The round that it answers.
        contract: What both sides have in common.
    """
    update = reply.update
    tensors = {**add_prefix("weights", update.weights), **add_prefix("samples", update.samples)}
    scalars = {**contract.scalars(), "round": round_number, "client": update.client, "images": update.num_images}
    for model, counts in (("global", reply.counts), ("own", reply.own)):
        scalars |= _count_scalars(model, counts) if counts else {}
    if reply.scores is not None:
        scalars |= {"base": reply.scores.base, "novel": reply.scores.novel}
    return Parcel(to_arrays(tensors), scalars, dict(update.metrics))


def unpack_reply(parcel: Parcel, requirements: ReplyRequirements) -> Reply:
    """The reply in a parcel.

    Raises:
        RejectedMessageError: Any part of it does not meet the requirements.
    """
    requirements.contract.require(parcel.scalars)
    require_numbers(
        parcel.scalars, round=requirements.round, client=requirements.client, images=requirements.images.train
    )
    update, size = _unpack_update(parcel, requirements)
    return Reply(
        update,
        hit_counts(parcel.scalars, "global", requirements.images) if requirements.counted else None,
        hit_counts(parcel.scalars, "own", requirements.images) if requirements.own_counted else None,
        accuracies(parcel.scalars) if requirements.measured else None,
        size,
    )


def _unpack_update(parcel: Parcel, requirements: ReplyRequirements) -> tuple[Update, int]:
    """The decoded update, and the bytes that it was sent in."""
    sent = requirements.chain.expected(requirements.expected)
    require_names(parcel, sent)
    tensors = {name: to_tensor(name, array, _precision(sent, name)) for name, array in parcel.arrays.items()}
    weights, samples = select_prefix(tensors, "weights"), select_prefix(tensors, "samples")
    check_weights(weights, sent.weights)
    check_samples(samples, sent, requirements.images.train, requirements.classes)
    metrics = finite_metrics(parcel.metrics)
    update = Update(requirements.client, requirements.images.train, weights, samples, metrics)
    received = {name: tensor.cpu() for name, tensor in requirements.expected.weights.items()}
    try:
        decoded = requirements.chain.decode(
            update, Exchange(requirements.client, requirements.round, received, requirements.seed)
        )
    except RejectedUpdateError as error:
        raise RejectedMessageError(error.message) from None
    check_weights(decoded.weights, requirements.expected.weights)
    check_samples(decoded.samples, requirements.expected, requirements.images.train, requirements.classes)
    return decoded, tensor_bytes(weights, samples)


def _precision(expected: ExpectedUpdate, name: str) -> str:
    """NumPy's name of the floating-point type that a tensor of an update must have."""
    group, _, own = name.partition("/")
    kind = expected.weights[own].dtype if group == "weights" else expected.embedding_type
    return str(kind).removeprefix("torch.") if kind.is_floating_point else "float32"


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def pack_counts(counts: HitCounts, client: int, round_number: int, contract: Contract) -> Parcel:
    """A client's hits for a broadcast outside a round, as a parcel."""
    scalars = {**contract.scalars(), "round": round_number, "client": client, **_count_scalars("global", counts)}
    return Parcel({}, scalars)


def unpack_counts(parcel: Parcel, client: int, round_number: int, images: ImageCounts, contract: Contract) -> HitCounts:
    """The hits in a parcel. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    require_numbers(parcel.scalars, round=round_number, client=client)
    return hit_counts(parcel.scalars, "global", images)


def pack_image_counts(client: int, images: ImageCounts, notes: Sequence[str] = ()) -> Parcel:
    """A client's image counts as a parcel, with notes for whoever runs the experiment."""
    return Parcel({}, {"schema": SCHEMA, "client": client, **asdict(images), "notes": "\n".join(notes)})


def unpack_image_counts(parcel: Parcel, most: int | None = None) -> ImageCounts:
    """A client's own count of its images: at least one to train on, and at most `most`.

    Raises:
        RejectedMessageError: A number is missing or out of range.
    """
    require_numbers(parcel.scalars, schema=SCHEMA)
    train, base, novel = (whole_number(parcel.scalars, name, least) for name, least in _LEAST_IMAGES.items())
    if most is not None and train > most:
        raise RejectedMessageError(f"train is {train}; data.shots allows {most} training images.")
    return ImageCounts(train, base, novel)


def _count_scalars(model: str, counts: HitCounts) -> dict[str, Scalar]:
    return {f"{model}_{name}": value for name, value in asdict(counts).items()}
