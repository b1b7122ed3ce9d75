"""Parcels as Flower's records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message import Array
from numpy.typing import NDArray

from feddtl.runtimes.wire.contract import Parcel, RejectedMessageError, Scalar, plain

ARRAYS, SCALARS, METRICS = "arrays", "scalars", "metrics"
CLIENT, KEPT, ERROR, NOTES = "client", "kept", "error", "notes"  # scalars of messages over Flower alone
MISMATCH = "mismatch"  # whether an error is that the client's classes are not those of the experiment
FAREWELL = "farewell"  # why the run has ended, in the last message to a client
BEFORE_TRAINING = "0"  # in place of a round's number: the clients score a model before round 1


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
    """Flower's records as a parcel. Raises RejectedMessageError for records that are not one."""
    try:
        arrays = {name: _as_array(array) for name, array in content.array_records[ARRAYS].items()}
        scalars: dict[str, Any] = dict(content.config_records[SCALARS])
        metrics: dict[str, Any] = dict(content.metric_records[METRICS])
    # An array from a stranger may break NumPy's reader in any way.
    except Exception as error:
        raise RejectedMessageError(f"The records cannot be read: {plain(f'{type(error).__name__}: {error}')}") from None
    return Parcel(arrays, scalars, metrics)


def _as_array(array: Array) -> NDArray[Any]:
    """Raises ValueError if the bytes are a whole archive of arrays, which NumPy's reader accepts too."""
    found: object = array.numpy()
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{type(found).__name__} in place of an array")
    return found
