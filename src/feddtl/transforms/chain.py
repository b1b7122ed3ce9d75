"""The chain of transforms: in order on the client, reversed on the server."""

from __future__ import annotations

from collections.abc import Sequence

from feddtl.messages import ExpectedUpdate, Update
from feddtl.models.lora import Tensors
from feddtl.transforms.base import Aggregation, Exchange, Transform


class Chain:
    """Transforms in the order in which a client applies them.

    Args:
        members: The transforms; none leaves an update as it is.
    """

    def __init__(self, members: Sequence[Transform] = ()) -> None:
        self._members = tuple(members)

    @property
    def summable(self) -> bool:
        """Whether the weights that are sent can still be summed over clients."""
        return all(member.summable for member in self._members)

    def expected(self, expected: ExpectedUpdate) -> ExpectedUpdate:
        """Names, shapes and types of what is sent. Raises ConfigError as `Transform.expected`."""
        for member in self._members:
            expected = member.expected(expected)
        return expected

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """On the client: what is sent."""
        for member in self._members:
            update = member.encode(update, exchange)
        return update

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """On the server: the update that was sent. Raises RejectedUpdateError."""
        for member in reversed(self._members):
            update = member.decode(update, exchange)
        return update

    def after_aggregation(self, aggregate: Tensors, aggregation: Aggregation) -> Tensors:
        """On the server: what becomes of the aggregate."""
        for member in reversed(self._members):
            aggregate = member.after_aggregation(aggregate, aggregation)
        return aggregate
