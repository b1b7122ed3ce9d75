"""Sites in one process: the numbers of the same folders over Flower, where each client has one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra [flower]: make test-flower")

from cli.small_runs import CLIENTS, final_state, records, summary, write_photos
from equivalence.silos import Silos

from feddtl import deployment
from feddtl.config import DataConfig, EvaluationConfig, ScheduleConfig
from feddtl.experiment import run_experiment

pytestmark = pytest.mark.usefixtures("fresh_clients")

SITES = ("north", "south", "west")
ALL = "ant,bee,cat,dog,elk"
OF_PLACE = {"dataset", "partition", "sites", "zero_shot", "local_clients", "federated", "notes", "few_images"}
OF_PLACE |= {"seconds", "seconds_by_phase"}
"""Fields of a summary that say where the images were, or that only one side knows."""


def write_sites(root: Path) -> Path:
    """Three sites with other classes each: two with a test split, and one, west, without."""
    write_photos(root / "north", classes=["ant", "bee", "cat"])
    write_photos(root / "south", classes=["cat", "Dog"], train=8)
    write_photos(root / "more", classes=["elk", "ant"], train=10)
    shutil.move(root / "more" / "train", root / "west")
    shutil.rmtree(root / "more")
    return root


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    root = tmp_path_factory.mktemp("sites")
    from cli.small_runs import make_bench

    bench = make_bench(root / "bench")
    folder = write_sites(root / "photos")
    return Silos(bench, {client: folder / name for client, name in enumerate(SITES)})


def root_of(sites: Silos) -> str:
    return str(sites.folders[0].parent)


def compared(record: dict) -> dict:
    """A record without the numbers of images by client, which the server of a federation alone needs."""
    federated = {key: value for key, value in record["federated"].items() if key != "counts"}
    return record | {"federated": federated}


def assert_alike(ours: object, theirs: object, where: str = "") -> None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_alike(value, theirs[key], f"{where}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(one, other, f"{where}/{number}")
    else:
        assert ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(theirs, float) else theirs), where


@pytest.mark.parametrize(
    ("method", "classes", "novel", "settings", "start"),
    [
        ("feddtl", "ant,cat,dog", "elk,bee", {"shots": 4}, ""),
        ("fedlora", ALL, "", {"regime": "full"}, "feddtl"),
        ("fedpgp", "ant,cat,dog", "bee,elk", {"shots": 3, "test_images_per_class": 2}, "fedpgp"),
    ],
)
def test_the_numbers_of_the_same_folders_over_flower(sites, tmp_path, method, classes, novel, settings, start):
    """Every number of every round: accuracies, traffic and virtual time; the adapters to rounding.

    With a start: a site and classes come later, and the run begins with the model of the run without them.
    """
    old = tmp_path / "old" if start else ""
    if start:
        shutil.copytree(sites.folders[0], tmp_path / "first" / "north")
        shutil.copytree(sites.folders[2], tmp_path / "first" / "west")
        names = {"classes": "ant,cat", "novel_classes": "bee,elk"}
        first = DataConfig(source=str(tmp_path / "first"), partition="sites", **names)
        run_experiment(sites.experiment(start, data=first, rounds=1, schedule=ScheduleConfig(stages="sft")), old)
    lists = {"classes": classes, "novel_classes": novel, **settings}
    own = DataConfig(source="clients", clients=CLIENTS, **lists)
    more = {"evaluation": EvaluationConfig(client_models="every"), "init_from": str(old)}
    deployment.serve(sites.experiment(method, data=own, **more), tmp_path / "flower", sites.grid())
    here = DataConfig(source=root_of(sites), partition="sites", **lists)
    run_experiment(sites.experiment(method, data=here, **more), tmp_path / "here")
    ours, theirs = ({n: t for n, t in final_state(tmp_path / run).items() if n.startswith(("state/", "personal/"))}
                    for run in ("here", "flower"))  # fmt: skip
    state = {name for name in ours if name.startswith("state/")}
    assert state == {name for name in theirs if name.startswith("state/")}
    for name in state:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)
    assert_alike(*(list(map(compared, records(tmp_path / run))) for run in ("here", "flower")))
    one, other = (summary(tmp_path / run) for run in ("here", "flower"))
    assert_alike(*({key: value for key, value in found.items() if key not in OF_PLACE} for found in (one, other)))
    assert one["clients"] == CLIENTS
    if method != "fedpgp":  # whose first context is no prompt of CLIP's
        scores = ("base", "novel", "harmonic_mean")
        assert [one["zero_shot"][name] for name in scores] == [other["zero_shot"][name] for name in scores]
    assert one["federated"]["final"]["base_images"] == other["federated"]["final"]["base_images"] > 0
