"""Where the paper's numbers are shown, and that they are what the paper's own arithmetic allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from comparison.made_up import outcome

from feddtl.comparison.paper import ABLATION, COMPARISON, paper_table
from feddtl.config import DataConfig
from feddtl.results.settings import Condition, setting_of


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


def test_the_harmonic_mean_of_means_is_near_the_paper_s_mean_of_harmonic_means() -> None:
    """HM is concave, so the mean over sets of HM cannot exceed the HM of the means: a misprint would show."""
    for table in (*ABLATION.values(), *COMPARISON.values()):
        for row in table.rows.values():
            base, novel = float(row.base), float(row.novel)
            of_means = 2 * base * novel / (base + novel)
            printed = row.harmonic_mean.removeprefix("≈ ")
            assert not printed or of_means - 2 < float(printed) <= of_means + 0.05
