"""Text of the cells: spreads, the best of a column, differences, columns that are left out, notes."""

from __future__ import annotations

import pytest
from comparison.made_up import by_seed, outcome, with_hits, with_settings

from feddtl.comparison.scores import condition_scores, setting_scores
from feddtl.comparison.tables import comparison_tables, setting_table, signed
from feddtl.config import DataConfig
from feddtl.results.tables import Table


def tables(*groups: object) -> tuple[Table, ...]:
    outcomes = [one for group in groups for one in (group if isinstance(group, list) else [group])]
    settings = setting_scores(outcomes)
    return comparison_tables(settings, condition_scores(settings))


def column(table: Table, heading: str) -> dict[str, str]:
    index = [column.text for column in table.columns].index(heading)
    return {label: ("*" if cells[index].best else "") + cells[index].text for label, cells in table.rows}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.26, "+1.3"), (-1.26, "−1.3"), (0.0, "0.0"), (0.04, "0.0"), (-0.04, "0.0"), (-0.06, "−0.1")],
)
def test_a_difference_that_rounds_to_zero_has_no_sign(value: float, text: str) -> None:
    assert signed(value) == text


def test_cells_by_hand() -> None:
    """60, 70, 80: mean 70, standard deviation 10. Without hits there are no intervals, and nothing is bold."""
    [table] = tables(by_seed("a", 60, 70, 80), by_seed("b", 50, 50, 50, method="fedclip"))
    assert column(table, "HM") == {
        "Zero-shot": "48.7 ± 0.7",  # 2·40·60/100 = 48, 2·41·60/101 = 48.71, 2·42·60/102 = 49.41: 0.7 apart
        "FedDTL": "70.0 ± 10.0",
        "FedCLIP": "50.0 ± 0.0",
    }
    assert column(table, "Δ HM") == {"Zero-shot": "−21.3", "FedDTL": "best", "FedCLIP": "−20.0"}
    assert column(table, "MB up") == {"Zero-shot": "–", "FedDTL": "2.5", "FedCLIP": "2.5"}
    assert table.title == "Accuracy in %: shapes, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip"


def test_hits_give_intervals_and_the_distinguishable_row_is_bold() -> None:
    """200 images: 75 % and 40 % do not overlap; of 75 and 74.5 % on other images, neither is above the other."""
    [table, own] = tables(with_hits("a", 75, 75), with_hits("b", 45, 45, method="fedclip"))
    scores = column(table, "HM")
    assert scores["FedDTL"].startswith("*75.0 [")
    assert not scores["FedCLIP"].startswith("*")
    low, high = (float(end) for end in scores["FedDTL"].split("[")[1].rstrip("]").split(", "))
    assert 67 < low < 75 < high < 83
    delta = column(table, "Δ HM")
    assert delta["FedDTL"] == "best"
    assert delta["FedCLIP"].startswith("−30.0 [−")
    assert delta["FedCLIP"].count("−") == 3
    assert column(own, "HM")["FedDTL"].startswith("*75.0 [")

    [table, own] = tables(with_hits("a", 75, 75), with_hits("b", 74, 74, method="fedclip"))
    for found in (table, own):
        for heading in ("Base", "Novel", "HM"):
            assert not any(text.startswith("*") for text in column(found, heading).values())


def test_methods_with_equal_predictions_differ_by_nothing_and_neither_is_bold() -> None:
    [table, _] = tables(with_hits("a", 75, 75), with_hits("b", 75, 75, method="fedclip"))
    assert column(table, "Δ HM")["FedCLIP"] == "0.0 [0.0, 0.0]"
    assert not any(cell.best for _, cells in table.rows for cell in cells)


def test_the_differences_of_other_scores_on_request() -> None:
    [setting] = setting_scores([*with_hits("a", 75, 75), *with_hits("b", 45, 45, method="fedclip")])
    table = setting_table(setting, differences=("base", "novel"))
    assert column(table, "Δ Base")["FedCLIP"].startswith("−30.0 [")
    assert column(table, "Δ Novel")["FedDTL"] == "–"
    assert "Δ HM" not in [one.heading for one in table.columns]


def test_no_table_speaks_of_p() -> None:
    for found in tables(with_hits("a", 75, 75), with_hits("b", 74, 74, method="fedclip")):
        assert "p" not in [one.heading for one in found.columns]
        assert not any("t-test" in note for note in found.notes)


def test_one_seed_has_no_spread() -> None:
    [table] = tables(by_seed("a", 70), by_seed("b", 60, method="fedclip"))
    headings = [column.text for column in table.columns]
    assert headings == ["Local", "Base", "Novel", "HM", "Δ HM", "MB up", "MB down", "Seconds"]
    assert table.notes[0] == "After the last round, seed 0."


def test_one_seed_with_hits_says_that_the_interval_is_over_images_alone() -> None:
    table = tables(with_hits("a", 75), with_hits("b", 45, method="fedclip"))[0]
    assert column(table, "HM")["FedDTL"].startswith("*75.0 [")
    assert "test images alone" in table.notes[0]


def test_rounds_are_a_column_where_each_method_has_its_own() -> None:
    [table] = tables(by_seed("a", 70), by_seed("b", 60, method="fedclip", rounds=300))
    assert column(table, "Rounds") == {"Zero-shot": "–", "FedDTL": "20", "FedCLIP": "300"}
    assert "rounds" not in table.title
    sweep = tables(
        *(
            by_seed(f"{method}{rounds}", 70, method=method, rounds=rounds)
            for method in ("feddtl", "fedclip")
            for rounds in (10, 20)
        )
    )
    assert [one.title.split(", ")[4] for one in sweep[1:]] == ["10 rounds", "20 rounds"]
    assert not any(one.heading == "Rounds" for found in sweep for one in found.columns)


def test_trainable_parameters_where_a_summary_has_them() -> None:
    kept = {"shared": 1_000_000, "personal": 0, "server": 234_567}
    [table] = tables(by_seed("a", 70, trainable_parameters=kept))
    assert column(table, "Trainable") == {"Zero-shot": "–", "FedDTL": "1,234,567"}


def test_nothing_to_score_is_a_dash() -> None:
    [table] = tables(outcome("a", 0, 60, None), outcome("b", 0, 60, 70, method="fedclip"))
    assert column(table, "Novel") == {"Zero-shot": "60.0", "FedDTL": "–", "FedCLIP": "70.0"}
    assert column(table, "Δ HM")["FedDTL"] == "–"


def test_the_clients_own_models_have_a_table() -> None:
    own = {"base": 30.0, "novel": 20.0, "harmonic_mean": 24.0}
    found = tables(by_seed("a", 60, 70, final_client_models=own), by_seed("b", 50, method="fedclip"))
    assert found[1].title.startswith("Mean over the clients' own models: shapes")
    assert [label for label, _ in found[1].rows] == ["Zero-shot", "FedDTL"]
    assert column(found[1], "Base")["FedDTL"] == "30.0 ± 0.0"
    # Zero-shot: 40 and 41 base, 60 novel; 2·40·60/100 = 48.0, 2·41·60/101 = 48.7; minus 24 in both seeds.
    assert column(found[1], "HM") == {"Zero-shot": "48.4 ± 0.5", "FedDTL": "24.0 ± 0.0"}
    assert column(found[1], "Δ HM") == {"Zero-shot": "best", "FedDTL": "−24.4"}


def test_the_clients_own_models_are_compared_with_zero_shot_in_the_same_resamples() -> None:
    _, own = tables(with_hits("a", 75, 75), with_hits("b", 40, 40, method="fedclip"))
    assert column(own, "Δ HM")["FedDTL"] == "best"
    assert column(own, "Δ HM")["Zero-shot"].startswith("−35.0 [−")
    assert column(own, "HM")["Zero-shot"].startswith("40.0 [")
    assert any(note.startswith("Δ: ") and "paired" in note for note in own.notes)


def test_a_run_of_zero_shot_is_the_row_of_the_clients_own_models_too() -> None:
    zero = outcome("z", 0, 40, 60, method="zero-shot", stages="sft")
    own = {"base": 60.0, "novel": 60.0, "harmonic_mean": 60.0}
    found = tables(by_seed("a", 60, final_client_models=own), zero)[1]
    assert column(found, "Δ HM") == {"Zero-shot": "−12.0", "FedDTL": "best"}


def test_personal_methods_are_marked_where_their_global_model_is_scored() -> None:
    own = {"base": 30.0, "novel": 20.0, "harmonic_mean": 24.0}
    kept = {"shared": 3, "personal": 4, "server": 0}
    main, models = tables(
        by_seed("a", 60), by_seed("b", 50, method="fedpgp", trainable_parameters=kept, final_client_models=own)
    )
    assert [label for label, _ in main.rows] == ["Zero-shot", "FedDTL", "FedPGP †"]
    [note] = [note for note in main.notes if note.startswith("†")]
    assert "global model without these parts" in note
    assert note.endswith("Local is of the clients' own models; see also the table of these.")
    assert [label for label, _ in models.rows] == ["Zero-shot", "FedPGP"]
    [alone] = tables(by_seed("b", 50, method="fedpgp", trainable_parameters=kept))
    assert not any("see also" in note for note in alone.notes)


def test_the_paper_s_ablation_is_beside_ours_and_named() -> None:
    [table] = tables(by_seed("a", 60), by_seed("b", 50, stages="sft"))
    assert column(table, "Paper: HM") == {"Zero-shot": "", "FedDTL": "86.51", "FedDTL (SFT only)": "82.60"}
    [note] = [note for note in table.notes if note.startswith("Paper")]
    assert "ViT-B/16" in note
    assert "mean of seven data sets; not measured here" in note
    assert not any(cells[-1].best for _, cells in table.rows)


def test_the_paper_s_numbers_stand_beside_its_settings_alone() -> None:
    """FedDTL with another rate has none and a reason; where no row has the settings, there is no column."""
    own = [with_settings(run, local__learning_rate=0.003) for run in by_seed("a", 60)]
    [table] = tables(own, by_seed("b", 50, stages="sft"))
    assert column(table, "Paper: HM") == {"Zero-shot": "", "FedDTL": "", "FedDTL (SFT only)": "82.60"}
    reason = "FedDTL has local.learning_rate 0.003 instead of 0.001."
    assert table.notes[-2:] == (
        "Paper: FedDTL paper (arXiv 2605.27900), CLIP ViT-B/16, ablation, mean of seven data sets; not measured here.",
        f"Paper: no number beside other settings. {reason}",
    )
    [alone] = tables(own, [with_settings(run, lora__rank=8) for run in by_seed("b", 50, stages="sft")])
    assert not any(one.group == "Paper" for one in alone.columns)
    assert alone.notes[-1].endswith(f"{reason[:-1]}; FedDTL (SFT only) has lora.rank 8 instead of 4.")


def test_a_mean_over_data_sets_has_the_paper_s_numbers_beside_its_settings_alone() -> None:
    data = DataConfig(regime="full")
    one, two = (by_seed(name, 60, data=data, dataset=name) for name in ("one", "two"))
    assert column(tables(one, two)[0], "Paper, full, non-iid: Base")["FedDTL"] == "91.64"
    summary = tables(one, [with_settings(run, rl__noise_std="auto") for run in two])[0]
    assert not any(own.group.startswith("Paper") for own in summary.columns)
    assert "Paper: no number beside other settings. FedDTL has rl.noise_std auto instead of 0.1." in summary.notes


def test_domainnet_is_a_note() -> None:
    data = DataConfig(regime="full", partition="domain")
    runs = by_seed("a", 60, dataset="domainnet", data=data)
    assert any("FedMaPLe 91.94, FedDTL 93.38" in note for note in tables(runs)[0].notes)
    other = tables([with_settings(run, lora__rank=8) for run in runs])[0]
    assert [note.rpartition(": ")[2] for note in other.notes if "DomainNet" in note] == [
        "FedMaPLe 91.94; not measured here."
    ]
    assert not any("FedMaPLe" in note for note in tables(by_seed("a", 60, dataset="pacs", data=data))[0].notes)


def test_the_summary_has_a_group_for_each_condition() -> None:
    full = DataConfig(regime="full")
    summary = tables(
        by_seed("a", 10, 20),
        by_seed("b", 30, 40, data=full, dataset="one"),
        by_seed("c", 50, 70, data=full, dataset="two"),
        by_seed("d", 90, 90, data=full, dataset="two", method="fedclip"),
    )[0]
    assert column(summary, "few-shot: Base") == {"Zero-shot": "40.5 ± 0.7", "FedDTL": "15.0 ± 7.1"}
    assert column(summary, "full: Base")["FedDTL"] == "47.5 ± 10.6"  # (30 + 50)/2 = 40, (40 + 70)/2 = 55
    assert column(summary, "Paper, full: Base") == {"Zero-shot": "", "FedDTL": "91.64"}
    assert "full: mean over one and two." in summary.notes
    assert not any(column.group == "Paper, few-shot" for column in summary.columns)


def test_several_beds_have_short_headings_and_the_rest_in_the_title() -> None:
    beds = [DataConfig(novel="pairs"), DataConfig(novel="shapes")]
    summary = tables(*(by_seed(f"a{index}", 60, data=bed) for index, bed in enumerate(beds)))[0]
    assert summary.title == "Accuracy in % by condition: shapes, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip"
    assert {one.group for one in summary.columns} == {"novel pairs", "novel shapes"}
    assert not any("shapes." in note for note in summary.notes)


def test_a_mean_over_data_sets_has_an_interval_narrower_than_those_of_the_data_sets() -> None:
    """Two independent data sets: 1/√2 of the width, so that a difference of 12 points shows only in the mean."""
    runs = [
        run
        for name, data in (("a", "one"), ("b", "two"))
        for run in (
            *with_hits(name, 70, 70, dataset=data),
            *with_hits(f"{name}2", 45, 45, dataset=data, method="fedclip"),
        )
    ]
    summary, one, *_ = tables(*([run] for run in runs))

    def width(text: str) -> float:
        low, high = text.split("[")[1].rstrip("]").split(", ")
        return float(high) - float(low)

    mean, single = (
        column(table, heading)["FedDTL"] for table, heading in ((summary, "few-shot, non-iid: HM"), (one, "HM"))
    )
    assert mean.startswith("*70.0 [")
    assert width(mean) / width(single) == pytest.approx(0.5**0.5, rel=0.15)
    assert any("hierarchical bootstrap" in note for note in summary.notes)


def test_nothing_done_gives_no_table() -> None:
    assert tables() == ()
