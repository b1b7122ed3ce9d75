"""Parcels as Flower's records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import Array

from feddtl.runtimes.wire.contract import Parcel, RejectedMessageError, Scalar

ARRAYS, SCALARS, METRICS = "arrays", "scalars", "metrics"
CLIENT, KEPT, ERROR, NOTES = "client", "kept", "error", "notes"  # scalars that only messages over Flower have


def to_records(parcel: Parcel) -> RecordDict:
    """A parcel as Flower's records."""
    return joined_records(array_record(parcel), parcel.scalars, parcel.metrics)


def array_record(parcel: Parcel) -> ArrayRecord:
    """The arrays of a parcel, in their order."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in parcel.arrays.items()})


def joined_records(arrays: ArrayRecord, scalars: Mapping[str, Scalar], metrics: Mapping[str, float]) -> RecordDict:
    """The three parts of a parcel as Flower's records; the arrays may be shared by several messages."""
    numbers: dict[str, int | float | list[int] | list[float]] = {**metrics}
    return RecordDict({ARRAYS: arrays, SCALARS: ConfigRecord(dict(scalars)), METRICS: MetricRecord(numbers)})


def from_records(content: RecordDict) -> Parcel:
    """Flower's records as a parcel. Raises RejectedMessageError for records that are none."""
    try:
        arrays = {name: array.numpy() for name, array in content.array_records[ARRAYS].items()}
        scalars: dict[str, Any] = dict(content.config_records[SCALARS])
        metrics: dict[str, Any] = dict(content.metric_records[METRICS])
    # What strangers send as an array may break NumPy's reader in any of these ways.
    except (KeyError, ValueError, TypeError, EOFError, OSError, MemoryError) as error:
        raise RejectedMessageError(f"The records cannot be read: {type(error).__name__}: {error}") from None
    if ERROR in scalars:
        raise RejectedMessageError(f"the client refused: {str(scalars[ERROR])[:1000]}")
    return Parcel(arrays, scalars, metrics)


def content_of(reply: Message) -> Parcel:
    """What a client sent. Raises RejectedMessageError where it failed or refused."""
    if reply.has_error():
        raise RejectedMessageError(f"it failed: {(reply.error.reason or f'error {reply.error.code}')[:1000]}")
    return from_records(reply.content)
