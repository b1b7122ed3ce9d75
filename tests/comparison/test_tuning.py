"""What is tried, from which values; and how a choice is written and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison.made_up import outcome

from feddtl.comparison.cells import Cell, Results
from feddtl.comparison.choices import Choice, Tried, Tuned
from feddtl.comparison.chosen_table import choice_line, chosen_tables
from feddtl.comparison.files import Failure
from feddtl.comparison.trials import Trials
from feddtl.comparison.tuning import DEFAULT_RATES, RATES, Tuning, require_tunable, trial_of
from feddtl.config import EvaluationConfig, Experiment, LocalConfig, ScheduleConfig, ServerConfig
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import with_settings
from feddtl.results.run import RunResult

LOCAL, SERVER = RATES
GRID = {0.001: 0, 0.01: 0, 0.1: 0}


def run(base: float | None, local: float = 50.0, novel: float = 50.0, **more: Any) -> RunResult:
    made = outcome("x", 0, base, novel, **more)
    assert made.summary is not None
    return replace(made, summary=replace(made.summary, final={**made.summary.final, "local": local}))


def choice(results: Mapping[float, Any], seeds: tuple[int, ...] = (0,)) -> Choice:
    """The choice from runs of FedLoRA at each rate, or several for each seed; a text is why a run diverged."""
    tune = Tuning(tuple(results) if len(results) > 1 else (*results, 0.9), seeds)
    trials = Trials({"x": Experiment(method="fedlora")}, tune, (0,), Path("out"))
    found: dict[Cell, RunResult | Failure] = {}
    for cell in trials.step({}).cells:
        own = results.get(dict(cell.tried)[LOCAL], ())
        own = own if isinstance(own, tuple) else (own,)
        if cell.seed < len(own):
            result = own[cell.seed]
            found[cell] = Failure("x", cell.seed, result, diverged=True) if isinstance(result, str) else result
    [made] = trials.tuned(found).choices
    return made


def rate(found: Choice) -> float | None:
    return found.chosen[LOCAL] if found.chosen else None


def test_the_highest_base_accuracy_wins_whatever_the_novel_one() -> None:
    found = choice({0.001: run(60, novel=90), 0.01: run(70, novel=10), 0.1: run(65, novel=80)})
    assert (found.criterion, rate(found), found.mean) == ("base", 0.01, 70)
    assert [one.mean for one in found.tried] == [60, 70, 65]


def test_methods_that_keep_a_part_on_the_clients_are_judged_by_their_clients_models() -> None:
    personal = {"trainable_parameters": {"shared": 5, "personal": 3, "server": 0}}
    found = choice({0.001: run(90, local=20, **personal), 0.01: run(10, local=80, **personal)})
    assert (found.criterion, rate(found)) == ("local", 0.01)


def test_the_smallest_of_equal_rates_wins_in_any_order() -> None:
    assert rate(choice({0.1: run(70), 0.01: run(70), 0.001: run(60)})) == 0.01


def test_means_that_differ_by_rounding_alone_are_equal() -> None:
    """(0.1 + 0.7) / 2 and 0.4: 0.39999999999999997 and 0.4 in binary floating point."""
    assert rate(choice({0.001: (run(0.1), run(0.7)), 0.01: (run(0.4), run(0.4))}, (0, 1))) == 0.001


def test_the_mean_over_seeds_decides() -> None:
    found = choice({0.001: (run(80), run(40)), 0.01: (run(65), run(65))}, (0, 1))
    assert (rate(found), [one.mean for one in found.tried]) == (0.01, [60, 65])


def test_a_point_at_which_a_run_diverged_is_never_chosen() -> None:
    found = choice({0.001: (run(30), run(30)), 0.1: (run(99), "NaN in round 2.")}, (0, 1))
    assert (rate(found), found.tried[1].mean, found.error) == (0.001, None, "")


def test_a_method_that_diverges_everywhere_has_no_choice() -> None:
    found = choice({0.1: "NaN in round 2.", 0.01: "NaN in round 9."})
    assert rate(found) is None
    assert found.error == "At every point that was tried, a run diverged. The first: NaN in round 9."


def test_nothing_is_chosen_while_runs_are_missing_or_failed_otherwise() -> None:
    found = choice({0.1: run(70)})
    assert (rate(found), found.error) == (None, "")
    trials = Trials({"x": Experiment(method="fedlora")}, Tuning((0.1, 0.2)), (0,), Path("out"))
    first, second = trials.step({}).cells
    full: Results = {first: Failure("x", 0, "The disk is full."), second: run(70)}
    [made] = trials.tuned(full).choices
    assert (made.chosen, made.error, trials.step(full).cells) == (None, "The disk is full.", ())


def test_a_run_without_the_accuracy_is_named() -> None:
    found = choice({0.1: run(None), 0.01: run(50)})
    assert (rate(found), found.error) == (None, "The run with rate 0.1 and seed 0 has no base accuracy.")


@pytest.mark.parametrize(("best", "end"), [(0.001, [LOCAL]), (0.01, []), (0.1, [LOCAL])])
def test_a_choice_at_the_end_of_the_grid_is_known(best: float, end: list[str]) -> None:
    found = choice({rate: run(70 if rate == best else 60) for rate in GRID})
    assert found.at_ends({LOCAL: tuple(GRID)}) == end


@pytest.mark.parametrize("values", [("round", "batch"), (False, True)])
def test_words_and_truth_values_have_no_end(values: tuple[Any, ...]) -> None:
    found = Choice("x", "FedDTL", "base", ("a",), (), chosen={"a": values[-1]})
    assert found.at_ends({"a": values}) == []


def test_trials_differ_from_the_experiment_in_the_settings_and_scored_images_alone() -> None:
    experiment = Experiment(rounds=7, evaluation=EvaluationConfig(held_back_share=0.3))
    evaluation = EvaluationConfig(every=7, client_models="never", images="held-back", held_back_share=0.3)
    assert trial_of(experiment, {LOCAL: 0.1, SERVER: 0.2}) == replace(
        experiment,
        local=LocalConfig(learning_rate=0.1),
        server=ServerConfig(learning_rate=0.2),
        evaluation=evaluation,
    )


def test_every_rate_that_a_method_trains_with_is_chosen() -> None:
    """The server of FedDTL trains unless it has no epochs; others have one rate, and zero-shot none."""
    tune = Tuning((0.1, 0.001))
    assert tune.grids_of(Experiment()) == dict.fromkeys(RATES, (0.001, 0.1))
    assert [list(tune.grids_of(Experiment(method=method))) for method in ("fedlora", "zero-shot")] == [[LOCAL], []]
    assert list(tune.grids_of(Experiment(server=ServerConfig(epochs=0)))) == [LOCAL]


def test_named_settings_are_chosen_where_they_have_an_effect() -> None:
    tune = Tuning(grid={"lora.rank": (8, 2), "rl.kl": ("sampled", "exact")})
    assert tune.grids_of(Experiment()) == {"lora.rank": (2, 8), "rl.kl": ("sampled", "exact")}
    assert list(tune.grids_of(Experiment(schedule=ScheduleConfig(stages="sft")))) == ["lora.rank"]
    assert tune.grids_of(Experiment(method="fedclip")) == {}


def test_coordinates_begin_at_the_values_of_the_file_or_in_the_middle() -> None:
    tune = Tuning(grid={LOCAL: (0.1, 0.2, 0.3, 0.4), SERVER: (0.0001, 0.001, 0.01)})
    assert tune.start_of(Experiment()) == (0.2, 0.001)


@pytest.mark.parametrize(
    ("rates", "message"),
    [((), "two or more"), ((0.1,), "two or more"), ((0.1, 0.1), "two or more"), ((0.1, 2.0), "above 0, up to 1")],
)
def test_a_bad_grid(rates: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match="tune_rates") as caught:
        Tuning(rates)
    assert message in caught.value.hint


def test_a_named_setting_has_two_values_or_more() -> None:
    with pytest.raises(ConfigError, match=r"tune_grid lora\.rank = \(4,\) is out of range"):
        Tuning(grid={"lora.rank": (4,)})
    lists = Tuning(grid={"lora.targets": (["q_proj"], ["k_proj"])})
    with pytest.raises(ConfigError, match=r"a with tune_grid: lora\.targets = .* is a list"):
        require_tunable({"a": Experiment()}, lists)


@pytest.mark.parametrize("key", ["seed", "rounds", "data.shots", "attack.scale", "evaluation.every", "method"])
def test_settings_that_make_runs_incomparable_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"tune_grid has {key}, which belongs to what is compared"):
        Tuning(grid={key: (1, 2)})


def test_values_that_do_not_go_together_are_refused_before_the_first_run() -> None:
    """A warm-up of the only epoch; together, the first values are one point and the second ones another."""
    grid = {"local.epochs": (1, 2), "local.warmup_epochs": (0, 1)}
    with pytest.raises(ConfigError, match=r"a with tune_grid: local\.warmup_epochs = 1 leaves no epoch"):
        require_tunable({"a": Experiment(method="fedlora")}, Tuning(grid=grid))
    require_tunable({"a": Experiment(method="fedlora")}, Tuning(grid=grid, search="together"))


def test_together_needs_as_many_values_for_each_setting() -> None:
    with pytest.raises(ConfigError, match="different numbers of values"):
        Tuning(grid={LOCAL: (0.1, 0.2), SERVER: (0.1, 0.2, 0.3)}, search="together")
    with pytest.raises(ConfigError, match="tune_search = 'random' is unknown"):
        Tuning(search="random")  # type: ignore[arg-type]


def test_experiments_that_differ_in_what_is_chosen_alone_are_refused() -> None:
    one, tune = Experiment(method="fedlora"), Tuning()
    require_tunable({"a": one, "b": Experiment(), "c": Experiment(method="zero-shot")}, tune)
    with pytest.raises(ConfigError, match=r"a and b differ only in local\.learning_rate"):
        require_tunable({"a": one, "b": with_settings(one, {LOCAL: 0.1})}, tune)
    two = with_settings(Experiment(), {SERVER: 0.1})
    with pytest.raises(ConfigError, match=r"differ only in local\.learning_rate and server\.learning_rate"):
        require_tunable({"a": Experiment(), "b": two}, tune)
    require_tunable({"a": Experiment(), "b": two}, Tuning(grid={LOCAL: (0.1, 0.2)}))


def test_experiments_on_held_back_images_and_without_training_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a has evaluation\.images = 'held-back'"):
        require_tunable({"a": Experiment(evaluation=EvaluationConfig(images="held-back"))}, Tuning())
    with pytest.raises(ConfigError, match="No experiment trains"):
        require_tunable({"a": Experiment(method="zero-shot")}, Tuning())


@pytest.fixture
def tuned() -> Tuned:
    inner = replace(choice({0.001: run(60.04), 0.01: run(70), 0.1: run(1)}), name="one", title="FedPGP")
    end = replace(choice({0.001: run(60), 0.01: run(50), 0.1: "NaN."}), name="two")
    none = replace(choice(dict.fromkeys(GRID, "inf.")), name="three")
    return Tuned({LOCAL: tuple(GRID)}, "coordinates", (0, 4), (inner, end, none), ("four",))


def shown(table: Any) -> dict[str, list[str]]:
    return {label: [("*" if cell.best else "") + cell.text for cell in cells] for label, cells in table.rows}


def test_the_file_has_everything(tuned: Tuned) -> None:
    written = json.loads(json.dumps(tuned.to_dict()))
    assert Tuned.from_dict(written) == tuned
    assert (written["format"], written["images"], written["settings"]) == (2, "held-back", {LOCAL: [0.001, 0.01, 0.1]})
    assert written["experiments"]["two"] == {
        "title": "FedLoRA + two-stage",
        "criterion": "base",
        "settings": [LOCAL],
        "chosen": {LOCAL: 0.001},
        "mean": 60,
        "at_end_of_grid": [LOCAL],
        "points": 3,
        "tried": [
            {"values": {LOCAL: 0.001}, "mean": 60, "by_seed": {"0": 60}, "diverged": ""},
            {"values": {LOCAL: 0.01}, "mean": 50, "by_seed": {"0": 50}, "diverged": ""},
            {"values": {LOCAL: 0.1}, "mean": None, "by_seed": {}, "diverged": "NaN."},
        ],
        "error": "",
    }


def test_the_file_of_an_earlier_version_is_read() -> None:
    """Of one that chose the rate of the clients alone; a later one is refused."""
    own = {"title": "FedDTL", "criterion": "base", "rate": 0.01, "at_end_of_grid": True, "error": ""}
    scores = {"mean": {"0.01": 70, "0.1": None}, "by_seed": {"0.01": {"0": 70}}, "diverged": {"0.1": "NaN."}}
    earlier = {"rates": [0.01, 0.1], "seeds": [0], "experiments": {"one": {**own, **scores}}, "untrained": ["two"]}
    tried = (Tried({LOCAL: 0.01}, {0: 70}), Tried({LOCAL: 0.1}, {}, "NaN."))
    chosen = Choice("one", "FedDTL", "base", (LOCAL,), tried, chosen={LOCAL: 0.01})
    assert Tuned.from_dict(earlier) == Tuned({LOCAL: (0.01, 0.1)}, "coordinates", (0,), (chosen,), ("two",))
    with pytest.raises(RunError, match="format 3, and this version reads up to 2"):
        Tuned.from_dict({**earlier, "format": 3})


def test_the_table(tuned: Tuned) -> None:
    [table] = chosen_tables(tuned)
    assert table.title == "Chosen settings: accuracy in % on held-back training images, seeds 0 and 4"
    assert [column.text for column in table.columns] == [
        *("Chosen: Rate", "By", "Points", "At rate: 0.001", "At rate: 0.01", "At rate: 0.1")
    ]
    assert shown(table) == {
        "FedPGP": ["0.01", "base", "3", "60.0", "*70.0", "1.0"],
        "FedLoRA + two-stage (two)": ["0.001", "base", "3", "*60.0", "50.0", "diverged"],
        "FedLoRA + two-stage (three)": ["–", "base", "3", "diverged", "diverged", "diverged"],
    }
    assert table.notes[1:4] == (
        "Points tried: 3 for each method.",
        "FedLoRA + two-stage (two): local.learning_rate 0.001 is at the end of the grid, so a value beyond it may be "
        "better.",
        "FedLoRA + two-stage (two) diverged at rate 0.1: NaN.",
    )
    assert table.notes[-2].startswith("FedLoRA + two-stage (three) has no choice: At every point that was tried, a run")
    assert table.notes[-1] == "There is nothing to choose in four."


def test_two_settings_have_a_table_of_their_points(tuned: Tuned) -> None:
    points = {(0.001, 0.1): 60, (0.01, 0.1): 70, (0.1, 0.1): 65, (0.01, 0.2): 71}
    tried = tuple(Tried({LOCAL: one, SERVER: two}, {0: mean}) for (one, two), mean in points.items())
    both = Choice("both", "FedDTL", "base", RATES, tried, chosen={LOCAL: 0.01, SERVER: 0.2})
    grids = {LOCAL: tuple(GRID), SERVER: (0.1, 0.2)}
    table, matrix = chosen_tables(replace(tuned, grids=grids, choices=(both, tuned.choices[0])))
    assert shown(table) == {
        "FedDTL": ["0.01", "0.2", "base", "4", "60.0", "*71.0", "65.0"],
        "FedPGP": ["0.01", "–", "base", "3", "60.0", "*70.0", "1.0"],
    }
    assert table.notes[1] == "Points tried: 4 for FedDTL; 3 for FedPGP."
    assert table.notes[2].startswith("Several settings: One setting after the other, from the values of the file")
    assert "FedDTL (both): server.learning_rate 0.2 is at the end of the grid, so a value" in table.notes[3]
    assert (matrix.corner, [column.text for column in matrix.columns]) == (
        "Rate",
        ["Server rate: 0.1", "Server rate: 0.2"],
    )
    assert shown(matrix) == {"0.001": ["60.0", "–"], "0.01": ["70.0", "*71.0"], "0.1": ["65.0", "–"]}
    assert choice_line(both, replace(tuned, grids=grids)) == (
        "FedDTL (both): rate 0.01, server rate 0.2 chosen from 4 points, base accuracy 71.0 on held-back training "
        "images, server rate at the end of the grid"
    )


def test_the_lines_of_a_terminal(tuned: Tuned) -> None:
    images = "on held-back training images"
    assert [choice_line(choice, tuned) for choice in tuned.choices] == [
        f"FedPGP (one): rate 0.01 chosen from 3 points, base accuracy 70.0 {images}",
        f"FedLoRA + two-stage (two): rate 0.001 chosen from 3 points, base accuracy 60.0 {images}, rate at the end of "
        "the grid",
        "FedLoRA + two-stage (three): nothing chosen. At every point that was tried, a run diverged. The first: inf.",
    ]


def test_the_default_grid_has_the_rates_of_adam_and_of_sgd() -> None:
    assert DEFAULT_RATES == (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    assert Experiment().local.learning_rate in DEFAULT_RATES
    assert Experiment().server.learning_rate in DEFAULT_RATES
