"""Rows of a setting and means over data sets, from made-up numbers."""

from __future__ import annotations

import pytest
from comparison.made_up import by_seed, outcome, scores

from feddtl.comparison.scores import condition_scores, setting_scores
from feddtl.comparison.tables import setting_table
from feddtl.config import DataConfig


def test_zero_shot_comes_first_from_the_summaries() -> None:
    """Its base accuracy is 40 + seed here, whatever the experiment."""
    [table] = setting_scores([*by_seed("a", 60, 70), *by_seed("b", 50, 40, method="fedlora")])
    assert [row.label for row in table.methods] == ["Zero-shot", "FedDTL", "FedLoRA + two-stage"]
    assert table.methods[0].final["base"] == {0: 40.0, 1: 41.0}
    assert table.methods[0].costs == {}


def test_a_zero_shot_experiment_takes_the_place_of_the_summaries() -> None:
    [table] = setting_scores([*by_seed("a", 60), outcome("zero", 0, 33, 44, method="zero-shot", stages="sft")])
    assert [row.label for row in table.methods] == ["Zero-shot", "FedDTL"]
    assert table.methods[0].final["base"] == {0: 33}


def test_differences_to_the_best_by_hand() -> None:
    """FedDTL 60, 70, 80 has the best mean; FedLoRA is 10, 20 and 30 below it."""
    [table] = setting_scores([*by_seed("a", 60, 70, 80), *by_seed("b", 50, 50, 50, method="fedlora")])
    assert table.best == "FedDTL"
    difference = {row.label: row.difference for row in table.methods}
    assert difference["FedDTL"] is None
    found = difference["FedLoRA + two-stage"]
    assert found is not None
    assert (found.mean, found.n, found.interval) == (-20, 3, None)


def test_a_method_whose_seeds_are_not_all_done_is_paired_over_those_it_has() -> None:
    [table] = setting_scores([*by_seed("a", 60, 70, 80), *by_seed("b", 50, 65, method="fedlora")])
    found = table.methods[-1].difference
    assert found is not None
    assert (found.mean, found.n) == (-7.5, 2)


def test_what_was_not_measured_is_left_out() -> None:
    [table] = setting_scores([outcome("a", 0, 60, None), outcome("a", 1, 60, 50)])
    row = table.methods[1]
    assert row.final["base"] == {0: 60, 1: 60}
    assert row.final["novel"] == {1: 50}
    assert row.client_models == {}
    assert "trainable_parameters" not in row.costs


def test_without_novel_images_the_best_row_is_that_of_the_base_classes() -> None:
    [table] = setting_scores([outcome("a", 0, 60, None, zero_shot=scores(50, None))])
    assert (table.best, table.criterion) == ("FedDTL", "base")
    shown = setting_table(table)
    headings = [column.heading for column in shown.columns]
    assert headings[1:5] == ["Base", "Novel", "HM", "Δ Base"]
    assert [[cell.text for cell in cells[2:5]] for _, cells in shown.rows] == [["–", "–", "−10.0"], ["–", "–", "best"]]
    assert any("the row with the best base accuracy" in note for note in shown.notes)
    assert all(row.difference is None for row in table.methods)


def test_costs_and_the_clients_own_models() -> None:
    own = {"base": 30.0, "novel": 20.0, "harmonic_mean": 24.0}
    kept = {"shared": 3, "personal": 0, "server": 4}
    runs = [
        outcome("a", seed, 60, 50, final_client_models=own, trainable_parameters=kept, seconds=float(seed))
        for seed in (1, 3)
    ]
    [table] = setting_scores(runs)
    row = table.methods[1]
    assert row.client_models == {key: {1: value, 3: value} for key, value in own.items()}
    means = {key: cost.mean for key, cost in row.costs.items()}
    assert means == {"trainable_parameters": 7, "bytes_up": 2_500_000, "bytes_down": 1_000_000, "seconds": 2.0}


def test_mean_over_data_sets_is_that_of_their_harmonic_means() -> None:
    """HM of (20, 60) is 30 and of (60, 20) is 30, so their mean is 30; that of the means (40, 40) would be 40."""
    runs = [outcome("a", 0, 20, 60, dataset="one"), outcome("b", 0, 60, 20, dataset="two")]
    [mean] = condition_scores(setting_scores(runs))
    assert mean.datasets == ("one", "two")
    assert mean.methods["FedDTL"]["harmonic_mean"] == {0: pytest.approx(30)}
    assert mean.methods["FedDTL"]["base"] == {0: 40}


def test_only_methods_and_seeds_that_every_data_set_has_are_averaged() -> None:
    runs = [
        *by_seed("a", 10, 20, 30, dataset="one"),
        *by_seed("b", 30, 40, dataset="two"),
        *by_seed("c", 50, dataset="one", method="fedlora"),
    ]
    [mean] = condition_scores(setting_scores(runs))
    assert mean.methods["FedDTL"]["base"] == {0: 20, 1: 30}
    assert list(mean.methods) == ["Zero-shot", "FedDTL"]


def test_conditions_are_not_mixed() -> None:
    full = DataConfig(regime="full")
    runs = [*by_seed("a", 10), *by_seed("b", 30, data=full), *by_seed("c", 50, dataset="two", data=full)]
    found = condition_scores(setting_scores(runs))
    assert [(mean.title, mean.datasets) for mean in found] == [
        ("few-shot", ("shapes",)),
        ("full", ("shapes", "two")),
    ]
    assert found[1].methods["FedDTL"]["base"] == {0: 40}


def test_one_data_set_under_two_prompts_is_no_mean_over_data_sets() -> None:
    """30 and 50 are not averaged to 40; each prompt is a column group of its own, told apart by the prompt."""
    runs = [
        outcome(name, 0, value, value, data=DataConfig(prompt=prompt))
        for name, value, prompt in (("a", 30, ""), ("b", 50, "a sketch of a {class}."))
    ]
    found = condition_scores(setting_scores(runs))
    assert [condition.methods["FedDTL"]["base"] for condition in found] == [{0: 30}, {0: 50}]
    assert [condition.datasets for condition in found] == [("shapes",), ("shapes",)]
    assert found[0].title != found[1].title
    assert "a sketch of a {class}." in found[1].title
