"""An experiment with remote clients: how the server runs it, and how a client answers.

The server sends the experiment with every broadcast, so a client only needs its number, and loads the data set and its
part of it itself. Images are never sent.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from feddtl.client_side import ClientSide, client_images
from feddtl.config import Experiment
from feddtl.data.federated import FederatedData
from feddtl.data.own_images import OwnImages, part_of, require_same_classes
from feddtl.errors import ClientError, ConfigError
from feddtl.experiment import run_experiment, with_client_count
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.marked_lines import say
from feddtl.memory import memory_errors
from feddtl.methods.catalog import is_own_method, settings_table
from feddtl.models.kernels import Kernels, names_of
from feddtl.observers import RunObserver
from feddtl.parsing import parse_json
from feddtl.records import Summary
from feddtl.runtimes.client_lines import images_lines
from feddtl.runtimes.context import RunContext
from feddtl.runtimes.fleet import Fleet
from feddtl.runtimes.flower.fleet import FlowerFleet
from feddtl.runtimes.flower.grid import Grid
from feddtl.runtimes.node import ImageCounts, Node, Request
from feddtl.runtimes.wire.contract import Contract, Parcel, RejectedMessageError, Scalar, plain
from feddtl.runtimes.wire.messages import pack_image_counts
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
