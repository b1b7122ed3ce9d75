"""One side's part of a round in a separate process: `python -m benchmarks.one_message client|server …`.

It prints its CPU seconds by phase and its peak memory as a JSON line. No second is counted twice, and no slow module is
imported before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from feddtl.runtimes.server_step import server_step

# (phase, module, its function as 'name' or 'Class.name')
WATCHED = (
    ("data", "feddtl.deployment", "load_federated_data"),
    ("data", "feddtl.preparation", "load_federated_data"),
    ("model", "feddtl.deployment", "load_model"),
    ("model", "feddtl.preparation", "load_model"),
    ("hashing weights", "feddtl.models.backbone", "Backbone.digest"),
    ("hashing weights", "feddtl.backbones.clip", "ClipImageTower.prefix_digests"),
    ("reading the cache", "feddtl.features", "ImageEncoder.encode"),
    ("training", "feddtl.methods.base", "Method.client_update"),
    ("packing", "feddtl.runtimes.wire.messages", "unpack_payload"),
    ("packing", "feddtl.deployment", "pack_reply"),
)


class Phases:
    """CPU seconds of all threads by phase; of nested ones, the innermost counts."""

    def __init__(self) -> None:
        self._seconds = {"interpreter": time.process_time()}
        self._running = ["rest"]
        self._since = time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the CPU time of the block as this phase."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def watch(self, name: str, owner: Any, function: str) -> None:
        """Count the calls of a function as a phase."""
        original: Callable[..., Any] = getattr(owner, function)

        @wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, function, counted)

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, in the order of the phases' first appearance."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = time.process_time()
        self._seconds[self._running[-1]] = self._seconds.get(self._running[-1], 0.0) + now - self._since
        self._since = now


def count_phases() -> Phases:
    """Import feddtl and start counting."""
    phases = Phases()
    for package, module in (("torch", "torch"), ("flwr", "flwr.clientapp"), ("feddtl", "feddtl.deployment")):
        with phases.phase(f"import {package}"):
            import_module(module)
    for name, module, function in WATCHED:
        owner, _, method = function.rpartition(".")
        found: Any = import_module(module)
        phases.watch(name, getattr(found, owner) if owner else found, method)
    return phases


def report(phases: Phases) -> dict[str, Any]:
    """Phases and peak memory, to be printed."""
    seconds = phases.seconds()
    from benchmarks.measure import peak_memory

    return {"cpu_seconds": seconds, "peak_mb": peak_memory() / 1e6}


def client(experiment: dict[str, Any], broadcast: Path) -> dict[str, Any]:
    """Answer a broadcast as a node does: phases and memory."""
    phases = count_phases()
    from feddtl.deployment import answer
    from feddtl.runtimes.node import Node

    answer("train", Node(0), pickle.loads(broadcast.read_bytes()))
    return report(phases)


def server(experiment: dict[str, Any], broadcast: Path) -> dict[str, Any]:
    """Write the broadcast of round 1, with the test images encoded: phases and memory."""
    phases = count_phases()
    from feddtl.experiment_file import experiment_from_dict
    from feddtl.preparation import prepare

    settings = experiment_from_dict(experiment)
    return open_round(phases, settings, prepare(settings, images_here=False).method, experiment, broadcast)


def server_without_images(experiment: dict[str, Any], broadcast: Path) -> dict[str, Any]:
    """As `server`, but with only the towers that the method trains on the server, because it scores no images."""
    phases = count_phases()
    from feddtl.experiment_file import experiment_from_dict
    from feddtl.methods.catalog import build_method, method_class
    from feddtl.methods.task import Task
    from feddtl.preparation import load_model

    settings = experiment_from_dict(experiment)
    clip = load_model(settings, towers=method_class(settings.method).server_towers)
    names = tuple(f"class {index}" for index in range(10))
    method = build_method(Task(clip, names, "a photo of a {class}.", settings.seed), settings)
    return open_round(phases, settings, method, experiment, broadcast.with_suffix(".unused"))


def open_round(
    phases: Phases, settings: Any, method: Any, experiment: dict[str, Any], broadcast: Path
) -> dict[str, Any]:
    """Write the broadcast of round 1, and aggregate an update per client."""
    import torch

    from feddtl.messages import Update
    from feddtl.runtimes.wire.contract import Contract, Parcel
    from feddtl.runtimes.wire.messages import pack_payload

    contract, state = Contract.of(method.task, settings), method.init_server()
    payload = method.broadcast(state)
    parcel = pack_payload(payload, contract)
    order: dict[str, Any] = {"experiment": json.dumps(experiment), "run": "0" * 32, "client": 0, "kept": 0}
    broadcast.write_bytes(pickle.dumps(Parcel(parcel.arrays, {**parcel.scalars, **order})))
    expected, images = method.expected_update(payload), 32
    rows = {name: torch.ones(images, width) / width**0.5 for name, width in expected.embeddings.items()}
    rows |= {name: torch.arange(images) % 10 for name in expected.labels}
    with phases.phase("aggregating"):
        server_step(method, state, [Update(client, images, expected.weights, rows) for client in range(5)])
    return report(phases)


SIDES = {"client": client, "server": server, "server-without-images": server_without_images}


def main() -> None:
    """Run one side and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("experiment", help="JSON of an experiment")
    parser.add_argument("broadcast", type=Path, help="file of the broadcast: the server writes it, the client reads it")
    arguments = parser.parse_args()
    print(json.dumps(SIDES[arguments.side](json.loads(arguments.experiment), arguments.broadcast)))


if __name__ == "__main__":
    main()
