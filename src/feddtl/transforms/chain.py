"""The chain of transforms: in order on the client, reversed on the server."""

from __future__ import annotations

from collections.abc import Sequence

from feddtl.messages import ExpectedUpdate, Update
from feddtl.models.lora import Tensors
from feddtl.transforms.base import Aggregation, Exchange, Transform


class Chain:
    """Transforms in the order in which a client applies them.

    Args:
        members: The transforms; without any, updates stay as they are.
    """

    def __init__(self, members: Sequence[Transform] = ()) -> None:
        self._members = tuple(members)

    @property
    def summable(self) -> bool:
        """Whether the encoded weights can still be summed over clients."""
        return all(member.summable for member in self._members)

    def expected(self, expected: ExpectedUpdate) -> ExpectedUpdate:
        """Names, shapes and types of an encoded update. Raises ConfigError as `Transform.expected`."""
        for member in self._members:
            expected = member.expected(expected)
        return expected

    def encode(self, update: Update, exchange: Exchange) -> Update:
        """On the client: the encoded update."""
        for member in self._members:
            update = member.encode(update, exchange)
        return update

    def decode(self, update: Update, exchange: Exchange) -> Update:
        """On the server: the decoded update. Raises RejectedUpdateError."""
        for member in reversed(self._members):
            update = member.decode(update, exchange)
        return update

    def exchange(self, update: Update, expected: ExpectedUpdate, round_number: int, seed: int) -> tuple[Update, Update]:
        """The encoded update that a client sends in a round, and the decoded update on the server.

        Raises:
            ConfigError: As `expected`.
            ClientError: As `encode`.
        """
        self.expected(expected)
        exchange = Exchange(update.client, round_number, expected.weights, seed)
        sent = self.encode(update, exchange)
        return sent, self.decode(sent, exchange)

    def after_aggregation(self, aggregate: Tensors, aggregation: Aggregation) -> Tensors:
        """On the server: the changed aggregate."""
        for member in reversed(self._members):
            aggregate = member.after_aggregation(aggregate, aggregation)
        return aggregate
