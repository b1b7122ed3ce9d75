"""Every experiment file loads, names a method that is there, and data that can be divided as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from feddtl.algorithms import METHODS
from feddtl.cli import main
from feddtl.config import Experiment
from feddtl.data import federated
from feddtl.data.catalog import CATALOG
from feddtl.data.federated import load_federated_data
from feddtl.data.partition import partition
from feddtl.data.sources import load_dataset
from feddtl.data.splits import base_novel_classes
from feddtl.experiment_file import load_experiment
from feddtl.models.clip import EMBEDDED

FOLDER = Path(__file__).resolve().parent.parent / "experiments"
FILES = sorted(FOLDER.rglob("*.toml"))
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Classes and domains of the catalogued sources in use, as their publishers state them; nothing is downloaded here.
SIZES = {"cifar10": (10, 1), "cifar100": (100, 1), "pacs": (7, 4), "eurosat": (10, 1), "office-caltech-10": (10, 4)}

each_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(FOLDER)) for file in FILES])


@pytest.fixture(scope="module", autouse=True)
def _load_generated_images_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federated, "load_dataset", cache(load_dataset))
        yield


def test_there_are_experiments() -> None:
    assert FOLDER / "quickstart.toml" in FILES


@each_file
def test_it_loads_and_its_method_and_model_exist(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.method in METHODS
    assert experiment.model == EMBEDDED or HUB_ID.fullmatch(experiment.model)


@each_file
def test_its_data_can_be_divided_as_it_says(file: Path) -> None:
    experiment = load_experiment(file)
    if experiment.data.source == "shapes":
        data = load_federated_data(experiment.data, experiment.seed)
        assert len(data.partition.train) == experiment.data.clients
        assert all(len(part) for part in data.partition.train)
    else:
        _divide_stand_in(experiment)


def _divide_stand_in(experiment: Experiment) -> None:
    """As many classes and domains as the real data set has, 40 images of each class in each domain."""
    source = experiment.data.source
    assert source in CATALOG or HUB_ID.fullmatch(source), f"{source} is neither catalogued nor a Hub id"
    num_classes, num_domains = SIZES[source.rpartition("/")[2]]
    num_base = len(base_novel_classes(num_classes)[0])
    labels = np.tile(np.arange(num_base), 40 * num_domains)
    domains = np.repeat(np.arange(num_domains), 40 * num_base)
    parts = partition(
        *(labels, domains, labels, domains),
        kind=experiment.data.partition,
        num_classes=num_base,
        num_domains=num_domains,
        clients=experiment.data.clients,
        alpha=experiment.data.alpha,
        seed=experiment.seed,
    )
    assert all(len(part) for part in parts.train)


@each_file
def test_its_head_says_how_to_run_it(file: Path) -> None:
    """Purpose, the command with this file's own name, and where the expected numbers are."""
    head = file.read_text(encoding="utf-8").split("\n\n")[0]
    assert head.startswith("# ")
    assert f"feddtl run experiments/{file.relative_to(FOLDER).as_posix()} " in head
    assert "Expected numbers" in head


@each_file
def test_the_command_line_takes_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", str(file), "--help"])
    assert caught.value.code in (0, None)
    assert f"(default: {load_experiment(file).rounds})" in capsys.readouterr().out
