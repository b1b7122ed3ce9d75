"""The prompt that an experiment asks for, in every form in which it can be given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli.small_runs import Bench

from feddtl.config import DataConfig
from feddtl.data.catalog import CATALOG
from feddtl.data.federated import images_on_clients, load_federated_data
from feddtl.data.templates import GENERAL, USUAL, chosen_prompt, usual_templates
from feddtl.errors import ConfigError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict, load_experiment
from feddtl.prompts import templates_of

TWO = "a {class}.\nthe {class}, drawn"
FORMS = {
    "list": 'prompt = ["a {class}.", "the {class}, drawn"]',
    "lines": 'prompt = """\n  a {class}.\n\n  the {class}, drawn\n"""',
    "file": 'prompt = "@FILE"',
}


@pytest.mark.parametrize("form", FORMS)
def test_several_templates_in_a_file(tmp_path: Path, form: str) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa {class}.\r\n\r\nthe {class}, drawn\r\n")
    file = tmp_path / "mine.toml"
    file.write_text(f"[data]\n{FORMS[form].replace('FILE', str(tmp_path / 'prompts.txt'))}\n")
    experiment = load_experiment(file)
    assert chosen_prompt(experiment.data.prompt, "", "photos") == TWO
    # As a run folder, a grid and a message store it.
    assert experiment_from_dict(json.loads(json.dumps(experiment_to_dict(experiment)))) == experiment


def test_python_takes_a_list_and_one_template_stays_as_it_is() -> None:
    assert DataConfig(prompt=["a {class}.", "the {class}, drawn"]).prompt == TWO  # type: ignore[arg-type]
    assert DataConfig(prompt=[" a {class}"]) == DataConfig(prompt=" a {class}")  # type: ignore[arg-type]
    assert templates_of(" a {class}") == (" a {class}",)
    assert chosen_prompt("", " own {class}", "photos") == " own {class}"


def test_every_data_set_has_usual_templates_that_a_prompt_allows() -> None:
    assert USUAL.keys() == {"shapes", *CATALOG}
    for name, templates in USUAL.items():
        assert len(templates) >= 3
        assert DataConfig(prompt=list(templates)).prompt == "\n".join(templates)  # type: ignore[arg-type]
        assert chosen_prompt("ensemble", "", name) == "\n".join(templates)
    assert usual_templates("CIFAR_10") == USUAL["cifar10"]
    assert usual_templates("") == usual_templates("./photos") == GENERAL


def test_federated_data_say_what_is_averaged(bench: Bench) -> None:
    photos = DataConfig(source=str(bench.photos), clients=2)
    data = load_federated_data(replace(photos, prompt="ensemble"), seed=0)
    assert templates_of(data.prompt_template) == GENERAL
    said = "The text of a class is the mean of 7 prompts: 'itap of a {class}.', "
    assert [note for note in data.notes if note.startswith(said)]
    assert not any("prompts" in note for note in load_federated_data(photos, seed=0).notes)
    own = DataConfig(source="clients", classes="a, b", prompt="ensemble")
    assert templates_of(images_on_clients(own).prompt_template) == GENERAL
    assert len(images_on_clients(own).notes) == 1


def test_a_file_is_read_only_where_a_person_names_it(bench: Bench, tmp_path: Path) -> None:
    """An experiment that came over a network may name one, too."""
    (tmp_path / "secret.txt").write_text("{class}")
    data = {"prompt": f"@{tmp_path}/secret.txt", "source": str(bench.photos)}
    with pytest.raises(ConfigError, match="a file that was not read"):
        load_federated_data(experiment_from_dict({"data": data}).data, seed=0)
