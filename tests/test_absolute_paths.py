"""What of an experiment is a path, and what is a name."""

from __future__ import annotations

import pytest

from feddtl.absolute_paths import with_absolute_paths
from feddtl.config import ComputeConfig, DataConfig, Experiment


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A working directory that has a folder of each of these names."""
    for name in ("photos", "shapes", "clients", "caltech101", "tiny-clip", "clip", "copies"):
        (tmp_path / name).mkdir()
    (tmp_path / "images.parquet").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("source", ["photos", "./photos", "images.parquet"])
def test_a_source_that_is_there_becomes_absolute(tmp_path, source):
    moved = with_absolute_paths(Experiment(data=DataConfig(source=source)))
    assert moved == Experiment(data=DataConfig(source=str(tmp_path / source)))
    assert with_absolute_paths(moved) == moved


@pytest.mark.parametrize("source", ["shapes", "caltech101", "someone/pictures"])
def test_a_name_stays(source):
    """A folder of the working directory that is called the same is not what `feddtl run` would take."""
    experiment = Experiment(data=DataConfig(source=source))
    assert with_absolute_paths(experiment) == experiment


def test_images_on_the_clients_stay_there():
    experiment = Experiment(data=DataConfig(source="clients", classes="ant, bee", novel_classes="cat"))
    assert with_absolute_paths(experiment) == experiment


def test_below_a_root_the_source_is_a_name(tmp_path):
    moved = with_absolute_paths(Experiment(data=DataConfig(source="photos", root="copies")))
    assert (moved.data.source, moved.data.root) == ("photos", str(tmp_path / "copies"))


@pytest.mark.parametrize(
    ("model", "absolute"), [("clip", True), ("tiny-clip", False), ("openai/clip-vit-base-patch16", False)]
)
def test_the_model(tmp_path, model, absolute):
    assert with_absolute_paths(Experiment(model=model)).model == (str(tmp_path / model) if absolute else model)


@pytest.mark.parametrize(("folder", "moved"), [("kept", "{here}/kept"), ("", ""), ("off", "off")])
def test_the_cache_lies_where_it_was_asked_for(tmp_path, folder, moved):
    experiment = with_absolute_paths(Experiment(compute=ComputeConfig(cache_folder=folder)))
    assert experiment.compute.cache_folder == moved.format(here=tmp_path)
