"""The hostile clients of an experiment: what they train on and send, through the checks that every upload passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from feddtl.attacks.base import Attack, Knowledge, hostile_clients
from feddtl.attacks.catalog import ATTACKS, build_attack
from feddtl.config import Experiment
from feddtl.errors import ConfigError
from feddtl.messages import Payload, Update
from feddtl.methods.base import Method
from feddtl.runtimes.node import ImageCounts
from feddtl.runtimes.wire.contract import Contract
from feddtl.runtimes.wire.messages import Reply, ReplyRequirements, pack_reply, unpack_reply
from feddtl.seeding import torch_generator
from feddtl.training.client_data import ClientData
from feddtl.transforms.base import Exchange
from feddtl.transforms.chain import Chain
from feddtl.units import ClientNames


class HostileClients:
    """The clients that attack; none in an experiment without an attack.

    A hostile client trains like any other one, on data that it may have changed. It knows what the honest clients of
    the round have sent, and then makes its upload, which travels as a message that the server unpacks and checks.

    Args:
        experiment: The settings.
        method: The method.
        chain: The transforms of the uplink, which a hostile client applies too: what it sends is what passes.
    """

    def __init__(self, experiment: Experiment, method: Method, chain: Chain) -> None:
        self._experiment = experiment
        self._method = method
        self._chain = chain
        self.clients = frozenset(hostile_clients(experiment))

    @cached_property
    def _attack(self) -> Attack:
        return attack_of(self._experiment)

    def received_from(self, update: Update, payload: Payload, honest: Sequence[Update]) -> tuple[Update, int]:
        """What the server gets in the place of a hostile client's honest update, and its bytes on the wire.

        Args:
            update: What the client trained.
            payload: What it received.
            honest: What the server got from the honest clients of the round.

        Raises:
            ClientError: The transforms cannot send it, or the server rejects it.
        """
        expected, seed = self._method.expected_update(payload), self._experiment.seed
        classes, number = len(self._method.task.class_names), payload.round
        generator = torch_generator(seed, "attack", update.client, number)
        known = Knowledge(expected.weights, honest, classes, self._most_images, generator)
        forged = self._attack.upload(update, known)
        sent = self._chain.encode(forged, Exchange(update.client, number, expected.weights, seed))
        requirements = ReplyRequirements(
            self._contract,
            update.client,
            number,
            ImageCounts(forged.num_images, 0),
            classes,
            expected,
            self._chain,
            seed,
        )
        reply = unpack_reply(pack_reply(Reply(sent), number, self._contract), requirements)
        return replace(reply.update, personal=update.personal), reply.size

    @cached_property
    def _contract(self) -> Contract:
        return Contract.of(self._method.task, self._experiment)

    @property
    def _most_images(self) -> int | None:
        """As many as a server accepts when clients say how many they have."""
        data = self._experiment.data
        return data.shots * len(self._method.task.class_names) if data.regime == "few-shot" else None


def attack_of(experiment: Experiment) -> Attack:
    """The attack of an experiment that has one."""
    return build_attack(experiment.attack.name, experiment.attack.strength)


def with_hostile_labels(clients: Sequence[ClientData], experiment: Experiment, classes: int) -> list[ClientData]:
    """The clients' data, with the labels that hostile ones train on."""
    hostile = hostile_clients(experiment)
    if not hostile:
        return list(clients)
    attack = attack_of(experiment)
    return [
        replace(data, labels=attack.labels(data.labels, classes)) if data.client in hostile else data
        for data in clients
    ]


def require_embeddings(experiment: Experiment, method: Method) -> None:
    """Raise ConfigError for an attack on embeddings with a method that uploads none."""
    name = experiment.attack.name
    sends_none = method.trains and type(method).uplink_samples is Method.uplink_samples
    if sends_none and experiment.attack.is_on and ATTACKS[name].on_embeddings:
        others = ", ".join(other for other, entry in ATTACKS.items() if not entry.on_embeddings)
        raise ConfigError(
            f"attack.name = '{name}' changes uploaded embeddings, and method = '{experiment.method}' sends none.",
            f"Choose one of {others}, or method = 'feddtl'.",
        )


def attack_text(experiment: Experiment, names: ClientNames) -> str:
    """'label-flip by clients 3 and 7 of 10'; empty without an attack."""
    hostile = hostile_clients(experiment)
    if not hostile:
        return ""
    return f"{experiment.attack.name} by {names.all_of(hostile)} of {experiment.data.client_count}"
