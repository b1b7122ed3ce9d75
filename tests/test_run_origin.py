"""What a run was made from: another model in its place is refused, and what was moved with the run is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.small_runs import make_bench
from edited_runs import change
from safetensors.torch import load_file, save_file

from feddtl.comparison.grid import compare
from feddtl.config import DataConfig, Experiment, LocalConfig
from feddtl.errors import RunError
from feddtl.experiment import run_experiment
from feddtl.export import export_merged
from feddtl.results.reading import collect
from feddtl.run_origin import different_parts, moved_paths, start_text, with_moved_paths
from feddtl.runs import RunFolder
from feddtl.scoring import score_run
from feddtl.trained_model import load_trained_model


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a model, pictures and a finished run of one round, whose paths were given from within it."""
    root = tmp_path_factory.mktemp("work") / "project"
    make_bench(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_experiment(experiment(), Path("runs/one"))
    return root


def experiment(**changes):
    data = DataConfig(source="photos", clients=1, shots=1, test_images_per_class=1)
    settings = {"method": "fedlora", "model": "clip", "rounds": 1, "data": data}
    return Experiment(**settings, local=LocalConfig(epochs=1, warmup_epochs=0), **changes)


@pytest.fixture
def moved(project, tmp_path):
    return shutil.copytree(project, tmp_path / "elsewhere")


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] += 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_heads(folder):
    set_values(folder / "config.json", "vision_config", num_attention_heads=4)


def change_norm(folder):
    set_values(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])


def change_tokenizer(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def set_values(file, table="", **values):
    content = json.loads(file.read_text())
    (content[table] if table else content).update(values)
    file.write_text(json.dumps(content))


def set_model(run, folder):
    change(run / "config.json", lambda config: config.update(model=str(folder)))


@pytest.mark.parametrize(
    ("replace", "named"),
    [
        (change_weights, "weights: hash was"),
        (change_heads, r"image tower \(config.json\): num_attention_heads was 2, is 4"),
        (change_norm, "image_mean was .* is .0.5, 0.5, 0.5"),
        (change_tokenizer, "tokenizer: hash was"),
    ],
)
def test_another_model_in_the_place_of_a_run_s_is_refused(moved, tmp_path, replace, named):
    shutil.rmtree(moved.parent / "project", ignore_errors=True)
    run = moved / "runs" / "one"
    replace(moved / "clip")
    set_model(run, moved / "clip")
    with pytest.raises(RunError, match=named) as caught:
        load_trained_model(run)
    assert str(moved / "clip") in caught.value.message
    with pytest.raises(RunError, match=named):
        export_merged(run, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    with pytest.raises(RunError, match=named):
        score_run(run)
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match=named):
        run_experiment(RunFolder.find(run).experiment, run, resume=True)


def test_the_same_model_saved_again_is_the_same(moved):
    """Other bytes, times and order of the settings; and the model's own name."""
    weights = load_file(moved / "clip" / "model.safetensors")
    save_file(weights, moved / "clip" / "model.safetensors", metadata={"format": "pt", "by": "another"})
    set_values(moved / "clip" / "config.json", transformers_version="9.9", _name_or_path="somewhere")
    set_values(moved / "clip" / "preprocessor_config.json", processor_class="CLIPProcessor", crop_size=16, size=16)
    set_model(moved / "runs" / "one", moved / "clip")
    load_trained_model(moved / "runs" / "one")


def test_paths_mean_the_same_in_every_working_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = project / "runs" / "one"
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["data"]["source"]) == (str(project / "clip"), str(project / "photos"))
    adapter = json.loads((run / "adapter" / "image" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(project / "clip")
    assert score_run(run, class_lists=["base"])[0].images


def test_what_was_moved_with_the_run_is_found_and_said(project, moved, tmp_path):
    run, notes = moved / "runs" / "one", []
    hidden = project.rename(tmp_path / "hidden")
    try:
        score_run(run, class_lists=["base"], note=notes.append)
        assert any(f"model = {project / 'clip'} is gone; using {moved / 'clip'}" in note for note in notes)
        (run / "summary.json").unlink()
        shutil.rmtree(moved / "photos")
        with pytest.raises(Exception, match="photos"):
            score_run(run)
    finally:
        hidden.rename(project)


def test_a_run_of_an_earlier_version_says_that_its_model_cannot_be_checked(moved):
    run, notes = moved / "runs" / "one", []
    (run / "origin.json").unlink()
    load_trained_model(run, note=notes.append)
    assert any("did not record its model" in note for note in notes)


def test_damaged_origin_is_named(moved):
    (moved / "runs" / "one" / "origin.json").write_text("[]")
    with pytest.raises(RunError, match=r"origin.json is damaged"):
        load_trained_model(moved / "runs" / "one")


def test_one_comparison_and_one_report_have_one_model(moved, monkeypatch):
    """Cells and runs that name the same folder, whose content changed in between."""
    monkeypatch.chdir(moved)
    compare({"a": experiment()}, Path("table"))
    change_weights(moved / "clip")
    found = compare({"a": experiment(), "b": experiment(participation=0.9)}, Path("table"))
    assert [run.name for run in found.outcomes] == ["a"]
    assert "made from another model" in found.failures[0].message
    run_experiment(experiment(seed=1), Path("table/runs/c"))
    with pytest.raises(RunError, match="were made from different models, both named"):
        collect(moved / "table")


def test_parts_that_one_side_does_not_know_are_not_compared():
    assert different_parts({"weights": "a"}, {"weights": "a", "tokenizer": "b"}) == ""
    assert different_parts({"weights": "a" * 64}, {"weights": "b" * 64}).startswith("weights: hash was aaaa")


def test_only_what_shares_a_folder_with_the_run_counts_as_moved(tmp_path):
    """A path that is gone from another disk must not become one of the same name here."""
    (tmp_path / "origin.json").write_text(json.dumps({"folder": "/gone/runs/x", "model": {}}))
    values = {"model": "/other/clip", "data": {"source": "photos", "root": "/gone/data"}, "method": "/gone/own.py:Own"}
    assert list(moved_paths(values, tmp_path)) == []
    run = tmp_path / "new" / "runs" / "x"
    run.mkdir(parents=True)
    (tmp_path / "new" / "own.py").touch()
    shutil.copy(tmp_path / "origin.json", run)
    assert with_moved_paths(values, run) == values | {"method": f"{tmp_path / 'new' / 'own.py'}:Own"}


def test_where_a_run_started_is_said_with_the_run_before():
    first = {"folder": "/runs/first", "method": "feddtl", "rounds": 1}  # of an earlier version
    second = {**first, "folder": "/runs/second", "title": "FedLoRA", "dataset": "photos", "started_from": first}
    assert start_text(second) == "second, 1 round of FedLoRA on photos, which started from first, 1 round of feddtl"
