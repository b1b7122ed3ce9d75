"""Experiments inside feddtl, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from feddtl.cli.experiment_argument import SHIPPED, experiment_path, shipped_experiments
from feddtl.errors import ConfigError
from feddtl.experiment_file import load_experiments


@pytest.mark.parametrize(
    ("name", "preferred", "file"),
    [
        ("quickstart", "", "quickstart.toml"),
        ("quickstart", "tables", "tables/quickstart.toml"),
        ("own_images", "tables", "own_images.toml"),
        ("tables/quickstart::fedlora", "", "tables/quickstart.toml::fedlora"),
    ],
)
def test_experiments_inside_feddtl_have_names(name: str, preferred: str, file: str) -> None:
    found = experiment_path(name, preferred)
    assert found == SHIPPED / file
    assert load_experiments(found)


def test_names_are_those_of_the_folder_and_an_unknown_one_lists_them() -> None:
    root = Path(__file__).resolve().parents[2] / "experiments"
    names = {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml")}
    assert set(shipped_experiments()) == names
    with pytest.raises(ConfigError) as caught:
        experiment_path("quikstart")
    assert "no experiment of this name" in caught.value.message
    assert caught.value.hint.endswith(f"Names: {', '.join(shipped_experiments())}.")
    assert experiment_path("quickstart.toml") == Path("quickstart.toml"), "a file is a file"
