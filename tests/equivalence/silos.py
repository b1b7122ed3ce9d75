"""The photos of a bench on its clients, each with a folder of its own, and a federation of them in memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pytest
from cli.small_runs import CLASSES, CLIENTS, Bench, make_bench
from runtimes.in_memory_grid import InMemoryGrid

from feddtl import client_side, deployment
from feddtl.config import DataConfig, DeploymentConfig, ScheduleConfig
from feddtl.data.federated import load_federated_data
from feddtl.runtimes.flower.apps import client_app

BASE, NOVEL = CLASSES[:3], CLASSES[3:]


@dataclass(frozen=True)
class Silos:
    """The photos of a bench as its partition divides them: a folder for each client.

    Every client has images of one base class, and test images of one novel class each, in a folder `test` alone.
    """

    bench: Bench
    folders: dict[int, Path]

    def experiment(self, method="feddtl", *, central=False, **changes):
        own = DataConfig(source="clients", classes=",".join(BASE), novel_classes=",".join(NOVEL), clients=CLIENTS)
        settings = {
            "method": method,
            "rounds": 3,
            "schedule": ScheduleConfig(sft_rounds=2),
            "deployment": DeploymentConfig(round_timeout=0.2, min_clients=2),
            "data": DataConfig(source=str(self.bench.photos), clients=CLIENTS, class_split="half") if central else own,
            **changes,
        }
        experiment = self.bench.experiment(**settings)
        return replace(experiment, compute=replace(experiment.compute, activations="float32"))

    def grid(self, clients=range(CLIENTS), **given):
        return InMemoryGrid(client_app(deployment.answer), clients, **{"data": self.folders, **given})


def make_silos(root: Path) -> Silos:
    """A bench and its silos in a new folder."""
    bench = make_bench(root / "bench")
    data = load_federated_data(DataConfig(source=str(bench.photos), clients=CLIENTS, class_split="half"), 0)
    folders = {client: root / f"silo{client}" for client in range(CLIENTS)}
    for client, folder in folders.items():
        labels = set(data.train.labels[data.partition.train[client]])
        assert len(labels) == 1, "a base class each"
        for split, names in (("train", BASE), ("test", (*BASE, *NOVEL))):
            for place, name in enumerate(names):
                if place in labels or (split == "test" and place == 3 + client):
                    shutil.copytree(bench.photos / split / name, folder / split / name)
    return Silos(bench, folders)


def forget_clients(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients keep what is theirs in a folder of a test; all that share this process stay loaded."""
    monkeypatch.setenv("FEDDTL_STATE", str(state))
    monkeypatch.setattr(deployment, "client_side", lru_cache(CLIENTS)(deployment.client_side.__wrapped__))
    images = lru_cache(CLIENTS)(client_side.client_images.__wrapped__)
    for module in (client_side, deployment):
        monkeypatch.setattr(module, "client_images", images)
