"""The clients of a run as nodes of a Flower federation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import suppress
from typing import TypeVar

import httpx
from flwr.app import Message, MessageType
from flwr.common.constant import ErrorCode

from feddtl.errors import ClientError
from feddtl.evaluate import HitCounts, Scores
from feddtl.messages import Payload
from feddtl.notes import Warned
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.fleet import Arrivals, Evaluation, Fleet
from feddtl.runtimes.flower.grid import Grid, RetryingGrid
from feddtl.runtimes.flower.nodes import TIMEOUT, NodeDirectory
from feddtl.runtimes.flower.records import (
    BEFORE_TRAINING,
    CLIENT,
    FAREWELL,
    KEPT,
    array_record,
    joined_records,
    to_records,
)
from feddtl.runtimes.rounds import Progress
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError, Scalar
from feddtl.runtimes.wire.messages import Reply, ReplyRequirements, pack_payload, unpack_counts, unpack_reply
from feddtl.units import duration

Result = TypeVar("Result")
SECONDS_FOR_FAREWELL = 10.0
# Flower's own answer for a message that is too old, which may be read before the round's time is over here.
EXPIRED, SECONDS_OF_DOUBT = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE), 1.0


class FlowerFleet(Fleet):
    """The clients of a run as nodes of a Flower federation.

    A client that is absent, fails, is late or sends an unusable reply loses its update. With fewer usable updates than
    `deployment.min_clients` the round fails.

    Args:
        grid: Flower's connection to the nodes.
        context: The server's side; of its clients only the number of images is used.
        contract: What nodes must have in common with the server.
        order: Scalars that are sent with every broadcast, in addition to those of the schema.
        note: Receives what the user should know.
        question: Scalars that are sent only with the question which client a node is, in addition to the order.
    """

    def __init__(
        self,
        grid: Grid,
        context: RunContext,
        contract: Contract,
        order: Mapping[str, Scalar],
        note: Callable[[str], None],
        question: Mapping[str, Scalar],
    ) -> None:
        self._grid = RetryingGrid(grid, note, context.observer.waiting)
        self._nodes = NodeDirectory(self._grid, context, {**order, **question}, note)
        self._context = context
        self._contract = contract
        self._order = dict(order)
        self._note = note
        self._last_reasons: dict[int, str] = {}  # by client, the last reason for its absence
        self._personal = context.method.trained_parameters().personal > 0

    def train(self, payload: Payload, clients: Sequence[int], progress: Progress) -> Arrivals:
        """See `Fleet.train`."""
        nodes = self._nodes.find(clients)
        kept = {client: last_used(progress, client) if self._personal else 0 for client in nodes}

        def read(client: int, parcel: Parcel) -> Reply:
            reply = unpack_reply(parcel, self._requirements(payload, client, nodes[client]))
            self._context.observer.client_finished(client)
            return reply

        with self._context.stopwatch.measure("steps"):
            replies, failures = self._exchange(MessageType.TRAIN, payload, clients, nodes, kept, read)
        self._require_quorum(payload.round, clients, replies, failures)
        return Arrivals(
            [reply.update for reply in replies.values()],
            failures,
            self._scores_of(replies),
            {client: reply.counts for client, reply in replies.items() if reply.counts},
            {client: reply.own for client, reply in replies.items() if reply.own},
            {client: reply.size for client, reply in replies.items()},
        )

    def evaluate(self, payload: Payload, progress: Progress) -> Evaluation:
        """See `Fleet.evaluate`."""
        clients = range(len(self._context.clients))
        nodes = self._nodes.find(clients)

        def read(client: int, parcel: Parcel) -> HitCounts:
            images = self._nodes.image_counts(client, nodes[client])
            return unpack_counts(parcel, client, payload.round, images, self._contract)

        with self._context.stopwatch.measure("evaluation"):
            counts, failures = self._exchange(MessageType.EVALUATE, payload, clients, nodes, {}, read)
        return Evaluation(counts, failures)

    def train_images(self, client: int) -> int:
        """See `Fleet.train_images`."""
        return self._nodes.train_images(client)

    def farewell(self, reason: str) -> None:
        """See `Fleet.farewell`. A client that trains gets the message when it has finished, if it is still there."""
        content = to_records(Parcel({}, {FAREWELL: reason}))
        nodes = self._nodes.known()
        with suppress(httpx.HTTPError):  # of a server that is itself the reason
            sent = self._grid.push(
                [Message(content, node, MessageType.QUERY, ttl=SECONDS_FOR_FAREWELL) for node in nodes]
            )
            for _ in self._grid.answers(sent, time.monotonic() + SECONDS_FOR_FAREWELL):
                pass

    def _exchange(
        self,
        request: str,
        payload: Payload,
        clients: Sequence[int],
        nodes: Mapping[int, int],
        kept: Mapping[int, int],
        read: Callable[[int, Parcel], Result],
    ) -> tuple[dict[int, Result], dict[int, str]]:
        """Send a broadcast; by client, what is read from its reply, or why there is no usable one.

        Each reply is read as soon as it arrives, so that only one is in memory.
        """
        timeout = self._context.experiment.deployment.round_timeout
        client_of = {node: client for client, node in nodes.items()}
        results: dict[int, Result] = {}
        failures: dict[int, str] = {}
        act = self._act(request, payload)

        def fail(client: int, reason: str) -> None:
            failures[client] = reason
            self._say_without(act, client, reason)

        # Counted from here, as SuperLink does: it accepts no reply to an older message.
        begun = time.monotonic()
        slowest, deadline = 0.0, begun + timeout
        late: list[int] = []
        with self._context.stopwatch.measure("exchange"):
            waiting = self._grid.push(self._messages(request, payload, nodes, kept))
        for client in clients:
            if client not in nodes:
                fail(client, self._nodes.reason_of_absence(client))
            elif nodes[client] not in waiting.values():
                fail(client, "its node left before the broadcast was sent.")
        for node, answer in self._grid.answers(waiting, deadline, self._nodes.look):
            client, took = client_of[node], time.monotonic() - begun
            if answer.code in EXPIRED and took >= timeout - SECONDS_OF_DOUBT:
                late.append(client)
                continue
            slowest = took
            if answer.refusal:
                fail(client, answer.refusal)
                continue
            try:
                with self._context.stopwatch.measure("exchange"):
                    results[client] = read(client, answer.parcel)
            except RejectedMessageError as error:
                fail(client, error.message)
        late += [client_of[node] for node in waiting.values()]
        if late:
            failures |= dict.fromkeys(late, f"no reply within {timeout:g} seconds ({TIMEOUT}).")
            self._say_late(act, sorted(late), slowest)
        return {c: results[c] for c in clients if c in results}, {c: failures[c] for c in clients if c in failures}

    def _is_first(self, request: str, payload: Payload) -> bool:
        """Whether a request is the evaluation before training."""
        return request == MessageType.EVALUATE and payload.round == 1 and self._context.experiment.trains

    def _act(self, request: str, payload: Payload) -> str:
        """What a request is, in words."""
        if request == MessageType.TRAIN:
            return f"Round {payload.round}"
        return "The evaluation before training" if self._is_first(request, payload) else "The closing evaluation"

    def _say_without(self, act: str, client: int, reason: str) -> None:
        """Note that a step continues without a client; a reason that stays the same is given once."""
        why = " for the same reason." if self._last_reasons.get(client) == reason else f": {reason}"
        self._last_reasons[client] = reason
        self._note(Warned(f"{act} continues without {self._context.names.one(client)}{why}"))

    def _say_late(self, act: str, late: Sequence[int], slowest: float) -> None:
        """Note that a step ran out of time, and how long it took others to reply."""
        self._last_reasons |= dict.fromkeys(late, "")
        timeout, names = self._context.experiment.deployment.round_timeout, self._context.names
        others = f" The slowest of the others replied after {duration(slowest, precise=True)}." if slowest else ""
        self._note(
            Warned(
                f"{act} ran out of time: after {timeout:g} seconds ({TIMEOUT}) there was no reply from "
                f"{names.all_of(late)}, and it continues without.{others} If a {names.noun} needs longer, raise "
                f"{TIMEOUT}."
            )
        )

    def _messages(
        self, request: str, payload: Payload, nodes: Mapping[int, int], kept: Mapping[int, int]
    ) -> list[Message]:
        """The broadcast to each client, with the round that the client's personal state continues from."""
        parcel = pack_payload(payload, self._contract)
        # One record for all: Flower sends a chunk of an array once, and its digests are of the record.
        arrays, ttl = array_record(parcel), self._context.experiment.deployment.round_timeout
        group = BEFORE_TRAINING if self._is_first(request, payload) else str(payload.round)
        messages = []
        for client, node in nodes.items():
            scalars = {**parcel.scalars, **self._order, CLIENT: client, KEPT: kept.get(client, 0)}
            content = joined_records(arrays, scalars, {})
            messages.append(Message(content, node, request, ttl=ttl, group_id=group))
        return messages

    def _requirements(self, payload: Payload, client: int, node: int) -> ReplyRequirements:
        """The requirements for a client's reply in a round."""
        experiment, method = self._context.experiment, self._context.method
        return ReplyRequirements(
            self._contract,
            client,
            payload.round,
            self._nodes.image_counts(client, node),
            len(method.task.class_names),
            method.expected_update(payload),
            self._context.chain,
            experiment.seed,
            measured=self._personal and not experiment.data.each_has_own,
            counted=experiment.is_scored(payload.round - 1),
            own_counted=experiment.is_scored(payload.round),
        )

    def _scores_of(self, replies: Mapping[int, Reply]) -> dict[int, Scores]:
        """Scores of the clients' own models that only they can measure."""
        data = self._context.experiment.data
        if data.on_clients or (data.by_site and self._personal):
            nothing = Scores(math.nan, math.nan, math.nan)
            return {client: reply.own.scores if reply.own else nothing for client, reply in replies.items()}
        return {client: reply.scores for client, reply in replies.items() if reply.scores}

    def _require_quorum(
        self, round_number: int, clients: Sequence[int], usable: Sized, failures: Mapping[int, str]
    ) -> None:
        # Simulated losses leave fewer clients that could answer, which is not a failure of a node.
        needed = min(self._context.experiment.deployment.min_clients, len(clients))
        if len(usable) >= needed:
            return
        reasons = " ".join(f"{self._context.names.begin(client)}: {reason}" for client, reason in failures.items())
        longer = f" To wait longer, resume with a higher {TIMEOUT}." if TIMEOUT in reasons else ""
        raise ClientError(
            f"Round {round_number} has {len(usable)} usable updates of {len(clients)}, "
            f"deployment.min_clients = {self._context.experiment.deployment.min_clients}; the round was discarded. "
            f"{reasons}",
            f"Repair or restart these clients, then resume the run. The last checkpoint is intact.{longer}",
            for_clients=f"Round {round_number} had no usable update of {self._context.names.all_of(list(failures))}, "
            f"and with {len(usable)} of {len(clients)} it was discarded.",
        )


def last_used(progress: Progress, client: int) -> int:
    """Last round whose update of a client was aggregated; 0 for none."""
    rounds = [r.round for r in progress.records if client in r.clients and client not in r.lost]
    return max(rounds, default=0)
