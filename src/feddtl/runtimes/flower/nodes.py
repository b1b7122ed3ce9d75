"""Which client a node of a Flower federation is, and whether it can take part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.common.constant import ErrorCode

from feddtl.errors import ClientError
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.flower.grid import Answer, RetryingGrid
from feddtl.runtimes.flower.records import CLIENT, MISMATCH, NOTES, to_records
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import Parcel, RejectedMessageError, Scalar, plain, short
from feddtl.runtimes.wire.messages import unpack_image_counts
from feddtl.units import counted, listed

MOST_NOTES = 2000  # characters of a client's notes
TIMEOUT = "deployment.round_timeout"
SECONDS_WITHOUT_WORD = 10.0  # before the user is told who is waited for
MOST_QUESTIONS = 3  # to a node whose process fails, in one search
# What Flower answers itself when no answer of the node will come.
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot take part.

    Attributes:
        client: The client that it claims to be; None if it names none.
        reason: As text.
        mismatch: Whether its classes are not those of the experiment.
    """

    client: int | None
    reason: str
    mismatch: bool = False


class NodeDirectory:
    """The nodes of a run by client. A node is asked which client it is once, when it appears.

    Args:
        grid: Connection to the nodes.
        context: The server's side; of its clients only the number of images is used.
        order: Scalars of every question.
        note: Receives what the user should know.
    """

    def __init__(
        self, grid: RetryingGrid, context: RunContext, order: Mapping[str, Scalar], note: Callable[[str], None]
    ) -> None:
        self._grid = grid
        self._context = context
        self._question = to_records(Parcel({}, order))
        self._note = note
        self._clients: dict[int, int] = {}  # by node
        self._refusals: dict[int, Refusal] = {}  # by node, the latest
        self._doubtful: set[int] = set()  # nodes to be asked again
        self._asked: dict[str, int] = {}  # node by question that is not answered yet
        self._failed: Counter[int] = Counter()  # by node, questions since the search began that it failed to answer
        self._image_counts: dict[int, ImageCounts] = {}  # by node, where clients have images of their own
        self._train_images: dict[int, int] = {}  # by client, likewise
        self._seen: set[int] = set()  # clients that have ever had a node
        self._told: list[int] = []  # clients that were connected when that was told
        self._started = False

    def find(self, clients: Sequence[int]) -> dict[int, int]:
        """Nodes by client. The first call waits for all clients, later calls for as many as a round needs.

        Raises:
            ClientError: At the first call, if the classes of a client are not those of the experiment.
        """
        deployment = self._context.experiment.deployment
        needed = min(deployment.min_clients, len(clients)) if self._started else len(clients)
        begun = time.monotonic()
        deadline = begun + deployment.round_timeout
        # Whoever refused is asked again: its images may have been corrected since.
        self._doubtful, self._failed = set(self._refusals), Counter()
        longest = f"{deployment.round_timeout:g} seconds ({TIMEOUT})"
        said = False
        while True:
            self._update()
            # Of two nodes that claim to be the same client, the one that claimed it first counts.
            claims = {client: node for node, client in reversed(self._clients.items())}
            found = {client: claims[client] for client in clients if client in claims}
            # A client that refuses with a reason is not waited for.
            refused = {refusal.client for refusal in self._refusals.values()} & (set(clients) - found.keys())
            self._tell(claims)
            if not (self._started or self._asked):
                self._require_classes()
            settled = len(found) + (0 if self._started else len(refused))
            late, waited = settled < needed, time.monotonic() - begun
            awaited = [client for client in clients if client not in found and client not in refused] if late else []
            if not late or time.monotonic() >= deadline:
                if awaited:
                    self._note(f"Waited {longest} for {self._context.names.all_of(awaited)} to connect.")
                self._started = True
                return found
            if awaited and not said and waited >= SECONDS_WITHOUT_WORD:
                said = True
                self._note(f"Waiting up to {longest} for {self._context.names.all_of(awaited)} to connect.")
            self._grid.pause(begun, deadline)

    def look(self) -> None:
        """Ask nodes that appear while a round is running, so that their clients take part in the next one."""
        self._update()
        self._tell(set(self._clients.values()))

    def _require_classes(self) -> None:
        """Raise ClientError if clients have other classes, which would be missing in the whole run."""
        found = {refusal.client: refusal.reason for refusal in self._refusals.values() if refusal.mismatch}
        if found:
            named = {"a client" if c is None else self._name(c): why for c, why in sorted(found.items(), key=str)}
            reasons = " ".join(f"{who[0].upper()}{who[1:]}: {why}" for who, why in named.items())
            raise ClientError(
                f"{counted(len(found), 'client')} cannot participate, so no round was begun. {reasons}",
                "Correct the names of the classes there, or in the experiment, and start the run again.",
                for_clients=f"The classes of {listed(list(named))} are not those of the "
                "experiment, so no round was begun.",
            )

    def _tell(self, clients: Iterable[int]) -> None:
        """Tell the observer which clients are connected, if that has changed."""
        if (connected := sorted(clients)) != self._told:
            self._told = connected
            self._context.observer.clients_connected(connected, len(self._context.clients))

    def known(self) -> list[int]:
        """Nodes that were there at the last look and are a client, or refused to be one."""
        return sorted(self._clients.keys() | self._refusals.keys())

    def train_images(self, client: int) -> int:
        """How many training images a client has; 0 where that is not known."""
        return self._train_images.get(client, len(self._context.clients[client]))

    def image_counts(self, client: int, node: int) -> ImageCounts:
        """How many images a client has, by its node's own count or by the partition."""
        if self._context.experiment.data.on_clients:
            return self._image_counts[node]
        base, novel = self._context.sets.of(client)
        return ImageCounts(len(self._context.clients[client]), len(base.labels), len(novel.labels))

    def reason_of_absence(self, client: int) -> str:
        """Why a client was not found."""
        reasons = [refusal.reason for refusal in self._refusals.values() if refusal.client == client]
        if reasons:
            return reasons[0]
        unnamed = {node: refusal.reason for node, refusal in self._refusals.items() if refusal.client is None}
        others = [f"Node {node} does not say which client it is: {reason}" for node, reason in unnamed.items()]
        return " ".join(["none of its nodes is connected.", *others])

    def _update(self) -> None:
        """Forget nodes that left, ask new ones which client they are, and read the answers to earlier questions.

        Does not wait for any of them: a node that hangs would stop the round.
        """
        present = self._grid.nodes()
        self._clients = {node: client for node, client in self._clients.items() if node in present}
        self._asked = {question: node for question, node in self._asked.items() if node in present}
        self._refusals = {node: refusal for node, refusal in self._refusals.items() if node in present}
        settled = self._clients.keys() | (self._refusals.keys() - self._doubtful) | set(self._asked.values())
        new = sorted(present - settled)
        self._doubtful -= set(new)
        ttl = self._context.experiment.deployment.round_timeout
        self._asked |= self._grid.push([Message(self._question, node, MessageType.QUERY, ttl=ttl) for node in new])
        for node, answer in self._grid.pull(self._asked):
            self._keep(node, answer)

    def _keep(self, node: int, answer: Answer) -> None:
        """Keep which client a node is, or why it cannot participate.

        A question that was lost in transit is asked again; one whose process failed, a few times.
        """
        self._failed[node] += 1 if answer.code and answer.code not in LOST else 0
        if answer.code in LOST or (answer.code and self._failed[node] < MOST_QUESTIONS):
            self._doubtful.add(node)
            return
        try:
            client = self._client_of(answer)
            if self._context.experiment.data.on_clients:
                self._image_counts[node] = self._image_counts_in(answer.parcel)
        except RejectedMessageError as error:
            self._refuse(node, answer, error.message)
            return
        if client in self._clients.values():
            self._note(f"Node {node} claims to be {self._context.names.one(client)}, but another node already is.")
        else:
            self._welcome(client, node)
        self._clients[node] = client
        self._refusals.pop(node, None)
        for note in filter(None, str(answer.parcel.scalars.get(NOTES, ""))[:MOST_NOTES].splitlines()):
            self._note(f"{self._context.names.begin(client)}: {plain(note)}")

    def _welcome(self, client: int, node: int) -> None:
        """Keep what a client says that had no node, and note if it comes after the first round has begun."""
        if node in self._image_counts:
            self._train_images[client] = self._image_counts[node].train
        if self._started:
            again = " again" if client in self._seen else ""
            self._note(f"{self._context.names.begin(client)} is connected{again}, and takes part from now on.")
        self._seen.add(client)

    def _client_of(self, answer: Answer) -> int:
        """Raises RejectedMessageError for an answer that names no client, or one that cannot take part."""
        if answer.refusal:
            raise RejectedMessageError(answer.refusal)
        client, clients = answer.parcel.scalars.get(CLIENT), len(self._context.clients)
        if type(client) is not int or not 0 <= client < clients:
            raise RejectedMessageError(
                f"it claims to be client {short(client)}; there are {clients} clients, numbered from 0."
            )
        return client

    def _image_counts_in(self, parcel: Parcel) -> ImageCounts:
        data, classes = self._context.experiment.data, len(self._context.method.task.class_names)
        return unpack_image_counts(parcel, data.shots * classes if data.regime == "few-shot" else None)

    def _refuse(self, node: int, answer: Answer, reason: str) -> None:
        """Keep why a node cannot take part, and note it once."""
        client = answer.parcel.scalars.get(CLIENT)
        mismatch = answer.parcel.scalars.get(MISMATCH) is True
        refusal = Refusal(client if type(client) is int else None, reason, mismatch)
        if self._refusals.get(node) != refusal:
            who = f"Node {node}" if refusal.client is None else f"Node {node}, {self._name(refusal.client)},"
            self._note(f"{who} cannot participate: {reason}")
        self._refusals[node] = refusal

    def _name(self, client: int) -> str:
        """What a node says that it is, which need not exist."""
        return self._context.names.one(client) if 0 <= client < len(self._context.clients) else f"client {client}"
