"""The clients that run on this machine, in an experiment whose server is elsewhere."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import torch

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData, images_on_clients, load_federated_data
from feddtl.data.image_checks import all_damaged_named, copies_note
from feddtl.data.own_images import OwnImages, load_own_images, part_of
from feddtl.data.table import ImageTable
from feddtl.errors import ClientError
from feddtl.evaluate import EvaluationSets, HitCounts, Scores, TestImages, count_hits, score_global
from feddtl.features import ImageEncoder
from feddtl.marked_lines import say
from feddtl.messages import Payload, Update
from feddtl.methods.catalog import build_method, method_class
from feddtl.models.activations import Activations
from feddtl.models.class_texts import require_distinct
from feddtl.notes import noted
from feddtl.preparation import evaluation_sets, labelled, load_model, task_of
from feddtl.runtimes.client_lines import evaluation_line, round_line
from feddtl.runtimes.context import require_finite_tensors
from feddtl.runtimes.personal_state import PersonalState
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError
from feddtl.runtimes.wire.messages import Reply, pack_counts, pack_reply, unpack_payload
from feddtl.state_folder import state_root
from feddtl.training.client_data import ClientData, rows_of_views
from feddtl.transforms.catalog import build_chain
from feddtl.units import ClientNames


@dataclass(frozen=True)
class ClientImages:
    """The images of the clients that run on this machine.

    Attributes:
        experiment: As the server sent it.
        path: Their folder, or that of this machine's copy of the data set; empty: as in the experiment.
        data: The whole data set; names alone where each client has images of its own.
    """

    experiment: Experiment
    path: str
    data: FederatedData

    def of(self, client: int) -> OwnImages:
        """A client's images. Raises ClientError or DataError if it cannot participate."""
        if self.data.on_clients:
            held_back = self.experiment.evaluation.held_back
            return load_own_images(self.experiment.data, self.path, self.experiment.seed, held_back=held_back)
        return part_of(self.data, client)


@lru_cache(maxsize=1)
def client_images(experiment: Experiment, path: str) -> ClientImages:
    """The images of an experiment on this machine. Raises DataError if they cannot be used."""
    config = experiment.data
    if config.on_clients:
        return ClientImages(experiment, path, images_on_clients(config))
    held_back = experiment.evaluation.held_back
    return ClientImages(experiment, path, load_federated_data(config, experiment.seed, path, held_back=held_back))


class ClientSide:
    """The clients of an experiment that run in this process; usually one.

    Args:
        experiment: As the server sent it.
        copy: Path of this machine's copy of the data set; empty: as in the experiment.
    """

    def __init__(self, experiment: Experiment, copy: str = "") -> None:
        self.experiment = experiment
        self._clip = load_model(experiment, towers=method_class(experiment.method).client_towers)
        self._images = client_images(experiment, copy)
        self._names = ClientNames(self._images.data.sites)
        names = (*self._images.data.base_names, *self._images.data.novel_names)
        require_distinct(self._clip.text, names, self._images.data.prompt_template)
        self._task = task_of(self._clip, self._images.data, experiment.seed)
        self._method = build_method(self._task, experiment)
        self._encoder = ImageEncoder(self._clip.image, self._method.first_image_block, experiment.compute)
        self._contract = Contract.of(self._task, experiment)
        self._chain = build_chain(experiment.uplink)
        self._images_of = cache(self._images.of)
        self._clients: dict[int, ClientData] = {}
        self._tests: dict[int, tuple[TestImages, TestImages]] = {}

    def train(self, client: int, parcel: Parcel) -> Parcel:
        """The reply to the broadcast of a round: an update, and hits on the client's test images.

        Raises:
            ClientError: The broadcast is for another client or has another schema, model or class list; the update is
                not finite; or the client's personal tensors are lost.
        """
        received, payload = parcel, self._unpack(client, parcel)
        kept, used = PersonalState(state_root(), str(parcel.scalars.get("run")), client), parcel.scalars.get("kept")
        if not isinstance(used, int) or not 0 <= used < payload.round:
            raise RejectedMessageError(f"kept is {used!r}, which is not a round before {payload.round}.")
        personal = kept.load(used)
        update = self._method.client_update(payload, self._client(client), personal)
        expected, seed = self._method.expected_update(payload), self.experiment.seed
        # The client's model is scored as the server sees it.
        sent, arrived = self._chain.exchange(update, expected, payload.round, seed)
        require_finite_tensors(
            update.personal, f"The personal state of {self._names.one(client)}", "Lower local.learning_rate"
        )
        scored = self.experiment.is_scored
        reply = Reply(
            sent,
            self._count(client, payload) if scored(payload.round - 1) else None,
            self._count(client, payload, arrived) if scored(payload.round) else None,
            self._scores(payload, arrived) if update.personal and not self.experiment.data.each_has_own else None,
        )
        parcel = pack_reply(reply, payload.round, self._contract)
        if update.personal:
            kept.save(payload.round, update.personal, used)
        say(
            f"{self._names.one(client)}, round {payload.round}: {round_line(reply.counts, reply.own, received, parcel)}"
        )
        return parcel

    def evaluate(self, client: int, parcel: Parcel) -> Parcel:
        """The client's hits for the model of a broadcast. Raises ClientError as `train`."""
        payload = self._unpack(client, parcel)
        counts = self._count(client, payload)
        model = "the model before training" if self.experiment.trains and payload.round == 1 else "the final model"
        say(f"{self._names.one(client)}, {evaluation_line(model, counts)}")
        return pack_counts(counts, client, payload.round, self._contract)

    def _unpack(self, client: int, parcel: Parcel) -> Payload:
        payload = unpack_payload(parcel, self._contract)
        if parcel.scalars.get("client") != client:
            raise ClientError(
                f"This node is {self._names.one(client)}; the broadcast is for {parcel.scalars.get('client')}."
            )
        return payload

    def _count(self, client: int, payload: Payload, update: Update | None = None) -> HitCounts:
        """Hits on the client's test images, of the broadcast model or of its own."""
        classifier = self._method.received_classifier(payload, update)
        return count_hits(classifier, *self._tests_of(client))

    def _scores(self, payload: Payload, update: Update) -> Scores:
        """Scores on all test images of the client's own model, part of which stays here; NaN where not needed."""
        if not self.experiment.scores_client_models(payload.round):
            return Scores(math.nan, math.nan, math.nan)
        return score_global(self._method.received_classifier(payload, update), self._sets, math.nan)

    @cached_property
    def _sets(self) -> EvaluationSets:
        """All test images through the frozen blocks."""
        return evaluation_sets(self._images.data, self._encode)

    def _client(self, client: int) -> ClientData:
        """The client's training images through the frozen blocks, once."""
        if client not in self._clients:
            views, table = self.experiment.data.views, self._images_of(client).train
            with self._all_damaged_named(client):
                activations, labels = self._encode(table, "training images", views), torch.from_numpy(table.labels)
            rows = rows_of_views(torch.arange(len(labels)), views)
            self._clients[client] = ClientData(client, activations.select(rows), labels, views)
        return self._clients[client]

    def _tests_of(self, client: int) -> tuple[TestImages, TestImages]:
        """The client's test images of base and of novel classes through the frozen blocks, once."""
        if client not in self._tests:
            data, own = self._images.data, self._images_of(client)
            with self._all_damaged_named(client):
                self._tests[client] = (
                    labelled(own.test_base, self._encode(own.test_base, "base test images"), data.base_names),
                    labelled(own.test_novel, self._encode(own.test_novel, "novel test images"), data.novel_names),
                )
                self._say_copies(client, own)
        return self._tests[client]

    def _say_copies(self, client: int, own: OwnImages) -> None:
        """Tell this machine alone, because the note names its files."""
        train, *scored = [
            (table, self._encoder.contents(table)) for table in (own.train, own.test_base, own.test_novel)
        ]
        if self._method.trains and (note := copies_note(train, scored)):
            say(f"client {client}: {noted(note)}")

    def _all_damaged_named(self, client: int) -> AbstractContextManager[None]:
        own = self._images_of(client)
        return all_damaged_named((own.train, own.test_base, own.test_novel), self._encoder.threads)

    def _encode(self, table: ImageTable, what: str, views: int = 1) -> Activations:
        return self._encoder.encode(table, views=views) if len(table) else Activations.of(torch.empty(0, 0))
