"""Every experiment of every file loads, has data that can be divided as it says, and a method that trains on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from feddtl.backbones.source import EMBEDDED
from feddtl.cli import main
from feddtl.cli.commands import COMMANDS
from feddtl.config import ComputeConfig, DataConfig, Experiment
from feddtl.data import regime
from feddtl.data.catalog import CATALOG
from feddtl.data.federated import load_federated_data
from feddtl.data.sources import load_dataset
from feddtl.data.splits import with_fewer_test_images
from feddtl.data.table import ImageDataset, ImageTable
from feddtl.dotted import flatten
from feddtl.experiment import run_experiment
from feddtl.experiment_file import experiment_to_dict, load_experiments
from feddtl.methods.catalog import METHODS
from feddtl.methods.fedclip.settings import FedCLIPSettings

FOLDER = Path(__file__).resolve().parent.parent / "experiments"
FILES = sorted(FOLDER.rglob("*.toml"))
EXPERIMENTS = {file: load_experiments(file) for file in FILES}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Classes and domains of the catalogue's sources in use, as their publishers state them; nothing is downloaded here.
SIZES = {
    **{"cifar10": (10, 1), "cifar100": (100, 1), "eurosat": (10, 1), "tiny-imagenet": (200, 1)},
    **{"oxford-pets": (37, 1), "flowers102": (102, 1), "caltech101": (100, 1), "caltech256": (256, 1)},
    **{"food101": (101, 1), "domainnet": (10, 6), "officecaltech10": (10, 4), "pacs": (7, 4)},
}
LABEL_SKEW = set(list(SIZES)[:9])
# What the paper compares; a table of the paper needs no other method.
PAPER_METHODS = ("feddtl", "fedlora", "promptfl", "fedmaple", "fedpgp", "pfedmma", "fedclip", "zero-shot")
FEATURE_SHIFT = {"domainnet", "officecaltech10"}
# Images of each class in each domain of a stand-in: enough for 16 shots where there is one domain.
TRAIN, TRAIN_PER_DOMAIN, TEST = 20, 4, 2

each_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(FOLDER)) for file in FILES])


@cache
def stand_in(source: str) -> ImageDataset:
    """As many classes and domains as the real data set, with a few images of 8 pixels each."""
    assert source in CATALOG, f"{source} is not catalogued"
    classes, domains = SIZES[source]
    return ImageDataset(
        source,
        _stand_in_images(classes, domains, TRAIN if domains == 1 else TRAIN_PER_DOMAIN),
        _stand_in_images(classes, domains, TEST),
        tuple(f"class {number}" for number in range(classes)),
        tuple(f"domain {number}" for number in range(domains)) if domains > 1 else ("all",),
    )


def _stand_in_images(classes: int, domains: int, each: int) -> ImageTable:
    labels = np.tile(np.arange(classes), each * domains)
    shades = np.random.default_rng(0).integers(0, 256, (classes, 3), dtype=np.uint8)
    return ImageTable(
        lambda row: Image.new("RGB", (8, 8), tuple(shades[labels[row]].tolist())),
        np.arange(len(labels)),
        labels,
        np.repeat(np.arange(domains), each * classes),
    )


@pytest.fixture(scope="module", autouse=True)
def _no_download() -> Iterator[None]:
    """Shapes are generated once; a stand-in takes the place of every other source."""
    shapes = cache(load_dataset)

    def load(config: DataConfig, copy: str = "", *, partial: bool = False) -> ImageDataset:
        if config.source == "shapes":
            read = ("domains", "novel", "prompt", "test_images_per_class")
            return shapes(DataConfig(**{key: getattr(config, key) for key in read}))
        return with_fewer_test_images(stand_in(config.source), config.test_images_per_class, seed=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regime, "load_dataset", load)
        yield


@each_file
def test_methods_models_and_names(file: Path) -> None:
    for name, experiment in EXPERIMENTS[file].items():
        assert experiment.method in METHODS, name
        assert experiment.model_name == EMBEDDED or HUB_ID.fullmatch(experiment.model), name
        assert re.fullmatch(r"[\w.+-]+", name), "a folder is named after it"


def test_no_two_files_have_one_name_in_a_folder_of_runs() -> None:
    """`feddtl compare A.toml B.toml` keeps the runs of both in one folder; within a table, names must differ."""
    for folder in {file.parent for file in FILES}:
        names = [name for file in FILES if file.parent == folder for name in EXPERIMENTS[file]]
        assert len(names) == len(set(names)), folder


@each_file
def test_its_data_can_be_divided_as_it_says(file: Path) -> None:
    """With the three seeds of the paper's protocol."""
    for config in {experiment.data for experiment in EXPERIMENTS[file].values()}:
        for seed in range(3):
            data = load_federated_data(config, seed)
            assert len(data.partition.train) == config.client_count
            assert all(len(part) for part in data.partition.train)


@each_file
def test_its_head_is_complete(file: Path) -> None:
    """Purpose, the command with this file's own name, and where the expected numbers are; for a table the cost too."""
    head = file.read_text(encoding="utf-8").split("\n\n")[0]
    assert head.startswith("# ")
    name, experiments = f"experiments/{file.relative_to(FOLDER).as_posix()}", EXPERIMENTS[file]
    if len(experiments) == 1:
        assert f"feddtl run {name} " in head
    else:
        assert re.search(rf"feddtl compare {re.escape(name)} --seeds 0 1 2( 3 4)? --output runs/", head)
        assert re.search(r"[Cc]ost", head)
    if count := re.search(r"Cost: (\d+) runs a seed", head):
        assert int(count[1]) == len(experiments)
    assert "Expected numbers" in head


@each_file
def test_the_commands_of_its_head_are_understood(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `feddtl run` of the head would run what is in the file."""
    understood: list[Experiment] = []
    monkeypatch.setattr(COMMANDS["run"], "execute", lambda self: understood.append(self.config) or 0)
    named = re.findall(r"feddtl run (experiments/\S+)", file.read_text(encoding="utf-8"))
    assert named
    for place in named:
        path = FOLDER.parent / place
        [experiment] = load_experiments(path).values()
        assert main(["run", str(path)]) == 0
        assert understood.pop() == experiment


def of(folder: str) -> list[Experiment]:
    return [experiment for file in FILES if file.parent.name == folder for experiment in EXPERIMENTS[file].values()]


def test_the_main_tables_are_whole() -> None:
    """Nine data sets, two regimes, two partitions, all methods; FedLoRA by cross-entropy alone."""
    cells = [(e.data.source, e.data.regime, e.data.partition, e.method) for e in of("table1")]
    assert len(cells) == len(set(cells)) == 9 * 2 * 2 * len(PAPER_METHODS)
    assert {cell[0] for cell in cells} == LABEL_SKEW
    assert {cell[3] for cell in cells} == set(PAPER_METHODS)
    cells = [(e.data.source, e.data.partition, e.method) for e in of("feature_shift")]
    assert len(cells) == len(set(cells)) == 2 * 2 * len(PAPER_METHODS)
    assert {cell[:2] for cell in cells} == {(s, p) for s in FEATURE_SHIFT for p in ("domain", "domain-dirichlet")}
    for experiment in of("feature_shift"):
        clients_per_domain = 1 if experiment.data.partition == "domain" else 2
        assert experiment.data.client_count == clients_per_domain * SIZES[experiment.data.source][1]
    for experiment in [*of("table1"), *of("feature_shift")]:
        assert (experiment.model, experiment.rounds) == ("openai/clip-vit-base-patch16", 20)
        assert experiment.data.alpha == 0.1
        assert experiment.data.test_images_per_class == 0
        assert (experiment.method == "fedlora") == (experiment.schedule.stages == "sft")
        assert experiment.data.client_count == 5 or experiment.data.source in FEATURE_SHIFT


# Rate, batch size, local epochs and rounds of each release.
RELEASES = {
    "feddtl": (0.001, 64, 2, 20),
    "fedlora": (0.001, 64, 2, 20),
    "promptfl": (0.001, 32, 5, 20),
    "fedmaple": (0.001, 8, 2, 10),
    "fedpgp": (0.001, 16, 2, 25),
    "fedmgp": (0.001, 8, 2, 10),
    "pfedmma": (0.001, 32, 1, 100),
    "fedclip": (5e-5, 32, 1, 300),
}


def test_each_method_has_the_settings_of_its_release() -> None:
    """In every file of `published`, which differ in their data alone."""
    files = [file for file in FILES if file.parent.name == "published"]
    assert files
    for file in files:
        found = {experiment.method: experiment for experiment in EXPERIMENTS[file].values()}
        assert found.keys() == {*RELEASES, "zero-shot"}
        for method, expected in RELEASES.items():
            local = found[method].local
            own = (local.learning_rate, local.batch_size, local.epochs, found[method].rounds)
            assert own == expected, f"{file}: {method}"
            assert (local.optimizer, local.momentum, local.weight_decay) == ("auto", 0.9, 5e-4)
            cosine = ("cosine", 1, 1e-5) if method == "promptfl" else ("constant", 0, 1e-5)
            assert (local.rate_schedule, local.warmup_epochs, local.warmup_rate) == cosine
        clip = found["fedclip"]
        adam = (clip.local.adam_beta1, clip.local.adam_beta2, clip.local.adam_epsilon, clip.local.adam_weight_decay)
        assert adam == (0.9, 0.98, 1e-6, 0.2)
        assert clip.server.aggregator == "unweighted-mean"
        assert clip.method_settings == FedCLIPSettings("contrastive", "a picture of a {class}")


def test_the_ablation_has_its_four_rows() -> None:
    found = [e for file in FILES if file.match("ablation/*_non_iid.toml") for e in EXPERIMENTS[file].values()]
    rows = {(e.method, e.stages) for e in found}
    assert len(rows) == 4
    assert {(e.data.source, e.data.regime) for e in found} == {(s, r) for s in LABEL_SKEW for r in ("few-shot", "full")}
    assert len(found) == 9 * 2 * 4


def test_every_sweep_holds_the_default_and_changes_nothing_else() -> None:
    """Each sweep has the paper's value, so that all of them meet in one experiment."""
    for file in FILES:
        if file.parent.name == "sweeps":
            changed = [_differences(experiment) for experiment in EXPERIMENTS[file].values()]
            assert len({frozenset(values.items()) for values in changed}) == len(changed), file
            assert len({frozenset(values) - {"method"} for values in changed}) <= 2, f"{file}: more than one change"
            assert any(not values for values in changed), f"{file} lacks the default"


def _differences(experiment: Experiment) -> dict[str, Any]:
    """What differs from the sweeps' common setting; K = 5, M = 10 and block 10 of 12 are words for the defaults."""
    common = flatten(experiment_to_dict(Experiment(model="openai/clip-vit-base-patch16")))
    common |= {"data.source": "cifar100", "evaluation.every": 20}
    same = {"data.clients": 5, "schedule.sft_rounds": 10, "lora.first_image_block": 10, "lora.first_text_block": 10}
    partition = {"data.partition"} if experiment.data.partition == "dirichlet" else set()
    return {
        key: value
        for key, value in flatten(experiment_to_dict(experiment)).items()
        if value != common[key] and same.get(key) != value and key not in partition
    }


@cache
def kinds() -> dict[str, Experiment]:
    """One experiment for each distinct combination of method, stages, regime and partition, the smallest data first."""
    by_size = sorted(
        (experiment for found in EXPERIMENTS.values() for experiment in found.values()),
        key=lambda experiment: np.prod(SIZES.get(experiment.data.source, (64, 4))),
    )
    found: dict[str, Experiment] = {}
    for e in by_size:
        stages = e.stages if e.method in ("feddtl", "fedlora") else "-"
        found.setdefault(" ".join((e.method, stages, e.data.regime, e.data.partition)), e)
    return found


@cache
def trained_here() -> dict[str, Experiment]:
    """One of each kind; of a file without any of these the last one, which of a sweep is the largest value."""
    found = dict(kinds())
    for file, experiments in EXPERIMENTS.items():
        if not any(experiment in kinds().values() for experiment in experiments.values()):
            found[str(file.relative_to(FOLDER))] = list(experiments.values())[-1]
    return found


def kinds_then_files() -> list[Any]:
    """Kinds in every run of the tests; files, which are of these kinds with other values, in the slow ones."""
    return [name if name in kinds() else pytest.param(name, marks=pytest.mark.slow) for name in trained_here()]


@pytest.mark.parametrize("name", kinds_then_files())
def test_each_kind_and_file_trains(name: str, clip_folder: Path, tmp_path: Path) -> None:
    """Two rounds, so that a schedule with RL reaches it, on the stand-in and a tiny random CLIP."""
    experiment = trained_here()[name]
    short = replace(
        experiment,
        model=str(clip_folder),
        rounds=2,
        # The random CLIP has fewer blocks.
        lora=replace(experiment.lora, first_image_block=-2, first_text_block=-2),
        schedule=replace(experiment.schedule, sft_rounds=0),
        data=replace(experiment.data, test_images_per_class=1),
        compute=ComputeConfig(precision="float32", attention="sdpa", cache_folder="off"),
    )
    summary = run_experiment(short, tmp_path / "run")
    assert summary.method == experiment.method
    assert 0 <= summary.final["harmonic_mean"] <= 100


def test_the_quickstart_is_a_row_of_its_table() -> None:
    [alone] = EXPERIMENTS[FOLDER / "quickstart.toml"].values()
    [row, _] = EXPERIMENTS[FOLDER / "tables" / "quickstart.toml"].values()
    assert row == alone
