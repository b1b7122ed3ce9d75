"""What travels between server and clients, and the checks that everything received must pass. No network in here.

A parcel is named arrays in a fixed order, scalars and metrics. Its scalars name the schema, the weights of the CLIP,
the class list and the round, so that two sides that mean different things refuse each other in place of averaging them.
Floating tensors travel as float32 or float16, whole numbers as int64.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddtl.algorithms.base import ExpectedUpdate, Payload, Task, Update
from feddtl.algorithms.naming import select, under
from feddtl.errors import ClientError
from feddtl.evaluate import HitCounts, Scores
from feddtl.models.lora import Tensors
from feddtl.runtimes.node import Holdings

SCHEMA = 2
Precision = Literal["float32", "float16"]
Scalar = str | int | float | bool
MAX_METRICS = 64
_LEAST_HELD = {"train": 1, "base": 0, "novel": 0}
# A unit vector that was rounded to float16 is off by less.
UNIT_TOLERANCE = 1e-2


class RejectedMessageError(ClientError):
    """What was received cannot be used; the message names the part, its value and what was expected."""


@dataclass(frozen=True)
class Parcel:
    """What travels one way.

    Attributes:
        arrays: By name, in the order of the schema.
        scalars: Everything else that is needed to use them.
        metrics: Numbers for the log.
    """

    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, Scalar]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """What both sides must have in common before tensors mean the same to them.

    Attributes:
        model: Hash of the CLIP's weights.
        classes: Hash of the base classes, in label order, and of the prompt.
        precision: Of floating tensors on the way.
    """

    model: str
    classes: str
    precision: Precision = "float32"

    @classmethod
    def of(cls, task: Task, precision: Precision) -> Contract:
        """The contract of a task."""
        names = json.dumps([task.class_names, task.prompt_template])
        return cls(task.clip.digest(), hashlib.sha256(names.encode()).hexdigest(), precision)

    def scalars(self) -> dict[str, Scalar]:
        """As it travels."""
        return {"schema": SCHEMA, "model": self.model, "classes": self.classes, "precision": self.precision}

    def require(self, scalars: Mapping[str, Scalar]) -> None:
        """Raise RejectedMessageError naming the first thing in which the other side differs."""
        explained = {
            "schema": "another version of feddtl sent it",
            "model": "the other side has another CLIP",
            "classes": "the other side has other classes, another order of them, or another prompt",
            "precision": "the other side sends tensors in another precision",
        }
        for name, mine in self.scalars().items():
            theirs = scalars.get(name)
            if type(theirs) is not type(mine) or theirs != mine:
                raise RejectedMessageError(f"{name} is {_short(theirs)}, not {_short(mine)}: {explained[name]}.")


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
    return Parcel(_pack(payload.tensors, contract), {**contract.scalars(), "round": payload.round})


def unpack_payload(parcel: Parcel, contract: Contract) -> Payload:
    """A broadcast as it was sent. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    tensors = {name: _tensor(name, array, contract) for name, array in parcel.arrays.items()}
    return Payload(_whole_number(parcel.scalars, "round", 1), tensors)


def pack_reply(reply: Reply, round_number: int, contract: Contract) -> Parcel:
    """A reply as it travels; what is personal does not.

    Args:
        reply: Of a client.
        round_number: The round that it answers.
        contract: In common.
    """
    update = reply.update
    tensors = {**under("weights", update.weights), **under("samples", update.samples)}
    scalars = {**contract.scalars(), "round": round_number, "client": update.client, "images": update.num_images}
    for model, counts in (("global", reply.counts), ("own", reply.own)):
        scalars |= _count_scalars(model, counts) if counts else {}
    if reply.scores is not None:
        scalars |= {"base": reply.scores.base, "novel": reply.scores.novel}
    return Parcel(_pack(tensors, contract), scalars, dict(update.metrics))


def unpack_reply(parcel: Parcel, terms: Terms) -> Reply:
    """A client's reply, with what the terms ask for beside the update.

    Raises:
        RejectedMessageError: Anything in it is not what the terms say.
    """
    terms.contract.require(parcel.scalars)
    _require_numbers(parcel.scalars, round=terms.round, client=terms.client, images=terms.images.train)
    _require_names(parcel, terms.expected)
    tensors = {name: _tensor(name, array, terms.contract) for name, array in parcel.arrays.items()}
    weights, samples = select(tensors, "weights"), select(tensors, "samples")
    _check_weights(weights, terms)
    _check_samples(samples, terms)
    return Reply(
        Update(terms.client, terms.images.train, weights, samples, _metrics(parcel.metrics)),
        _counts(parcel.scalars, "global", terms.images) if terms.counted else None,
        _counts(parcel.scalars, "own", terms.images) if terms.own_counted else None,
        _scores(parcel.scalars) if terms.measured else None,
    )


def pack_counts(counts: HitCounts, client: int, round_number: int, contract: Contract) -> Parcel:
    """What a client counted for a broadcast outside a round, as it travels."""
    scalars = {**contract.scalars(), "round": round_number, "client": client, **_count_scalars("global", counts)}
    return Parcel({}, scalars)


def unpack_counts(parcel: Parcel, client: int, round_number: int, images: Holdings, contract: Contract) -> HitCounts:
    """What a client counted. Raises RejectedMessageError."""
    contract.require(parcel.scalars)
    _require_numbers(parcel.scalars, round=round_number, client=client)
    return _counts(parcel.scalars, "global", images)


def pack_holdings(client: int, images: Holdings, notes: Sequence[str] = ()) -> Parcel:
    """How many images a client has, as it travels, with what whoever runs the experiment should know."""
    return Parcel({}, {"schema": SCHEMA, "client": client, **asdict(images), "notes": "\n".join(notes)})


def unpack_holdings(parcel: Parcel, most: int | None = None) -> Holdings:
    """How many images a client says that it has; one at least to train on, and no more than `most`.

    Raises:
        RejectedMessageError: A number is missing or out of range.
    """
    _require_numbers(parcel.scalars, schema=SCHEMA)
    train, base, novel = (_whole_number(parcel.scalars, name, least) for name, least in _LEAST_HELD.items())
    if most is not None and train > most:
        raise RejectedMessageError(f"train is {train}; data.shots allows {most} training images.")
    return Holdings(train, base, novel)


def _pack(tensors: Tensors, contract: Contract) -> dict[str, NDArray[Any]]:
    """Arrays in the precision of the contract; they share the tensors' memory where nothing is to be converted.

    Raises:
        RejectedMessageError: A value that the precision does not hold.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().numpy()
        if not tensor.is_floating_point():
            packed[name] = array.astype(np.int64, copy=False)
            continue
        with np.errstate(over="ignore"):
            packed[name] = array.astype(contract.precision, copy=False)
        if not np.isfinite(packed[name]).all():
            raise RejectedMessageError(f"'{name}' is not finite in {contract.precision}; nothing was sent.")
    return packed


def _tensor(name: str, array: NDArray[Any], contract: Contract) -> Tensor:
    """An array as a tensor, float32 or int64, in the same memory where that may be written."""
    if array.dtype == np.int64:
        return torch.from_numpy(np.require(array, requirements="W"))
    if array.dtype != np.dtype(contract.precision):
        raise RejectedMessageError(f"'{name}' is {array.dtype}, not {contract.precision} or int64.")
    if not np.isfinite(array).all():
        raise RejectedMessageError(f"'{name}' holds NaN or infinite values.")
    return torch.from_numpy(np.require(array, np.float32, "W"))


def _require_names(parcel: Parcel, expected: ExpectedUpdate) -> None:
    wanted = [f"weights/{name}" for name in expected.weights]
    wanted += [f"samples/{name}" for name in (*expected.embeddings, *expected.labels)]
    found = list(parcel.arrays)
    if found == wanted:
        return
    for position, name in enumerate(wanted):
        if position >= len(found) or found[position] != name:
            there = f"'{_short(found[position])}'" if position < len(found) else "nothing"
            raise RejectedMessageError(f"Tensor {position + 1} is {there}, not '{name}'.")
    raise RejectedMessageError(f"There are {len(found)} tensors, not {len(wanted)}.")


def _check_weights(weights: Tensors, terms: Terms) -> None:
    """Shapes, and the distance from what was broadcast."""
    total = 0.0
    for name, sent in terms.expected.weights.items():
        _require_like(f"weights/{name}", weights[name], tuple(sent.shape), sent.is_floating_point())
        # In single precision, of which one more tensor is held; what overflows is infinitely far.
        total += float((weights[name] - sent.cpu()).square_().sum())
    if not math.sqrt(total) <= terms.max_update_norm:
        raise RejectedMessageError(
            f"The weights are {math.sqrt(total):.4g} away from what was broadcast; "
            f"deployment.max_update_norm = {terms.max_update_norm:g}."
        )


def _check_samples(samples: Tensors, terms: Terms) -> None:
    """One row per image and no more than images; unit rows; labels among the base classes."""
    expected, most = terms.expected, terms.images.train
    rows = {len(tensor) if tensor.ndim else -1 for tensor in samples.values()}
    if samples and (len(rows) != 1 or not 1 <= min(rows) <= most):
        raise RejectedMessageError(f"The samples have {sorted(rows)} rows, not one number from 1 to {most}.")
    for name, width in expected.embeddings.items():
        _require_like(f"samples/{name}", samples[name], (*rows, width), True)
        longest = float((samples[name].norm(dim=-1) - 1).abs().max())
        if longest > UNIT_TOLERANCE:
            raise RejectedMessageError(f"'samples/{name}' has a row whose length is {longest:.3g} away from 1.")
    for name in expected.labels:
        labels = samples[name]
        _require_like(f"samples/{name}", labels, (*rows,), False)
        if int(labels.min()) < 0 or int(labels.max()) >= terms.classes:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise RejectedMessageError(
                f"'samples/{name}' holds class {wrong}, which is not among 0 to {terms.classes - 1}."
            )


def _require_like(name: str, tensor: Tensor, shape: tuple[int, ...], floating: bool) -> None:
    if tuple(tensor.shape) != shape:
        raise RejectedMessageError(f"'{name}' has the shape {tuple(tensor.shape)}, not {shape}.")
    if tensor.is_floating_point() != floating:
        raise RejectedMessageError(f"'{name}' holds {tensor.dtype}, not {'floating' if floating else 'whole'} numbers.")


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Finite numbers, a few of them."""
    if len(metrics) > MAX_METRICS:
        raise RejectedMessageError(f"There are {len(metrics)} metrics; {MAX_METRICS} are allowed.")
    for name, value in metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise RejectedMessageError(f"The metric '{_short(name)}' is {_short(value)}, not a finite number.")
    return {name: float(value) for name, value in metrics.items()}


def _scores(scalars: Mapping[str, Scalar]) -> Scores:
    """Accuracies in percent, or NaN where the client has nothing to measure."""
    found: dict[str, float] = {}
    for name in ("base", "novel"):
        value = scalars.get(name)
        if not isinstance(value, float) or not (math.isnan(value) or 0 <= value <= 100):
            raise RejectedMessageError(f"The accuracy '{name}' is {_short(value)}, not a number from 0 to 100.")
        found[name] = value
    return Scores(math.nan, found["base"], found["novel"])


def _count_scalars(model: str, counts: HitCounts) -> dict[str, Scalar]:
    return {f"{model}_{name}": value for name, value in asdict(counts).items()}


def _counts(scalars: Mapping[str, Scalar], model: str, images: Holdings) -> HitCounts:
    """Right ones among exactly the test images that the client has."""
    right: list[int] = []
    for half, held in (("base", images.base), ("novel", images.novel)):
        _require_numbers(scalars, **{f"{model}_{half}_images": held})
        right.append(_whole_number(scalars, f"{model}_{half}", 0))
        if right[-1] > held:
            raise RejectedMessageError(f"{model}_{half} is {right[-1]} of {held} images.")
    return HitCounts(right[0], images.base, right[1], images.novel)


def _require_numbers(scalars: Mapping[str, Scalar], **wanted: int) -> None:
    for name, value in wanted.items():
        if (found := _whole_number(scalars, name, 0)) != value:
            raise RejectedMessageError(f"{name} is {found}, not {value}.")


def _whole_number(scalars: Mapping[str, Scalar], name: str, least: int) -> int:
    value = scalars.get(name)
    if type(value) is not int or value < least:
        raise RejectedMessageError(f"{name} is {_short(value)}, not a whole number of {least} or more.")
    return value


def _short(value: object) -> str:
    """A value as an error shows it; what strangers send may be long."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
