"""A method outside the repository: settings, errors, a run from the command line, resuming it, and its digest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feddtl.config import Experiment
from feddtl.errors import ConfigError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.methods.catalog import method_digest, method_entry, settings_table

FED_SHIFT = '''
from dataclasses import dataclass
from typing import Annotated

import torch

from feddtl.checks import AtLeast, check_fields
from feddtl.methods.base import Method


@dataclass(frozen=True)
class FedShiftSettings:
    start: Annotated[float, AtLeast(0)] = 0.0
    """Value that every entry of the shift starts from."""

    def __post_init__(self):
        check_fields("fedshift", self)


class FedShift(Method):
    """A vector added to the image features."""

    Settings = FedShiftSettings
    title = "FedShift (ours)"

    def initial_shared(self):
        return {"shift": torch.full((self.clip.image.feature_width,), self.settings.start)}

    def image_features(self, tensors, activations):
        return super().image_features(tensors, activations) + tensors["shift"]
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "shift.py").write_text(FED_SHIFT)
    return f"{tmp_path / 'shift.py'}:FedShift"


def test_its_settings_are_a_table_of_the_experiment(own: str) -> None:
    experiment = experiment_from_dict({"method": own, "fedshift": {"start": 0.5}})
    assert experiment.method_settings.start == 0.5
    assert (experiment.title, experiment.stages, settings_table(own)) == ("FedShift (ours)", "sft", "fedshift")
    assert experiment_to_dict(experiment)["fedshift"] == {"start": 0.5}
    assert experiment_from_dict(experiment_to_dict(experiment)) == experiment
    with pytest.raises(ConfigError, match=r"fedshift\.start = -1\.0 is out of range"):
        experiment_from_dict({"method": own, "fedshift": {"start": -1}})
    with pytest.raises(ConfigError, match=r"Unknown key 'fedshift\.begin'"):
        experiment_from_dict({"method": own, "fedshift": {"begin": 1}})


def test_the_table_belongs_to_experiments_with_the_method_alone(own: str) -> None:
    assert "fedshift" in experiment_to_dict(Experiment(method=own))
    with pytest.raises(ConfigError, match="Unknown key 'fedshift'"):
        experiment_from_dict({"method": "fedclip", "fedshift": {"start": 1}})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:FedShift", "there is no file nowhere.py"),
        ("no_such_package.part:FedShift", "No module named"),
        ("feddtl.methods.base:Task", "something other than a method"),
        ("feddtl.methods.base:FedShift", "has no class 'FedShift'"),
        ("fedshift", "is not known"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(method=name)
    assert message in str(error.value)
    assert "method" in error.value.hint or "Class" in error.value.hint


def test_a_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(ConfigError, match=r"broken\.py:Mine' cannot be loaded: ModuleNotFoundError"):
        method_entry(f"{tmp_path / 'broken.py'}:Mine")


def test_the_digest_is_that_of_the_file(own: str, tmp_path: Path) -> None:
    assert method_digest(own) == hashlib.sha256((tmp_path / "shift.py").read_bytes()).hexdigest()
    assert method_digest("feddtl") == ""


@pytest.mark.slow
def test_it_runs_resumes_and_compares_from_the_command_line(own: str, clip_folder: Path, tmp_path: Path) -> None:
    def feddtl(*words: str) -> str:
        command = [sys.executable, "-m", "feddtl", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    short = ("--model", str(clip_folder), "--data.shots", "1", "--data.test-images-per-class", "1", "--quiet")
    given = ("--method", "shift.py:FedShift", "--fedshift.start", "0.25", "--rounds", "2", *short)
    assert "--fedshift.start" in feddtl("run", "--help", "--method", "shift.py:FedShift")
    assert "FedShift (ours)" in feddtl("run", *given, "--output", "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["method"], config["fedshift"]) == (f"{tmp_path / 'shift.py'}:FedShift", {"start": 0.25})
    summary = (tmp_path / "run/summary.json").read_text()
    (tmp_path / "run/summary.json").unlink()
    feddtl("run", "--resume", "run", "--quiet")
    again, before = json.loads((tmp_path / "run/summary.json").read_text()), json.loads(summary)
    assert again["final"] == before["final"]
    (tmp_path / "two.toml").write_text(
        'rounds = 1\n[data]\nsource = "shapes"\nshots = 1\ntest_images_per_class = 1\n'
        '[variants]\nours = { method = "shift.py:FedShift", fedshift.start = 0.1 }\ntheirs = { method = "fedclip" }\n'
    )
    feddtl("compare", "two.toml", "--model", str(clip_folder), "--output", "both", "--quiet")
    assert "FedShift (ours)" in (tmp_path / "both/table.md").read_text()


def test_a_subclass_of_a_built_in_method_has_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from feddtl.methods.promptfl.method import PromptFL\n\nclass Mine(PromptFL):\n    title = 'Mine'\n"
    )
    name = f"{tmp_path / 'mine.py'}:Mine"
    experiment = experiment_from_dict({"method": name, "mine": {"context_length": 2}})
    assert experiment.method_settings.context_length == 2
