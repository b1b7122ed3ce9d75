"""Parcels over Flower: the only module that imports flwr.

The server sends one message per client and round and gets one back, with metrics and scores in it. Which client a node
is, it is asked once, when the node appears: partition-id of its node configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import Array
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid as Grid
from flwr.serverapp import ServerApp

from feddtl.algorithms.base import Payload, Update
from feddtl.errors import ClientError, FeddtlError
from feddtl.evaluate import Scores
from feddtl.runtimes.fleet import Arrivals, Fleet
from feddtl.runtimes.parties import Parties
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.wire import Contract, Parcel, RejectedMessageError, Scalar, Terms, pack_payload, unpack_update

ARRAYS, SCALARS, METRICS = "arrays", "scalars", "metrics"
PARTITION, CLIENT, KEPT, ERROR = "partition-id", "client", "kept", "error"
SECONDS_BETWEEN_LOOKS = 0.25


def to_records(parcel: Parcel) -> RecordDict:
    """A parcel as Flower's records."""
    return _records(_array_record(parcel), parcel.scalars, parcel.metrics)


def _array_record(parcel: Parcel) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in parcel.arrays.items()})


def _records(arrays: ArrayRecord, scalars: Mapping[str, Scalar], metrics: Mapping[str, float]) -> RecordDict:
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


class FlowerFleet(Fleet):
    """The clients of a run as nodes of a Flower federation.

    A client that is not there, fails, is late or sends what cannot be used costs its update; with fewer usable updates
    than `deployment.min_clients` the round fails.

    Args:
        grid: Flower's connection to the nodes.
        parties: The server's side; of its clients only the number of images is used.
        contract: What nodes must have in common with the server.
        order: Scalars that go with every broadcast, beside those of the schema.
        note: Told of what the user should know.
    """

    def __init__(
        self,
        grid: Grid,
        parties: Parties,
        contract: Contract,
        order: Mapping[str, Scalar],
        note: Callable[[str], None],
    ) -> None:
        self._grid = grid
        self._parties = parties
        self._contract = contract
        self._order = dict(order)
        self._note = note
        self._nodes: dict[int, int | None] = {}  # client by node; None where it names none that there is
        self._asked: dict[str, int] = {}  # node by query that is not answered yet
        self._started = False
        self._personal = parties.algorithm.trained_parameters().personal > 0

    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """See `Fleet.train`."""
        nodes = self._find_nodes(clients)
        with self._parties.stopwatch.measure("exchange"):
            messages = self._messages(payload, nodes, progress)
        with self._parties.stopwatch.measure("steps"):
            arrived = self._exchange(payload, clients, nodes, messages)
        self._require_quorum(payload.round, clients, arrived)
        return arrived

    def _messages(self, payload: Payload, nodes: Mapping[int, int], progress: Progress) -> list[Message]:
        """The broadcast to each client, which says from which of its rounds on it goes on."""
        parcel = pack_payload(payload, self._contract)
        # One record for all: Flower sends a chunk of an array once, and its digests are of the record.
        arrays, ttl = _array_record(parcel), self._parties.experiment.deployment.round_timeout
        messages = []
        for client, node in nodes.items():
            kept = last_used(progress, client) if self._personal else 0
            content = _records(arrays, {**parcel.scalars, **self._order, CLIENT: client, KEPT: kept}, {})
            messages.append(Message(content, node, MessageType.TRAIN, ttl=ttl, group_id=str(payload.round)))
        return messages

    def _exchange(
        self, payload: Payload, clients: Sequence[int], nodes: Mapping[int, int], messages: Sequence[Message]
    ) -> Arrivals:
        """Send the broadcasts; replies as updates and failures, each unpacked when it arrives, so that one is held."""
        timeout = self._parties.experiment.deployment.round_timeout
        client_of = {node: client for client, node in nodes.items()}
        updates: dict[int, Update] = {}
        failures: dict[int, str] = {}
        scores: dict[int, Scores] = {}

        def fail(client: int, reason: str) -> None:
            failures[client] = reason
            self._note(f"Round {payload.round} goes on without client {client}: {reason}")

        waiting = self._push(messages)
        deadline = time.monotonic() + timeout
        for client in clients:
            if client not in nodes:
                fail(client, "no node of it is connected.")
            elif nodes[client] not in waiting.values():
                fail(client, "its node left before the broadcast was sent.")
        for node, reply in self._replies(waiting, deadline):
            client = client_of[node]
            try:
                with self._parties.stopwatch.measure("exchange"):
                    updates[client], measured = self._update(payload, client, reply)
            except RejectedMessageError as error:
                fail(client, error.message)
                continue
            if measured is not None:
                scores[client] = measured
            self._parties.observer.client_finished(client)
        for node in waiting.values():
            fail(client_of[node], f"no reply within {timeout:g} seconds.")
        return Arrivals(
            [updates[client] for client in clients if client in updates],
            {client: failures[client] for client in clients if client in failures},
            {client: scores[client] for client in clients if client in scores},
        )

    def _update(self, payload: Payload, client: int, reply: Message) -> tuple[Update, Scores | None]:
        """The update in a reply. Raises RejectedMessageError."""
        experiment, algorithm = self._parties.experiment, self._parties.algorithm
        if reply.has_error():
            raise RejectedMessageError(f"it failed: {(reply.error.reason or f'error {reply.error.code}')[:1000]}")
        terms = Terms(
            self._contract,
            client,
            payload.round,
            len(self._parties.clients[client]),
            len(algorithm.task.class_names),
            algorithm.expected_update(payload),
            experiment.deployment.max_update_norm,
            self._personal,
        )
        return unpack_update(from_records(reply.content), terms)

    def _require_quorum(self, round_number: int, clients: Sequence[int], arrived: Arrivals) -> None:
        # A simulated loss leaves fewer clients that could answer, which is no failure of a node.
        needed = min(self._parties.experiment.deployment.min_clients, len(clients))
        if len(arrived.updates) >= needed:
            return
        reasons = " ".join(f"Client {client}: {reason}" for client, reason in arrived.failures.items())
        raise ClientError(
            f"Round {round_number} has {len(arrived.updates)} usable updates of {len(clients)}, "
            f"deployment.min_clients = {self._parties.experiment.deployment.min_clients}; nothing of it was kept. "
            f"{reasons}",
            "Mend or restart these clients and resume the run; the last checkpoint is intact.",
        )

    def _find_nodes(self, clients: Sequence[int]) -> dict[int, int]:
        """Nodes by client. At first all clients are waited for, later as many as a round needs."""
        deployment = self._parties.experiment.deployment
        needed = min(deployment.min_clients, len(clients)) if self._started else len(clients)
        deadline = time.monotonic() + deployment.round_timeout
        while True:
            self._meet_nodes()
            # Of two nodes that say they are the same client the one that said so first is it.
            claims = {client: node for node, client in reversed(self._nodes.items()) if client is not None}
            found = {client: claims[client] for client in clients if client in claims}
            if len(found) >= needed or time.monotonic() >= deadline:
                self._started = True
                return found
            _sleep_until(deadline)

    def _meet_nodes(self) -> None:
        """Forget nodes that left, ask new ones which client they are, and hear what those asked earlier say.

        None is waited for here: a node that hangs would hold the round.
        """
        present = set(self._grid.get_node_ids())
        self._nodes = {node: client for node, client in self._nodes.items() if node in present}
        self._asked = {query: node for query, node in self._asked.items() if node in present}
        new = sorted(present - self._nodes.keys() - set(self._asked.values()))
        ttl = self._parties.experiment.deployment.round_timeout
        self._asked |= self._push([Message(RecordDict(), node, MessageType.QUERY, ttl=ttl) for node in new])
        for node, reply in self._pull(self._asked):
            self._nodes[node] = self._introduced(node, reply)

    def _introduced(self, node: int, reply: Message) -> int | None:
        """The client that a node says it is; None, with a note, where that helps nobody."""
        if reply.has_error():
            self._note(f"Node {node} cannot say which client it is: {(reply.error.reason or '')[:1000]}")
            return None
        record = reply.content.config_records.get(SCALARS)
        client = record.get(CLIENT) if record is not None else None
        if type(client) is not int or not 0 <= client < len(self._parties.clients):
            self._note(f"Node {node} says that it is client {client!r}; there are {len(self._parties.clients)}.")
            return None
        if client in self._nodes.values():
            self._note(f"Node {node} says that it is client {client}, which another node is already.")
        return client

    def _push(self, messages: Sequence[Message]) -> dict[str, int]:
        """Send; nodes by message, of those messages that Flower took."""
        taken = set(self._grid.push_messages(messages)) if messages else set()
        sent = [message.metadata for message in messages]
        return {each.message_id: each.dst_node_id for each in sent if each.message_id in taken}

    def _pull(self, waiting: dict[str, int]) -> Iterator[tuple[int, Message]]:
        """Replies that are there, with the node that was asked; those messages are waited for no longer.

        Flower answers for a node that is gone in its own name, so a reply is known by what it replies to.
        """
        for reply in self._grid.pull_messages(list(waiting)) if waiting else ():
            yield waiting.pop(reply.metadata.reply_to_message_id), reply

    def _replies(self, waiting: dict[str, int], deadline: float) -> Iterator[tuple[int, Message]]:
        """Replies as they arrive, until there is one to each message or the time is up."""
        while True:
            yield from self._pull(waiting)
            if not waiting or time.monotonic() >= deadline:
                return
            _sleep_until(deadline)


def _sleep_until(deadline: float) -> None:
    """Sleep between two looks, but not beyond the deadline."""
    time.sleep(max(min(SECONDS_BETWEEN_LOOKS, deadline - time.monotonic()), 0.0))


def last_used(progress: Progress, client: int) -> int:
    """Last round whose update of a client was aggregated; 0 for none."""
    rounds = [r["round"] for r in progress.records if client in r["clients"] and client not in r["lost"]]
    return max(rounds, default=0)


def client_app(answer: Callable[[int, Parcel], Parcel]) -> ClientApp:
    """Flower's ClientApp around a function of client id and broadcast; its FeddtlErrors travel as text."""

    def introduce(message: Message, context: Context) -> Message:
        return Message(RecordDict({SCALARS: ConfigRecord({CLIENT: _partition(context)})}), reply_to=message)

    def train(message: Message, context: Context) -> Message:
        try:
            reply = answer(_partition(context), from_records(message.content))
        except FeddtlError as error:
            reply = Parcel({}, {ERROR: str(error)})
        return Message(to_records(reply), reply_to=message)

    app = ClientApp()
    # No decorators: a check of types where flwr is not installed would take them for untyped.
    app.query()(introduce)
    app.train()(train)
    return app


def server_app(serve: Callable[[Grid, Mapping[str, Scalar]], None]) -> ServerApp:
    """Flower's ServerApp around a function of the grid and the run configuration."""

    def main(grid: Grid, context: Context) -> None:
        serve(grid, dict(context.run_config))

    app = ServerApp()
    app.main()(main)
    return app


def _partition(context: Context) -> int:
    partition = context.node_config.get(PARTITION)
    if not isinstance(partition, int):
        raise ClientError(
            f"This node's configuration has {PARTITION} = {partition!r}.",
            f"Start it with --node-config '{PARTITION}=0' (its client id, from 0).",
        )
    return partition
