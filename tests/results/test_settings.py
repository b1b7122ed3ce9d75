"""Which runs belong into one table, and what tables are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from comparison.made_up import by_seed, outcome

from feddtl.config import DataConfig, LocalConfig, RlConfig
from feddtl.results.settings import by_setting, column_titles, setting_of, setting_titles


def test_a_method_and_its_tables_make_no_setting() -> None:
    one = outcome("one", 0, 60, 50)
    other = outcome("other", 3, 60, 50, method="fedlora", stages="sft")
    tuned = replace(one, experiment=replace(one.experiment, rl=RlConfig(noise_std=1.0), local=LocalConfig(epochs=9)))
    assert setting_of(one) == setting_of(other) == setting_of(tuned)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "pacs"},
        {"rounds": 5},
        {"data": DataConfig(regime="full")},
        {"data": DataConfig(shots=4)},
        {"data": DataConfig(partition="iid")},
        {"data": DataConfig(clients=3)},
        {"data": DataConfig(views=2)},
        {"data": DataConfig(domains="fog")},
        {"data": DataConfig(prompt="a {class}")},
    ],
)
def test_what_makes_another_setting(change: dict[str, object]) -> None:
    assert setting_of(outcome("one", 0, 60, 50)) != setting_of(outcome("one", 0, 60, 50, **change))  # type: ignore[arg-type]


def test_what_has_no_effect_makes_no_other_setting() -> None:
    """alpha and min_images belong to the Dirichlet partitions, shots to the few-shot regime."""
    full = DataConfig(regime="full")
    without = setting_of(outcome("one", 0, 60, 50, data=full))
    with_values = DataConfig(regime="full", alpha=5.0, min_images=3, shots=2)
    assert setting_of(outcome("one", 0, 60, 50, data=with_values)) == without
    dirichlet = [DataConfig(partition="dirichlet", alpha=alpha) for alpha in (0.1, 0.5)]
    assert len({setting_of(outcome("one", 0, 60, 50, data=data)) for data in dirichlet}) == 2


def test_zero_shot_belongs_to_every_number_of_rounds() -> None:
    runs = [outcome("a", 0, 60, 50, rounds=5), outcome("b", 0, 60, 50, rounds=20)]
    zero = outcome("zero", 0, 40, 60, method="zero-shot", stages="sft", rounds=9)
    elsewhere = outcome("other", 0, 40, 60, method="zero-shot", dataset="pacs")
    groups = by_setting([zero, *runs, elsewhere])
    assert [[one.name for one in group] for group in groups.values()] == [["a", "zero"], ["b", "zero"], ["other"]]
    assert list(setting_titles(list(groups)).values())[-1] == "pacs, few-shot, non-iid, 5 clients, tiny-clip"


def test_rounds_belong_to_the_method_unless_all_methods_have_the_same() -> None:
    """A sweep has a table for each number of rounds; methods with budgets of their own are in one."""
    own = [*by_seed("a", 1, 2, rounds=20), *by_seed("b", 3, rounds=100, method="fedclip")]
    zero = outcome("zero", 0, 5, 6, method="zero-shot", stages="sft")
    [(setting, runs)] = by_setting([*own, zero]).items()
    assert setting.condition.rounds is None
    assert [run.name for run in runs] == ["a", "a", "b", "zero"]
    sweep = [*own, *by_seed("c", 4, rounds=20, method="fedclip"), *by_seed("d", 5, rounds=100)]
    assert [setting.condition.rounds for setting in by_setting(sweep)] == [20, 100]
    assert [setting.condition.rounds for setting in by_setting(own[:2])] == [20]


def test_titles() -> None:
    data = DataConfig(partition="dirichlet", alpha=0.25, shots=4, clients=8)
    [title] = setting_titles([setting_of(outcome("one", 0, 60, 50, data=data))]).values()
    assert title == "shapes, few-shot (4 per class), dirichlet (α = 0.25), 8 clients, 20 rounds, tiny-clip"


def test_settings_of_one_name_are_told_apart() -> None:
    settings = [
        setting_of(outcome("one", 0, 60, 50, data=DataConfig(domains=domains))) for domains in ("", "fog", "night")
    ]
    common = "shapes, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip"
    assert list(setting_titles(settings).values()) == [
        f"{common}, domains default",
        f"{common}, domains fog",
        f"{common}, domains night",
    ]
    assert setting_titles(settings[:1]) == {settings[0]: common}


def test_a_single_setting_names_its_domains_and_novel_classes_if_they_are_not_the_default() -> None:
    setting = setting_of(outcome("one", 0, 60, 50, data=DataConfig(domains="shifted", novel="shapes")))
    assert setting_titles([setting])[setting].endswith(", tiny-clip, domains shifted, novel shapes")


@pytest.mark.parametrize(
    ("models", "names"),
    [(("/home/me/clip", "./small"), ("clip", "small")), (("/a/clip", "/b/clip"), ("a/clip", "b/clip"))],
)
def test_titles_name_a_model_and_not_where_it_lies(models: tuple[str, str], names: tuple[str, str]) -> None:
    run = outcome("one", 0, 60, 50)
    settings = [setting_of(replace(run, experiment=replace(run.experiment, model=model))) for model in models]
    common = "shapes, few-shot, non-iid, 5 clients, 20 rounds"
    assert list(setting_titles(settings).values()) == [f"{common}, {name}" for name in names]
    assert column_titles([[setting] for setting in settings]) == (
        "shapes, few-shot, non-iid, 5 clients, 20 rounds",
        list(names),
    )


def test_settings_of_one_source_name_are_told_apart_by_the_folders_above() -> None:
    data = [DataConfig(root=root) for root in ("/home/me/new/sets", "/home/me/old/sets")]
    titles = setting_titles([setting_of(outcome("one", 0, 60, 50, data=one)) for one in data]).values()
    assert [title.rpartition(", ")[2] for title in titles] == ["root new/sets", "root old/sets"]


def test_short_titles_say_what_differs() -> None:
    settings = [
        setting_of(outcome("one", 0, 60, 50, rounds=rounds, data=DataConfig(regime=regime)))  # type: ignore[arg-type]
        for rounds, regime in ((5, "full"), (20, "few-shot"))
    ]
    assert column_titles([[setting] for setting in settings]) == (
        "shapes, non-iid, 5 clients, tiny-clip",
        ["full, 5 rounds", "few-shot, 20 rounds"],
    )
    assert column_titles([settings[:1]]) == ("shapes, 5 clients, 5 rounds, tiny-clip", ["full, non-iid"])


def test_a_short_title_is_never_empty() -> None:
    """Full participation is not named, so that regime and partition are."""
    run = outcome("one", 0, 60, 50)
    half = replace(run, experiment=replace(run.experiment, participation=0.5))
    _, titles = column_titles([[setting_of(run)], [setting_of(half)]])
    assert titles == ["few-shot, non-iid", "few-shot, non-iid, participation 0.5"]


def test_columns_of_several_beds_name_only_what_differs() -> None:
    beds = [{}, {"novel": "shapes"}, {"novel": "shapes", "domains": "shifted"}]
    columns = [[setting_of(outcome("one", 0, 60, 50, data=DataConfig(**bed)))] for bed in beds]  # type: ignore[arg-type]
    assert column_titles(columns) == (
        "shapes, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip",
        ["domains default, novel pairs", "domains default, novel shapes", "domains shifted, novel shapes"],
    )


def test_the_data_sets_of_a_mean_are_in_no_short_title() -> None:
    full = [setting_of(outcome("a", 0, 1, 1, data=DataConfig(regime="full"), dataset=name)) for name in ("one", "two")]
    few = setting_of(outcome("a", 0, 1, 1, dataset="one"))
    assert column_titles([full, [few]]) == ("non-iid, 5 clients, 20 rounds, tiny-clip", ["full", "few-shot"])
