"""Which rate is chosen, from scores by hand; and how a choice is written and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from comparison.made_up import outcome

from feddtl.comparison.rates_table import rate_line, rates_table
from feddtl.comparison.tuning import (
    DEFAULT_RATES,
    ChosenRates,
    RateChoice,
    Trials,
    Tuning,
    choose_rate,
    require_tunable,
    with_rate,
)
from feddtl.config import EvaluationConfig, Experiment, LocalConfig
from feddtl.errors import ConfigError
from feddtl.results.run import RunResult


def run(base: float | None, seed: int = 0, local: float = 50.0, novel: float = 50.0, **more: Any) -> RunResult:
    made = outcome("x", seed, base, novel, **more)
    assert made.summary is not None
    return replace(made, summary=replace(made.summary, final={**made.summary.final, "local": local}))


def choice(scores: Mapping[float, float], **more: Any) -> RateChoice:
    """The choice from one run at each rate, by its base accuracy."""
    finished = {rate: [run(base)] for rate, base in scores.items()}
    return choose_rate(Trials("x", "FedDTL", finished, more.pop("diverged", {}), **more))


def test_the_highest_base_accuracy_wins_whatever_the_novel_one() -> None:
    finished = {0.001: [run(60, novel=90)], 0.01: [run(70, novel=10)], 0.1: [run(65, novel=80)]}
    found = choose_rate(Trials("x", "FedDTL", finished, {}))
    assert (found.criterion, found.rate) == ("base", 0.01)
    assert [found.mean(rate) for rate in (0.001, 0.01, 0.1)] == [60, 70, 65]


def test_methods_that_keep_a_part_on_the_clients_are_judged_by_their_clients_models() -> None:
    personal = {"trainable_parameters": {"shared": 5, "personal": 3, "server": 0}}
    finished = {0.001: [run(90, local=20, **personal)], 0.01: [run(10, local=80, **personal)]}
    found = choose_rate(Trials("x", "FedPGP", finished, {}))
    assert (found.criterion, found.rate) == ("local", 0.01)
    assert (
        choose_rate(Trials("x", "FedLoRA", {0.01: [run(9, **{"trainable_parameters": {"shared": 5}})]}, {})).criterion
        == "base"
    )


def test_the_smallest_of_equal_rates_wins_in_any_order() -> None:
    assert choice({0.1: 70, 0.01: 70, 0.001: 60}).rate == 0.01


def test_means_that_differ_by_rounding_alone_are_equal() -> None:
    """(0.1 + 0.7) / 2 and 0.4: 0.39999999999999997 and 0.4 in binary floating point."""
    finished = {0.001: [run(0.1), run(0.7, 1)], 0.01: [run(0.4), run(0.4, 1)]}
    assert choose_rate(Trials("x", "FedDTL", finished, {})).rate == 0.001


def test_the_mean_over_seeds_decides() -> None:
    finished = {0.001: [run(80), run(40, 1)], 0.01: [run(65), run(65, 1)]}
    found = choose_rate(Trials("x", "FedDTL", finished, {}))
    assert (found.rate, found.mean(0.001), found.mean(0.01)) == (0.01, 60, 65)


def test_a_rate_at_which_a_run_diverged_is_never_chosen() -> None:
    finished = {0.001: [run(30), run(30, 1)], 0.1: [run(99)]}
    found = choose_rate(Trials("x", "FedDTL", finished, {0.1: "NaN in round 2."}))
    assert found.rate == 0.001
    assert found.mean(0.1) is None
    assert found.error == ""


def test_a_method_that_diverges_everywhere_has_no_rate() -> None:
    found = choice({}, diverged={0.1: "NaN in round 2.", 0.01: "NaN in round 9."})
    assert found.rate is None
    assert found.error == "At every rate of the grid, a run diverged. The first: NaN in round 2."


def test_nothing_is_chosen_while_runs_are_missing_or_failed_otherwise() -> None:
    assert choice({0.1: 70}, missing=1).rate is None
    assert choice({0.1: 70}, missing=1).error == ""
    found = choice({0.1: 70}, errors=["The disk is full."])
    assert (found.rate, found.error) == (None, "The disk is full.")


def test_a_run_without_the_accuracy_is_named() -> None:
    found = choose_rate(Trials("x", "FedDTL", {0.1: [run(None)], 0.01: [run(50)]}, {}))
    assert (found.rate, found.error) == (None, "The run at rate 0.1 with seed 0 has no base accuracy.")


@pytest.mark.parametrize(("best", "end"), [(0.001, True), (0.01, False), (0.1, True)])
def test_a_choice_at_the_end_of_the_grid_is_known(best: float, end: bool) -> None:
    rates = (0.001, 0.01, 0.1)
    assert choice({rate: 70 if rate == best else 60 for rate in rates}).is_at_end(rates) is end


def test_trials_differ_from_the_experiment_in_rate_and_scored_images_alone() -> None:
    experiment = Experiment(method="fedpgp", rounds=7, evaluation=EvaluationConfig(held_back_share=0.3))
    trials = Tuning((0.1, 0.001)).trials(experiment)
    assert list(trials) == [0.001, 0.1]
    evaluation = EvaluationConfig(every=7, client_models="never", images="held-back", held_back_share=0.3)
    assert trials[0.1] == replace(experiment, local=LocalConfig(learning_rate=0.1), evaluation=evaluation)
    assert with_rate(experiment, 0.1).server == experiment.server


@pytest.mark.parametrize(
    ("rates", "message"),
    [((), "two or more"), ((0.1,), "two or more"), ((0.1, 0.1), "two or more"), ((0.1, 2.0), "above 0, up to 1")],
)
def test_a_bad_grid(rates: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match="tune_rates") as caught:
        Tuning(rates)
    assert message in caught.value.hint


def test_experiments_that_differ_in_their_rate_alone_are_refused() -> None:
    one = Experiment(method="fedlora")
    require_tunable({"a": one, "b": Experiment(), "c": Experiment(method="zero-shot")})
    with pytest.raises(ConfigError, match=r"a and b differ only in local\.learning_rate"):
        require_tunable({"a": one, "b": with_rate(one, 0.1)})


def test_experiments_on_held_back_images_and_without_training_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a has evaluation\.images = 'held-back'"):
        require_tunable({"a": Experiment(evaluation=EvaluationConfig(images="held-back"))})
    with pytest.raises(ConfigError, match="No experiment trains"):
        require_tunable({"a": Experiment(method="zero-shot")})


@pytest.fixture
def rates() -> ChosenRates:
    inner = replace(choice({0.001: 60.04, 0.01: 70, 0.1: 0}), name="one", title="FedDTL")
    end = replace(choice({0.001: 60, 0.01: 50}, diverged={0.1: "NaN."}), name="two", title="FedLoRA")
    none = replace(choice({}, diverged={0.001: "inf.", 0.01: "inf.", 0.1: "inf."}), name="three", title="FedLoRA")
    return ChosenRates((0.001, 0.01, 0.1), (0, 4), (inner, end, none), ("four",))


def test_the_file_has_everything(rates: ChosenRates) -> None:
    written = json.loads(json.dumps(rates.to_dict()))
    assert ChosenRates.from_dict(written) == rates
    assert written["images"] == "held-back"
    assert written["experiments"]["one"]["mean"] == {"0.001": 60.04, "0.01": 70, "0.1": 0}
    assert written["experiments"]["two"] == {
        "title": "FedLoRA",
        "criterion": "base",
        "rate": 0.001,
        "at_end_of_grid": True,
        "mean": {"0.001": 60, "0.01": 50, "0.1": None},
        "by_seed": {"0.001": {"0": 60}, "0.01": {"0": 50}},
        "diverged": {"0.1": "NaN."},
        "error": "",
    }


def test_the_table(rates: ChosenRates) -> None:
    table = rates_table(rates)
    assert table.title == "Chosen rates: accuracy in % on held-back training images, seeds 0 and 4"
    assert [column.text for column in table.columns] == [
        *("Chosen", "By", "At rate: 0.001", "At rate: 0.01", "At rate: 0.1")
    ]
    shown = {label: [("*" if cell.best else "") + cell.text for cell in cells] for label, cells in table.rows}
    assert shown == {
        "FedDTL": ["0.01", "base", "60.0", "*70.0", "0.0"],
        "FedLoRA (two)": ["0.001", "base", "*60.0", "50.0", "diverged"],
        "FedLoRA (three)": ["–", "base", "diverged", "diverged", "diverged"],
    }
    assert table.notes[1:3] == (
        "FedLoRA (two): 0.001 is at the end of the grid, so a rate beyond it may be better.",
        "FedLoRA (two) diverged at 0.1: NaN.",
    )
    assert table.notes[-2].startswith("FedLoRA (three) has no rate: At every rate of the grid, a run diverged.")
    assert table.notes[-1] == "Nothing is trained, so there is no rate to choose, in four."


def test_the_lines_of_a_terminal(rates: ChosenRates) -> None:
    assert [rate_line(choice, rates) for choice in rates.choices] == [
        "FedDTL (one): rate 0.01 chosen, base accuracy 70.0 on held-back training images",
        "FedLoRA (two): rate 0.001 chosen, base accuracy 60.0 on held-back training images, at the end of the grid",
        "FedLoRA (three): no rate chosen. At every rate of the grid, a run diverged. The first: inf.",
    ]


def test_the_default_grid_has_the_rates_of_adam_and_of_sgd() -> None:
    assert DEFAULT_RATES == (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    assert Experiment().local.learning_rate in DEFAULT_RATES
