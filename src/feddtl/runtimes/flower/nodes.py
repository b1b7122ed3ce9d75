"""Which client a node of a Flower federation is, and whether it can take part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import Message, MessageType
from flwr.common.constant import ErrorCode

from feddtl.runtimes.flower.grid import RetryingGrid, pause
from feddtl.runtimes.flower.records import CLIENT, NOTES, SCALARS, content_of, to_records
from feddtl.runtimes.node import Holdings
from feddtl.runtimes.parties import Parties
from feddtl.runtimes.wire.contract import Parcel, RejectedMessageError, Scalar
from feddtl.runtimes.wire.messages import unpack_holdings

MOST_NOTES = 2000  # characters of what a client says
# What Flower answers itself when no answer of the node will come.
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)


class NodeDirectory:
    """The nodes of a run by client. A node is asked which client it is once, when it appears.

    Args:
        grid: Connection to the nodes.
        parties: The server's side; of its clients only the number of images is used.
        order: Scalars of every question.
        note: Told of what the user should know.
    """

    def __init__(
        self, grid: RetryingGrid, parties: Parties, order: Mapping[str, Scalar], note: Callable[[str], None]
    ) -> None:
        self._grid = grid
        self._parties = parties
        self._question = to_records(Parcel({}, order))
        self._note = note
        self._clients: dict[int, int | None] = {}  # by node; None where it names none that there is
        self._asked: dict[str, int] = {}  # node by question that is not answered yet
        self._started = False
        self._held: dict[int, Holdings] = {}  # by node, where clients have images of their own
        self._refusals: dict[int, tuple[object, str]] = {}  # by node, its client and why it cannot take part

    def find(self, clients: Sequence[int]) -> dict[int, int]:
        """Nodes by client. At first all clients are waited for, later as many as a round needs."""
        deployment = self._parties.experiment.deployment
        needed = min(deployment.min_clients, len(clients)) if self._started else len(clients)
        begun = time.monotonic()
        deadline = begun + deployment.round_timeout
        # Whoever refused is asked again: its images may have been mended.
        self._clients = {node: client for node, client in self._clients.items() if node not in self._refusals}
        while True:
            self._meet()
            # Of two nodes that say they are the same client the one that said so first is it.
            claims = {client: node for node, client in reversed(self._clients.items()) if client is not None}
            found = {client: claims[client] for client in clients if client in claims}
            # A node that says why it cannot take part is not waited for.
            refused = {client for client, _ in self._refusals.values()} - found.keys()
            settled = len(found) + (0 if self._started else len(refused))
            if settled >= needed or time.monotonic() >= deadline:
                self._started = True
                return found
            pause(begun, deadline)

    def train_images(self, client: int) -> int:
        """How many training images a client has; 0 where that is not known."""
        held = [images.train for node, images in self._held.items() if self._clients.get(node) == client]
        return held[0] if held else len(self._parties.clients[client])

    def holdings(self, client: int, node: int) -> Holdings:
        """How many images a client has: as its node said, or by the partition."""
        if self._parties.experiment.data.on_clients:
            return self._held[node]
        return Holdings(len(self._parties.clients[client]), len(self._parties.sets.shares[client]))

    def reason_of_absence(self, client: int) -> str:
        """Why a client that was not found is not there."""
        reasons = (reason for refused, reason in self._refusals.values() if refused == client)
        return next(reasons, "no node of it is connected.")

    def _meet(self) -> None:
        """Forget nodes that left, ask new ones which client they are, and hear what those asked earlier say.

        None is waited for here: a node that hangs would hold the round.
        """
        present = self._grid.nodes()
        self._clients = {node: client for node, client in self._clients.items() if node in present}
        self._asked = {query: node for query, node in self._asked.items() if node in present}
        self._refusals = {node: refusal for node, refusal in self._refusals.items() if node in present}
        new = sorted(present - self._clients.keys() - set(self._asked.values()))
        ttl = self._parties.experiment.deployment.round_timeout
        self._asked |= self._grid.push([Message(self._question, node, MessageType.QUERY, ttl=ttl) for node in new])
        for node, reply in self._grid.pull(self._asked):
            # A question that was lost on the way, or with a process that died, is asked again at the next look.
            if not (reply.has_error() and reply.error.code in LOST):
                self._clients[node] = self._introduced(node, reply)

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
        if client in self._clients.values():
            self._note(f"Node {node} says that it is client {client}, which another node is already.")
        return client

    def _can_take_part(self, node: int, client: object, reply: Message) -> bool:
        """Whether a node answers with what is needed; where not, the reason is kept, and noted once."""
        try:
            parcel = content_of(reply)
            if self._parties.experiment.data.on_clients:
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
