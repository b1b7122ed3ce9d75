"""An experiment with remote clients: the server's side and each client's side.

The server sends the experiment with every broadcast, so a client only needs its number, and loads the data set and its
part of it itself. Images are never sent.
"""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

import torch

from feddtl.config import Experiment
from feddtl.data.federated import FederatedData, images_on_clients, load_federated_data
from feddtl.data.image_checks import all_damaged_named, copies_note
from feddtl.data.own_images import OwnImages, load_own_images, part_of, require_same_classes
from feddtl.data.table import ImageTable
from feddtl.errors import ClientError, ConfigError
from feddtl.evaluate import EvaluationSets, HitCounts, Scores, TestImages, count_hits, score_global
from feddtl.experiment import run_experiment, with_client_count
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.features import ImageEncoder
from feddtl.marked_lines import say
from feddtl.memory import memory_errors
from feddtl.messages import Payload, Update
from feddtl.methods.catalog import build_method, is_own_method, method_class, settings_table
from feddtl.models.activations import Activations
from feddtl.models.class_texts import require_distinct
from feddtl.models.kernels import Kernels, names_of
from feddtl.notes import noted
from feddtl.observers import RunObserver
from feddtl.parsing import parse_json
from feddtl.preparation import evaluation_sets, labelled, load_model, task_of
from feddtl.records import Summary
from feddtl.runtimes.client_lines import evaluation_line, images_lines, round_line
from feddtl.runtimes.context import RunContext, require_finite_tensors
from feddtl.runtimes.fleet import Fleet
from feddtl.runtimes.flower.fleet import FlowerFleet
from feddtl.runtimes.flower.grid import Grid
from feddtl.runtimes.node import ImageCounts, Node, Request
from feddtl.runtimes.personal_state import PersonalState
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError, Scalar, plain
from feddtl.runtimes.wire.messages import Reply, pack_counts, pack_image_counts, pack_reply, unpack_payload
from feddtl.state_folder import state_root
from feddtl.training.client_data import ClientData, rows_of_views
from feddtl.transforms.catalog import build_chain
from feddtl.units import ClientNames, counted

NAMES = "names"  # of the base classes, in the question which client a node is
# Settings of one machine: a client has another device and another disk.
OF_ONE_MACHINE = ("device", "loading_threads", "cache_folder", "cache_disk_gb", "cache_memory_gb")


def serve(
    experiment: Experiment, output: Path, grid: Grid, *, resume: bool = False, observer: RunObserver | None = None
) -> Summary:
    """Run an experiment with the nodes of a Flower federation as its clients.

    Args:
        experiment: What to run.
        output: Folder of the run, the same as of a run in one process.
        grid: Flower's connection to the nodes.
        resume: Resume from the last checkpoint in `output`, with the rounds of the experiment if they fit those done.
        observer: Receives progress.

    Raises:
        ConfigError: The experiment has hostile clients, or a policy that needs all clients in one process.
        FeddtlError: As `run_experiment`; a round without a quorum is a ClientError.
    """
    experiment = with_client_count(experiment)
    _require_possible_in_a_federation(experiment)
    observer = observer or RunObserver()

    def connect(kernels: Kernels, run: str, context: RunContext) -> Fleet:
        asked = experiment_to_dict(experiment.with_model())
        shared = {key: value for key, value in asked["compute"].items() if key not in OF_ONE_MACHINE}
        asked["compute"] = {**shared, **names_of(kernels)}
        del asked["init_from"]  # a folder of the server's machine
        contract = Contract.of(context.method.task, experiment)
        order: dict[str, Scalar] = {"experiment": json.dumps(asked), "run": run}
        question: dict[str, Scalar] = {NAMES: json.dumps(context.method.task.class_names)}
        return FlowerFleet(grid, context, contract, order, observer.note, question)

    return run_experiment(experiment, output, resume=resume, extend=resume, observer=observer, connect=connect)


def _require_possible_in_a_federation(experiment: Experiment) -> None:
    experiment.attack.require_off()
    system = experiment.system
    for key, value, refused in (("selection", system.selection, "fedppo"), ("mode", system.mode, "async")):
        if value == refused:
            raise ConfigError(
                f"system.{key} = '{refused}' needs all clients in one process.",
                f"Leave system.{key} at its default, or run the experiment with `feddtl run`.",
            )


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


def answer(request: Request, node: Node, parcel: Parcel) -> Parcel:
    """The answer of a client's machine; the message's experiment stays loaded.

    Raises:
        FeddtlError: The message names no experiment, or one in which this machine cannot participate.
    """
    with memory_errors():
        return _answer(request, node, parcel)


def _answer(request: Request, node: Node, parcel: Parcel) -> Parcel:
    text = parcel.scalars.get("experiment")
    if not isinstance(text, str):
        raise RejectedMessageError("The message names no experiment.")
    if request == "query":
        return introduction(read_experiment(text, node.method), node, parcel.scalars.get(NAMES))
    side = client_side(text, node)
    return (side.train if request == "train" else side.evaluate)(node.client, parcel)


def introduction(experiment: Experiment, node: Node, names: object) -> Parcel:
    """Which client a node is and, if it has its own images, how many. This loads no model.

    Args:
        experiment: As the server sent it.
        node: This client.
        names: The server's base classes, as JSON.

    Raises:
        FeddtlError: This client has no place in the run, it has no images, or they are of other classes.
    """
    _require_place(experiment, node.client)
    if not experiment.data.on_clients:
        data = client_images(experiment, node.data).data
        require_same_classes(_names_in(names), data, node.data or experiment.data.source)
        _say_images(node.client, part_of(data, node.client), data)
        return Parcel({}, {"client": node.client})
    images = client_images(experiment, node.data)
    own = images.of(node.client)
    _say_images(node.client, own, images.data)
    counts = ImageCounts(len(own.train), len(own.test_base), len(own.test_novel))
    return pack_image_counts(node.client, counts, own.notes)


def _require_place(experiment: Experiment, client: int) -> None:
    """Raise ClientError for a client that is one more than the run was begun with."""
    if client >= (clients := experiment.data.client_count):
        raise ClientError(
            f"This is client {client}, and the run was begun with {counted(clients, 'client')}, numbered from 0.",
            f"More clients need a new run, which may start from the model of this one: on the server, `feddtl submit "
            f"--init-from RUN --data.clients {client + 1} --output DIR`.",
        )


def _say_images(client: int, own: OwnImages, data: FederatedData) -> None:
    who = ClientNames(data.sites).one(client)
    say("\n".join([*images_lines(who, own, data.base_names, data.novel_names), *own.notes]))


def _names_in(names: object) -> list[str]:
    try:
        return list(map(str, parse_json(str(names))))
    except (ValueError, TypeError):
        raise RejectedMessageError("The question does not name the server's classes.") from None


@lru_cache(maxsize=1)
def client_side(text: str, node: Node) -> ClientSide:
    """The clients of an experiment given as JSON. Raises FeddtlError if it cannot be read or prepared."""
    experiment = read_experiment(text, node.method)
    return ClientSide(replace(experiment, model=node.model or experiment.model), node.data)


def read_experiment(text: str, own_method: str = "") -> Experiment:
    """An experiment as JSON.

    Args:
        text: The JSON, as the server sent it.
        own_method: The file and class of a method that this client was started with.

    Raises:
        FeddtlError: It cannot be read, or its method is code that this client was not given.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise RejectedMessageError(f"The experiment is not JSON: {error}.") from None
    asked = values.get("method") if isinstance(values, dict) else None
    if isinstance(asked, str) and is_own_method(asked):
        # A server must not choose which code runs here, so code that it names is never loaded.
        if settings_table(asked) != settings_table(own_method):
            given = f"was started with --method {own_method}" if own_method else "was started without --method"
            raise ClientError(
                f"The run uses the method {plain(asked, 200)}, and this client {given}.",
                "Get the method's file from whoever runs the experiment, read it, and start the client with "
                "--method FILE.py:Class.",
            )
        values["method"] = own_method
    return experiment_from_dict(values)
