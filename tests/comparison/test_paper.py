"""Where the paper's numbers are shown, and that they are what the paper's own arithmetic allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison.made_up import outcome

from feddtl.comparison.paper import (
    ABLATION,
    COMPARISON,
    OF_EVERY_ROW,
    OF_LORA,
    OF_RL,
    OF_TEMPLATES,
    OF_THE_SERVER,
    different_rows,
    other_settings,
    paper_table,
)
from feddtl.config import DataConfig, Experiment
from feddtl.dotted import flatten, with_values
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict
from feddtl.results.settings import Condition, setting_of

REFERENCE = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text()


def condition(**data: object) -> Condition:
    return setting_of(outcome("a", 0, 60, 50, data=DataConfig(**data))).condition  # type: ignore[arg-type]


def test_the_ablation_stands_beside_an_ablation() -> None:
    labels = ["Zero-shot", "FedDTL", "FedDTL (SFT only)"]
    found = paper_table(condition(regime="full"), labels, mean_over_data=False)
    assert found is not None
    assert found.rows["FedDTL (SFT only)"].novel == "73.57"
    assert "seven" in found.data


def test_the_mean_of_nine_stands_beside_a_mean() -> None:
    labels = ["FedDTL", "FedMaPLe"]
    found = paper_table(condition(partition="dirichlet", alpha=0.1), labels, mean_over_data=True)
    assert found is not None
    assert (found.rows["FedMaPLe"].base, found.rows["FedDTL"].novel) == ("84.05", "82.64")
    assert "nine" in found.data
    assert paper_table(condition(), labels, mean_over_data=False) is None


@pytest.mark.parametrize("data", [{"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.5}])
def test_another_partition_has_no_numbers(data: dict[str, object]) -> None:
    for labels in (["FedDTL"], ["FedDTL", "FedLoRA"]):
        assert paper_table(condition(**data), labels, mean_over_data=True) is None


@pytest.mark.parametrize("change", [{"clients": 20}, {"shots": 4}, {"participation": 0.2}])
def test_other_clients_or_shots_have_no_numbers(change: dict[str, Any]) -> None:
    """The paper measured five clients, all of which take part, with 16 images per class."""
    assert paper_table(condition(), ["FedDTL", "FedMaPLe"], mean_over_data=True) is not None
    for labels in (["FedDTL", "FedMaPLe"], ["FedDTL", "FedDTL (SFT only)"]):
        assert paper_table(replace(condition(), **change), labels, mean_over_data=True) is None


def changed(method: str = "feddtl", **changes: Any) -> Experiment:
    """The defaults with some settings; `__` stands for the dot of a key."""
    values = {"method": method, **{key.replace("__", "."): value for key, value in changes.items()}}
    return experiment_from_dict(with_values(experiment_to_dict(Experiment()), values))


def test_the_defaults_are_the_paper_s_settings() -> None:
    assert all(other_settings(changed(method)) == () for method in ("feddtl", "fedlora", "fedmaple", "zero-shot"))
    # Of twelve blocks, 10 is the last but one.
    assert other_settings(changed(local__optimizer="adam", lora__first_image_block=10)) == ()


@pytest.mark.parametrize("key", [*OF_EVERY_ROW, *OF_TEMPLATES, *OF_LORA, *OF_RL, *OF_THE_SERVER])
def test_the_reference_gives_the_paper_s_value_of_each_setting(key: str) -> None:
    """In docs/reference/configuration.md, which has the docstrings of the settings; some say it in other words."""
    [row] = [line for line in REFERENCE.splitlines() if line.startswith(f"| `{key}` ")]
    assert (
        "(paper" in row
        or "(their papers" in row
        or key in ("init_from", "server.aggregator", "attack.name", "data.prompt")
    )
    stated = {**OF_EVERY_ROW, **OF_TEMPLATES, **OF_LORA, **OF_RL, **OF_THE_SERVER}[key]
    assert flatten(experiment_to_dict(Experiment()))[key] in stated


@pytest.mark.parametrize(
    ("experiment", "other"),
    [
        (changed(lora__rank=8), ["lora.rank 8 instead of 4"]),
        (changed(init_from="runs/one"), ["init_from"]),
        (
            changed(data__prompt="a {class}\none {class}"),
            ["data.prompt a {class} and 1 more instead of a photo of a {class}."],
        ),
        (changed(data__prompt="a photo of a {class}."), []),
        (changed("promptfl", data__prompt="a {class}"), []),
        (changed(attack__name="alie"), ["attack.name alie instead of none"]),
        (changed(local__learning_rate=0.003, server__learning_rate=0.01, rounds=5), 3),
        (changed("fedlora", server__learning_rate=0.01, schedule__stages="sft", rl__noise_std="auto"), []),
        (changed("fedlora", rl__noise_std="auto"), ["rl.noise_std auto instead of 0.1"]),
        (changed("fedmaple", lora__rank=8, local__batch_size=4), ["local.batch_size 4 instead of 64"]),
        (changed(server__epochs=5, lora__targets="q_proj", schedule__sft_rounds=5), []),
    ],
)
def test_only_settings_that_the_paper_states_and_the_method_has_count(experiment: Experiment, other: Any) -> None:
    found = other_settings(experiment)
    assert len(found) == other if isinstance(other, int) else list(found) == other


def test_a_mean_over_data_sets_has_the_settings_of_all() -> None:
    found = different_rows({"FedDTL": [Experiment(), changed(lora__rank=8)], "FedLoRA": [changed("fedlora")]})
    assert found == {"FedDTL": "lora.rank 8 instead of 4"}


def test_the_harmonic_mean_of_means_is_near_the_paper_s_mean_of_harmonic_means() -> None:
    """HM is concave, so the mean over sets of HM cannot exceed the HM of the means: a misprint would show."""
    for table in (*ABLATION.values(), *COMPARISON.values()):
        for row in table.rows.values():
            base, novel = float(row.base), float(row.novel)
            of_means = 2 * base * novel / (base + novel)
            printed = row.harmonic_mean.removeprefix("≈ ")
            assert not printed or of_means - 2 < float(printed) <= of_means + 0.05
