"""An experiment whose clients are elsewhere: what runs on the server, and what runs on each client.

The server sends the experiment with every broadcast, so that a client needs nothing but its number, and loads the data
set and its part of it itself. Images never travel.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch

from feddtl.algorithms import build_algorithm
from feddtl.algorithms.base import ClientData, ServerState, Update, rows_of_views
from feddtl.config import Experiment
from feddtl.data.federated import load_federated_data
from feddtl.data.table import ImageTable
from feddtl.errors import ClientError, ConfigError
from feddtl.evaluate import EvaluationSets, Scores, score_global, score_local
from feddtl.experiment import RunObserver, evaluation_sets, load_model, run_experiment, task_of
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.features import ImageEncoder
from feddtl.models.activations import Activations
from feddtl.models.kernels import Kernels, names_of
from feddtl.runtimes.fleet import Fleet
from feddtl.runtimes.flower import FlowerFleet, Grid
from feddtl.runtimes.parties import Parties, require_finite_tensors
from feddtl.runtimes.personal_state import PersonalState, state_root
from feddtl.runtimes.wire import Contract, Parcel, RejectedMessageError, pack_update, unpack_payload
from feddtl.summary import Summary


def serve(
    experiment: Experiment, output: Path, grid: Grid, *, resume: bool = False, observer: RunObserver | None = None
) -> Summary:
    """Run an experiment with the nodes of a Flower federation as its clients.

    Args:
        experiment: What to run.
        output: Folder of the run, the same as of a run in one process.
        grid: Flower's connection to the nodes.
        resume: Go on from the last checkpoint in `output`.
        observer: Told of progress.

    Raises:
        ConfigError: The experiment asks for a policy that needs all clients in one process.
        FeddtlError: As `run_experiment`; a round without a quorum is a ClientError.
    """
    _require_rounds_in_lockstep(experiment)
    observer = observer or RunObserver()

    def connect(kernels: Kernels, run: str, parties: Parties) -> Fleet:
        asked = experiment_to_dict(experiment)
        asked["compute"] |= names_of(kernels)
        contract = Contract.of(parties.algorithm.task, experiment.deployment.precision)
        return FlowerFleet(grid, parties, contract, {"experiment": json.dumps(asked), "run": run}, observer.note)

    return run_experiment(experiment, output, resume=resume, observer=observer, connect=connect)


def _require_rounds_in_lockstep(experiment: Experiment) -> None:
    system = experiment.system
    for key, value, refused in (
        ("selection", system.selection, "fedppo"),
        ("aggregation", system.aggregation, "async"),
    ):
        if value == refused:
            raise ConfigError(
                f"system.{key} = '{refused}' needs all clients in one process.",
                f"Leave system.{key} at its default, or run the experiment with `feddtl run`.",
            )


class ClientSide:
    """The clients of an experiment that this process stands for; usually one.

    Args:
        experiment: As the server sent it.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._data = load_federated_data(experiment.data, experiment.seed)
        self._clip = load_model(experiment)
        self._task = task_of(self._clip, self._data, experiment.seed)
        self._algorithm = build_algorithm(self._task, experiment)
        self._encoder = ImageEncoder(self._clip.image, self._algorithm.first_image_block, experiment.compute)
        self._contract = Contract.of(self._task, experiment.deployment.precision)
        self._clients: dict[int, ClientData] = {}
        self._sets: EvaluationSets | None = None

    def answer(self, client: int, parcel: Parcel) -> Parcel:
        """The update that answers a broadcast.

        Raises:
            ClientError: The broadcast is for another client or of another schema, model or class list; the update is
                not finite; what the client kept is lost.
        """
        payload = unpack_payload(parcel, self._contract)
        if parcel.scalars.get("client") != client:
            raise ClientError(f"This node is client {client}; the broadcast is for {parcel.scalars.get('client')}.")
        kept, used = PersonalState(state_root(), str(parcel.scalars.get("run")), client), parcel.scalars.get("kept")
        if not isinstance(used, int) or not 0 <= used < payload.round:
            raise RejectedMessageError(f"kept is {used!r}, not a round before {payload.round}.")
        personal = kept.load(used)
        update = self._algorithm.client_update(payload, self._client(client), personal)
        require_finite_tensors(update.personal, f"What client {client} keeps", "Lower local.learning_rate")
        scores = self._scores(payload.round, ServerState(payload.round - 1, payload.tensors), update)
        reply = pack_update(update, payload.round, self._contract, scores)
        if update.personal:
            kept.save(payload.round, update.personal, used)
        return reply

    def _scores(self, round_number: int, state: ServerState, update: Update) -> Scores | None:
        """Of the client's own model, where a part of it stays here; None where the server can score it."""
        if not update.personal:
            return None
        local = base = novel = float("nan")
        if self.experiment.is_scored(round_number):
            if self._sets is None:
                self._sets = evaluation_sets(self._data, self._encode)
            own = self._algorithm.classifier(state, update)
            local = score_local({update.client: own}, self._sets).get(update.client, local)
            if self.experiment.scores_client_models(round_number):
                scores = score_global(own, self._sets, local)
                base, novel = scores.base, scores.novel
        return Scores(local, base, novel)

    def _client(self, client: int) -> ClientData:
        """The client's training images through the frozen blocks, once."""
        if client not in self._clients:
            parts, views = self._data.partition.train, self.experiment.data.views
            if client >= len(parts):
                raise ClientError(f"This node is client {client}; the experiment has 0 to {len(parts) - 1}.")
            table = self._data.train.select(parts[client])
            activations = self._encode(table, "training images", views)
            labels = torch.from_numpy(table.labels)
            rows = rows_of_views(torch.arange(len(labels)), views)
            self._clients[client] = ClientData(client, activations.select(rows), labels, views)
        return self._clients[client]

    def _encode(self, table: ImageTable, what: str, views: int = 1) -> Activations:
        return self._encoder.encode(table, views=views)


def answer(client: int, parcel: Parcel) -> Parcel:
    """`ClientSide.answer` of the experiment in the broadcast; what was loaded for it stays loaded."""
    text = parcel.scalars.get("experiment")
    if not isinstance(text, str):
        raise RejectedMessageError("The broadcast names no experiment.")
    return client_side(text).answer(client, parcel)


@lru_cache(maxsize=1)
def client_side(text: str) -> ClientSide:
    """The clients of an experiment as JSON. Raises FeddtlError for one that cannot be read or prepared."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise RejectedMessageError(f"The experiment is no JSON: {error}.") from None
    return ClientSide(experiment_from_dict(values))
