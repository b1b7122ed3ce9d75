"""Requests to Flower's SuperLink, and waiting for their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.serverapp import Grid as Grid

from feddtl.runtimes.flower.records import ERROR, from_records
from feddtl.runtimes.wire.contract import Parcel, RejectedMessageError, plain

Result = TypeVar("Result")
# Each look costs SuperLink a transaction, so looks become rarer the longer the wait.
SHARE_BETWEEN_LOOKS, LEAST_BETWEEN_LOOKS, MOST_BETWEEN_LOOKS = 0.05, 0.25, 3.0  # of the time waited; seconds
TRIES, SECONDS_BETWEEN_TRIES = 5, 2.0
NOTHING = Parcel({}, {})


@dataclass(frozen=True)
class Answer:
    """What came of a message.

    Attributes:
        parcel: What the node sent.
        refusal: Why that cannot be used: the node says so, it failed, or nobody can read it. Empty: it can.
        code: Flower's error code where it answered itself.
    """

    parcel: Parcel = NOTHING
    refusal: str = ""
    code: int = 0


class RetryingGrid:
    """Flower's connection to the nodes; requests are retried when SuperLink fails.

    Flower itself retries only when SuperLink cannot be reached.

    Args:
        grid: Flower's.
        note: Receives what the user should know.
        waiting: Called before each pause in which answers are awaited; may raise to end the waiting.
    """

    def __init__(self, grid: Grid, note: Callable[[str], None], waiting: Callable[[], None] = lambda: None) -> None:
        self._grid = grid
        self._note = note
        self._waiting = waiting

    def nodes(self) -> set[int]:
        """Nodes that are connected."""
        return set(self._served(self._grid.get_node_ids))

    def push(self, messages: Sequence[Message]) -> dict[str, int]:
        """Send; nodes by message, of those messages that Flower took."""
        taken = set(self._served(lambda: self._grid.push_messages(messages))) if messages else set()
        sent = [message.metadata for message in messages]
        return {each.message_id: each.dst_node_id for each in sent if each.message_id in taken}

    def pull(self, waiting: dict[str, int]) -> Iterator[tuple[int, Answer]]:
        """Answers that have arrived, with the node that was asked; their messages are removed from `waiting`.

        One message at a time: a reply does not name the message that it answers, a request that fails loses only one
        answer, and only one answer is in memory.
        """
        for message, node in list(waiting.items()):
            if (answer := self._pull_one(message)) is not None:
                del waiting[message]
                yield node, answer

    def answers(
        self, waiting: dict[str, int], deadline: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Answer]]:
        """Answers as they arrive, until every message has one or the deadline has passed.

        `meanwhile` is called before each pause.
        """
        begun = time.monotonic()
        while True:
            yield from self.pull(waiting)
            if not waiting or time.monotonic() >= deadline:
                return
            meanwhile()
            self.pause(begun, deadline)

    def pause(self, begun: float, deadline: float) -> None:
        """Sleep between two looks for what is awaited since `begun`, but not beyond the deadline."""
        self._waiting()
        now = time.monotonic()
        length = min(max(SHARE_BETWEEN_LOOKS * (now - begun), LEAST_BETWEEN_LOOKS), MOST_BETWEEN_LOOKS)
        time.sleep(max(min(length, deadline - now), 0.0))

    def _pull_one(self, message: str) -> Answer | None:
        """The answer to a message; None where there is none yet."""
        try:
            found = list(self._served(lambda: self._grid.pull_messages([message])))
        except httpx.HTTPError:  # of SuperLink, and not of what a node sent
            raise
        except Exception as error:
            return Answer(refusal=_unreadable(error))
        return _read(found[0]) if found else None

    def _served(self, call: Callable[[], Result]) -> Result:
        """The result of a request to SuperLink, retried after a server error."""
        for _ in range(TRIES - 1):
            try:
                return call()
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
                self._note(f"A request to Flower's SuperLink failed and is retried: {error}")
            time.sleep(SECONDS_BETWEEN_TRIES)
        return call()


def _read(reply: Message) -> Answer:
    """A reply, which is not trusted: a node may send anything that Flower's library can pack."""
    try:
        if reply.has_error():
            reason = plain(reply.error.reason or f"error {reply.error.code}")
            return Answer(refusal=f"it failed: {reason}", code=reply.error.code)
        parcel = from_records(reply.content)
    except RejectedMessageError as error:
        return Answer(refusal=error.message)
    except Exception as error:
        return Answer(refusal=_unreadable(error))
    refused = f"the client refused: {plain(parcel.scalars[ERROR])}" if ERROR in parcel.scalars else ""
    return Answer(parcel, refused)


def _unreadable(error: Exception) -> str:
    return f"Its reply cannot be read: {plain(f'{type(error).__name__}: {error}')}"
