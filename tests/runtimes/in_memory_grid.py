"""Flower's Grid without a network: messages and replies pass through bytes on their way to and from a ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# (client, message) -> its reply, or None where none comes in time
Tamper = Callable[[int, Message], Message | None]


def over_the_wire(content: RecordDict) -> RecordDict:
    """What comes out of bytes."""
    return recorddict_from_proto(ProtoRecordDict.FromString(recorddict_to_proto(content).SerializeToString()))


class InMemoryGrid(Grid):
    """Nodes 100, 101, … that are clients 0, 1, …

    Args:
        app: Runs on every node.
        clients: Ids of those that are there.
        before: Called with client and message before a node answers a broadcast; may raise, as a node may.
        after: Called with client and reply; what it returns is received in its place, None: nothing.
        data: By client, path of its images.
        closing: As `after`, for replies of the closing evaluation; may raise, as a node may.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: Iterable[int],
        before: Callable[[int, Message], None] | None = None,
        after: Tamper | None = None,
        closing: Tamper | None = None,
        data: Mapping[int, Path] | None = None,
    ) -> None:
        # Flower's processes are told who they are when they start; messages bear it.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.app = app
        self.contexts = {
            100 + client: Context(1, 100 + client, self._settings(client, data or {}), RecordDict(), {})
            for client in clients
        }
        self.before = before or (lambda client, message: None)
        self.after = after or (lambda client, message: message)
        self.closing = closing or (lambda client, message: message)
        self.sent: list[Message] = []
        self._replies: dict[str, Message] = {}

    @staticmethod
    def _settings(client: int, data: Mapping[int, Path]) -> dict[str, UserConfigValue]:
        return {"partition-id": client, **({"data": str(data[client])} if client in data else {})}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def _deliver(self, message: Message) -> str:
        name = message.metadata.__dict__["_message_id"] = str(len(self.sent))
        self.sent.append(message)
        if (reply := self._answer(message)) is not None:
            self._replies[name] = reply
        return name

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        client, training = node - 100, message.metadata.message_type == "train"
        arrived = Message(over_the_wire(message.content), node, message.metadata.message_type)
        try:
            if training:
                self.before(client, arrived)
            reply = self.app(arrived, self.contexts[node])
            tamper = {"train": self.after, "evaluate": self.closing}.get(message.metadata.message_type)
            received = tamper(client, reply) if tamper else reply
        except Exception as error:
            return Message(Error(code=1, reason=f"{type(error).__name__}: {error}"), reply_to=message)
        return None if received is None else Message(over_the_wire(received.content), reply_to=message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *arguments: object, **named: object) -> Message:
        raise NotImplementedError
