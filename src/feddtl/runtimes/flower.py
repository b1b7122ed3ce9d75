"""Parcels over Flower: the only module that imports flwr.

The server sends one message per client and round and gets one back, with metrics and scores in it. Which client a node
is, it is asked once, when the node appears: partition-id of its node configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
SECONDS_BETWEEN_LOOKS = 0.5


def to_records(parcel: Parcel) -> RecordDict:
    """A parcel as Flower's records."""
    arrays = {name: Array(np.ascontiguousarray(array)) for name, array in parcel.arrays.items()}
    metrics: dict[str, int | float | list[int] | list[float]] = {**parcel.metrics}
    return RecordDict(
        {ARRAYS: ArrayRecord(arrays), SCALARS: ConfigRecord(dict(parcel.scalars)), METRICS: MetricRecord(metrics)}
    )


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
        self._nodes: dict[int, int] = {}  # client by node
        self._personal = parties.algorithm.trained_parameters().personal > 0

    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """See `Fleet.train`."""
        deadline = time.monotonic() + self._parties.experiment.deployment.round_timeout
        nodes = self._find_nodes(clients, deadline)
        with self._parties.stopwatch.measure("exchange"):
            parcel = pack_payload(payload, self._contract)
        messages = [self._message(parcel, client, nodes[client], progress) for client in clients if client in nodes]
        with self._parties.stopwatch.measure("steps"):
            remaining = max(deadline - time.monotonic(), 0.0)
            replies = list(self._grid.send_and_receive(messages, timeout=remaining)) if messages else []
        with self._parties.stopwatch.measure("exchange"):
            arrived = self._read(payload, clients, nodes, replies)
        self._require_quorum(payload.round, clients, arrived)
        return arrived

    def _message(self, parcel: Parcel, client: int, node: int, progress: Progress) -> Message:
        """The broadcast to one client, which says from which of its rounds on it goes on."""
        kept = last_used(progress, client) if self._personal else 0
        scalars = {**parcel.scalars, **self._order, CLIENT: client, KEPT: kept}
        return Message(
            to_records(Parcel(parcel.arrays, scalars)),
            node,
            MessageType.TRAIN,
            ttl=self._parties.experiment.deployment.round_timeout,
            group_id=str(parcel.scalars["round"]),
        )

    def _read(
        self, payload: Payload, clients: Sequence[int], nodes: Mapping[int, int], replies: Sequence[Message]
    ) -> Arrivals:
        """Replies sorted into updates and failures."""
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        updates: list[Update] = []
        failures: dict[int, str] = {}
        scores: dict[int, Scores] = {}
        for client in clients:
            try:
                if client not in nodes:
                    raise RejectedMessageError("no node of it is connected.")
                update, measured = self._update(payload, client, by_node.get(nodes[client]))
            except RejectedMessageError as error:
                failures[client] = error.message
                self._note(f"Round {payload.round} goes on without client {client}: {error.message}")
                continue
            updates.append(update)
            if measured is not None:
                scores[client] = measured
            self._parties.observer.client_finished(client)
        return Arrivals(updates, failures, scores)

    def _update(self, payload: Payload, client: int, reply: Message | None) -> tuple[Update, Scores | None]:
        """The update in a reply. Raises RejectedMessageError."""
        experiment, algorithm = self._parties.experiment, self._parties.algorithm
        if reply is None:
            raise RejectedMessageError(f"no reply within {experiment.deployment.round_timeout:g} seconds.")
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

    def _find_nodes(self, clients: Sequence[int], deadline: float) -> dict[int, int]:
        """Nodes by client. At first all clients are waited for, later as many as a round needs."""
        started = bool(self._nodes)
        needed = min(self._parties.experiment.deployment.min_clients, len(clients)) if started else len(clients)
        while True:
            self._meet_new_nodes()
            found = {client: node for node, client in self._nodes.items() if client in clients}
            if len(found) >= needed or time.monotonic() >= deadline:
                return found
            time.sleep(min(SECONDS_BETWEEN_LOOKS, max(deadline - time.monotonic(), 0.0)))

    def _meet_new_nodes(self) -> None:
        """Forget nodes that left; ask new ones which client they are."""
        present = set(self._grid.get_node_ids())
        self._nodes = {node: client for node, client in self._nodes.items() if node in present}
        new = sorted(present - self._nodes.keys())
        if not new:
            return
        timeout = self._parties.experiment.deployment.round_timeout
        messages = [Message(RecordDict(), node, MessageType.QUERY, ttl=timeout) for node in new]
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():
                self._note(f"Node {node} cannot say which client it is: {(reply.error.reason or '')[:1000]}")
                continue
            self._introduce(node, reply.content)

    def _introduce(self, node: int, content: RecordDict) -> None:
        record = content.config_records.get(SCALARS)
        client = record.get(CLIENT) if record is not None else None
        if not isinstance(client, int) or not 0 <= client < len(self._parties.clients):
            self._note(f"Node {node} says that it is client {client!r}; there are {len(self._parties.clients)}.")
        elif client in self._nodes.values():
            self._note(f"Node {node} says that it is client {client}, which another node is already.")
        else:
            self._nodes[node] = client


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
