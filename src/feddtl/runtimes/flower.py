"""Parcels over Flower: the only module that imports flwr.

The server sends one message per client and round and gets one back, with metrics and scores in it. Which client a node
is, it is asked once, when the node appears: partition-id of its node configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import httpx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import Array
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid as Grid
from flwr.serverapp import ServerApp

from feddtl.algorithms.base import Payload
from feddtl.errors import ClientError, FeddtlError
from feddtl.evaluate import HitCounts, Scores
from feddtl.runtimes.fleet import Arrivals, Evaluation, Fleet
from feddtl.runtimes.node import Holdings, Node, Request
from feddtl.runtimes.parties import Parties
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.wire import (
    Contract,
    Parcel,
    RejectedMessageError,
    Reply,
    Scalar,
    Terms,
    pack_payload,
    unpack_counts,
    unpack_holdings,
    unpack_reply,
)

ARRAYS, SCALARS, METRICS = "arrays", "scalars", "metrics"
PARTITION, DATA, MODEL = "partition-id", "data", "model"
CLIENT, KEPT, ERROR, NOTES = "client", "kept", "error", "notes"
MOST_NOTES = 2000  # characters of what a client says
Result = TypeVar("Result")
# A look costs SuperLink a transaction: the longer something takes, the rarer it is looked for.
SHARE_BETWEEN_LOOKS, LEAST_BETWEEN_LOOKS, MOST_BETWEEN_LOOKS = 0.05, 0.25, 3.0  # of the time waited; seconds
TRIES, SECONDS_BETWEEN_TRIES = 5, 2.0
# What Flower answers itself when no answer of the node will come.
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
_ACTS = {MessageType.TRAIN: "Round {}", MessageType.EVALUATE: "The closing evaluation"}


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
        self._own_images = parties.experiment.data.on_clients
        self._held: dict[int, Holdings] = {}  # by node, where clients have images of their own
        self._refusals: dict[int, tuple[object, str]] = {}  # by node, its client and why it cannot take part
        self._personal = parties.algorithm.trained_parameters().personal > 0

    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """See `Fleet.train`."""
        nodes = self._find_nodes(clients)
        kept = {client: last_used(progress, client) if self._personal else 0 for client in nodes}

        def read(client: int, parcel: Parcel) -> Reply:
            reply = unpack_reply(parcel, self._terms(payload, client, nodes[client]))
            self._parties.observer.client_finished(client)
            return reply

        with self._parties.stopwatch.measure("steps"):
            replies, failures = self._exchange(MessageType.TRAIN, payload, clients, nodes, kept, read)
        self._require_quorum(payload.round, clients, replies, failures)
        return Arrivals(
            [reply.update for reply in replies.values()],
            failures,
            self._scores_of(replies),
            {client: reply.counts for client, reply in replies.items() if reply.counts and reply.counts.images},
            {client: reply.own for client, reply in replies.items() if reply.own},
        )

    def evaluate(self, payload: Payload, progress: Progress) -> Evaluation:
        """See `Fleet.evaluate`."""
        clients = range(len(self._parties.clients))
        nodes = self._find_nodes(clients)

        def read(client: int, parcel: Parcel) -> HitCounts:
            return unpack_counts(parcel, client, payload.round, self._images(client, nodes[client]), self._contract)

        with self._parties.stopwatch.measure("evaluation"):
            counts, failures = self._exchange(MessageType.EVALUATE, payload, clients, nodes, {}, read)
        return Evaluation({client: found for client, found in counts.items() if found.images}, failures)

    def _exchange(
        self,
        request: str,
        payload: Payload,
        clients: Sequence[int],
        nodes: Mapping[int, int],
        kept: Mapping[int, int],
        read: Callable[[int, Parcel], Result],
    ) -> tuple[dict[int, Result], dict[int, str]]:
        """Send a broadcast; by client, what is read from its reply, or why there is none that can be used.

        Each reply is read when it arrives, so that one is held.
        """
        timeout = self._parties.experiment.deployment.round_timeout
        client_of = {node: client for client, node in nodes.items()}
        results: dict[int, Result] = {}
        failures: dict[int, str] = {}

        def fail(client: int, reason: str) -> None:
            failures[client] = reason
            self._note(f"{_ACTS[request].format(payload.round)} goes on without client {client}: {reason}")

        with self._parties.stopwatch.measure("exchange"):
            waiting = self._push(self._messages(request, payload, nodes, kept))
        deadline = time.monotonic() + timeout
        for client in clients:
            if client not in nodes:
                fail(client, self._reason_of_absence(client))
            elif nodes[client] not in waiting.values():
                fail(client, "its node left before the broadcast was sent.")
        for node, reply in self._replies(waiting, deadline):
            client = client_of[node]
            try:
                with self._parties.stopwatch.measure("exchange"):
                    results[client] = read(client, _content(reply))
            except RejectedMessageError as error:
                fail(client, error.message)
        for node in waiting.values():
            fail(client_of[node], f"no reply within {timeout:g} seconds.")
        return {c: results[c] for c in clients if c in results}, {c: failures[c] for c in clients if c in failures}

    def _messages(
        self, request: str, payload: Payload, nodes: Mapping[int, int], kept: Mapping[int, int]
    ) -> list[Message]:
        """The broadcast to each client, which says from which of its rounds on it goes on."""
        parcel = pack_payload(payload, self._contract)
        # One record for all: Flower sends a chunk of an array once, and its digests are of the record.
        arrays, ttl = _array_record(parcel), self._parties.experiment.deployment.round_timeout
        messages = []
        for client, node in nodes.items():
            scalars = {**parcel.scalars, **self._order, CLIENT: client, KEPT: kept.get(client, 0)}
            messages.append(Message(_records(arrays, scalars, {}), node, request, ttl=ttl, group_id=str(payload.round)))
        return messages

    def _terms(self, payload: Payload, client: int, node: int) -> Terms:
        """What the reply of a client in a round must be."""
        experiment, algorithm = self._parties.experiment, self._parties.algorithm
        return Terms(
            self._contract,
            client,
            payload.round,
            self._images(client, node),
            len(algorithm.task.class_names),
            algorithm.expected_update(payload),
            experiment.deployment.max_update_norm,
            measured=self._personal and not self._own_images,
            counted=experiment.is_scored(payload.round - 1),
            own_counted=experiment.is_scored(payload.round),
        )

    def _scores_of(self, replies: Mapping[int, Reply]) -> dict[int, Scores]:
        """Scores of the clients' own models that only they can measure."""
        if self._own_images:
            nothing = Scores(math.nan, math.nan, math.nan)
            return {client: reply.own.scores if reply.own else nothing for client, reply in replies.items()}
        return {client: reply.scores for client, reply in replies.items() if reply.scores}

    def train_images(self, client: int) -> int:
        """See `Fleet.train_images`."""
        held = [images.train for node, images in self._held.items() if self._nodes.get(node) == client]
        return held[0] if held else len(self._parties.clients[client])

    def _images(self, client: int, node: int) -> Holdings:
        """How many images a client has: as its node said, or by the partition."""
        if self._own_images:
            return self._held[node]
        return Holdings(len(self._parties.clients[client]), len(self._parties.sets.shares[client]))

    def _reason_of_absence(self, client: int) -> str:
        reasons = (reason for refused, reason in self._refusals.values() if refused == client)
        return next(reasons, "no node of it is connected.")

    def _require_quorum(
        self, round_number: int, clients: Sequence[int], usable: Sized, failures: Mapping[int, str]
    ) -> None:
        # A simulated loss leaves fewer clients that could answer, which is no failure of a node.
        needed = min(self._parties.experiment.deployment.min_clients, len(clients))
        if len(usable) >= needed:
            return
        reasons = " ".join(f"Client {client}: {reason}" for client, reason in failures.items())
        raise ClientError(
            f"Round {round_number} has {len(usable)} usable updates of {len(clients)}, "
            f"deployment.min_clients = {self._parties.experiment.deployment.min_clients}; nothing of it was kept. "
            f"{reasons}",
            "Mend or restart these clients and resume the run; the last checkpoint is intact.",
        )

    def _find_nodes(self, clients: Sequence[int]) -> dict[int, int]:
        """Nodes by client. At first all clients are waited for, later as many as a round needs."""
        deployment = self._parties.experiment.deployment
        needed = min(deployment.min_clients, len(clients)) if self._started else len(clients)
        begun = time.monotonic()
        deadline = begun + deployment.round_timeout
        # Whoever refused is asked again: its images may have been mended.
        self._nodes = {node: client for node, client in self._nodes.items() if node not in self._refusals}
        while True:
            self._meet_nodes()
            # Of two nodes that say they are the same client the one that said so first is it.
            claims = {client: node for node, client in reversed(self._nodes.items()) if client is not None}
            found = {client: claims[client] for client in clients if client in claims}
            # A node that says why it cannot take part is not waited for.
            refused = {client for client, _ in self._refusals.values()} - found.keys()
            settled = len(found) + (0 if self._started else len(refused))
            if settled >= needed or time.monotonic() >= deadline:
                self._started = True
                return found
            _pause(begun, deadline)

    def _meet_nodes(self) -> None:
        """Forget nodes that left, ask new ones which client they are, and hear what those asked earlier say.

        None is waited for here: a node that hangs would hold the round.
        """
        present = set(self._served(self._grid.get_node_ids))
        self._nodes = {node: client for node, client in self._nodes.items() if node in present}
        self._asked = {query: node for query, node in self._asked.items() if node in present}
        self._refusals = {node: refusal for node, refusal in self._refusals.items() if node in present}
        new = sorted(present - self._nodes.keys() - set(self._asked.values()))
        ttl, question = self._parties.experiment.deployment.round_timeout, to_records(Parcel({}, self._order))
        self._asked |= self._push([Message(question, node, MessageType.QUERY, ttl=ttl) for node in new])
        for node, reply in self._pull(self._asked):
            # A question that was lost on the way, or with a process that died, is asked again at the next look.
            if not (reply.has_error() and reply.error.code in LOST):
                self._nodes[node] = self._introduced(node, reply)

    def _introduced(self, node: int, reply: Message) -> int | None:
        """The client that a node says it is; None, with a note, where that helps nobody."""
        if reply.has_error():
            self._note(f"Node {node} cannot say which client it is: {(reply.error.reason or '')[:1000]}")
            return None
        record = reply.content.config_records.get(SCALARS)
        client = record.get(CLIENT) if record is not None else None
        if not self._can_take_part(node, client, reply):
            return None
        if type(client) is not int or not 0 <= client < len(self._parties.clients):
            self._note(f"Node {node} says that it is client {client!r}; there are {len(self._parties.clients)}.")
            return None
        if client in self._nodes.values():
            self._note(f"Node {node} says that it is client {client}, which another node is already.")
        return client

    def _can_take_part(self, node: int, client: object, reply: Message) -> bool:
        """Whether a node answers with what is needed; where not, the reason is kept, and noted once."""
        try:
            parcel = _content(reply)
            if self._own_images:
                data, classes = self._parties.experiment.data, len(self._parties.algorithm.task.class_names)
                self._held[node] = unpack_holdings(parcel, data.shots * classes if data.regime == "few-shot" else None)
        except RejectedMessageError as error:
            if self._refusals.get(node) != (client, error.message):
                self._note(f"Node {node}, client {client}, cannot take part: {error.message}")
            self._refusals[node] = (client, error.message)
            return False
        self._refusals.pop(node, None)
        for note in filter(None, str(parcel.scalars.get(NOTES, ""))[:MOST_NOTES].splitlines()):
            self._note(f"Client {client}: {note}")
        return True

    def _push(self, messages: Sequence[Message]) -> dict[str, int]:
        """Send; nodes by message, of those messages that Flower took."""
        taken = set(self._served(lambda: self._grid.push_messages(messages))) if messages else set()
        sent = [message.metadata for message in messages]
        return {each.message_id: each.dst_node_id for each in sent if each.message_id in taken}

    def _pull(self, waiting: dict[str, int]) -> Iterator[tuple[int, Message]]:
        """Replies that are there, with the node that was asked; those messages are waited for no longer.

        Flower answers for a node that is gone in its own name, so a reply is known by what it replies to.
        """
        for reply in self._served(lambda: self._grid.pull_messages(list(waiting))) if waiting else ():
            yield waiting.pop(reply.metadata.reply_to_message_id), reply

    def _replies(self, waiting: dict[str, int], deadline: float) -> Iterator[tuple[int, Message]]:
        """Replies as they arrive, until there is one to each message or the time is up."""
        begun = time.monotonic()
        while True:
            yield from self._pull(waiting)
            if not waiting or time.monotonic() >= deadline:
                return
            _pause(begun, deadline)

    def _served(self, call: Callable[[], Result]) -> Result:
        """What a request to SuperLink gives; it is made again where SuperLink fails.

        Flower itself makes requests again only where SuperLink cannot be reached.
        """
        for _ in range(TRIES - 1):
            try:
                return call()
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
                self._note(f"A request to Flower's SuperLink failed and is made again: {error}")
            time.sleep(SECONDS_BETWEEN_TRIES)
        return call()


def _pause(begun: float, deadline: float) -> None:
    """Sleep between two looks at what has been waited for since `begun`, but not beyond the deadline."""
    now = time.monotonic()
    pause = min(max(SHARE_BETWEEN_LOOKS * (now - begun), LEAST_BETWEEN_LOOKS), MOST_BETWEEN_LOOKS)
    time.sleep(max(min(pause, deadline - now), 0.0))


def last_used(progress: Progress, client: int) -> int:
    """Last round whose update of a client was aggregated; 0 for none."""
    rounds = [r["round"] for r in progress.records if client in r["clients"] and client not in r["lost"]]
    return max(rounds, default=0)


def client_app(answer: Callable[[Request, Node, Parcel], Parcel]) -> ClientApp:
    """Flower's ClientApp around a function of request, node and message; its FeddtlErrors travel as text."""

    def handler(request: Request) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            try:
                reply = answer(request, _node(context), from_records(message.content))
            except FeddtlError as error:
                client = context.node_config.get(PARTITION)
                reply = Parcel({}, {ERROR: str(error), **({CLIENT: client} if isinstance(client, int) else {})})
            return Message(to_records(reply), reply_to=message)

        return handle

    app = ClientApp()
    # No decorators: a check of types where flwr is not installed would take them for untyped.
    app.query()(handler("query"))
    app.train()(handler("train"))
    app.evaluate()(handler("evaluate"))
    return app


def server_app(serve: Callable[[Grid, Mapping[str, Scalar]], None]) -> ServerApp:
    """Flower's ServerApp around a function of the grid and the run configuration."""

    def main(grid: Grid, context: Context) -> None:
        serve(grid, dict(context.run_config))

    app = ServerApp()
    app.main()(main)
    return app


def _content(reply: Message) -> Parcel:
    """What a client sent. Raises RejectedMessageError where it failed or refused."""
    if reply.has_error():
        raise RejectedMessageError(f"it failed: {(reply.error.reason or f'error {reply.error.code}')[:1000]}")
    return from_records(reply.content)


def _node(context: Context) -> Node:
    """A node's configuration. Raises ClientError for one that names no client."""
    config = context.node_config
    client = config.get(PARTITION)
    if type(client) is not int or client < 0:
        raise ClientError(
            f"This node's configuration has {PARTITION} = {client!r}.",
            f"Start it with --node-config '{PARTITION}=0' (its client id, from 0).",
        )
    return Node(client, str(config.get(DATA, "")), str(config.get(MODEL, "")))
