"""Runs of one setting together, and within it those that differ in the seed alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comparison.made_up import outcome
from made_records import made_record

from feddtl.comparison.scores import condition_scores, setting_scores
from feddtl.config import DataConfig, Experiment, LocalConfig, LoraConfig, ScheduleConfig
from feddtl.records import RoundRecord
from feddtl.results.grouping import by_experiment, common_rounds, settings_of
from feddtl.results.run import RunResult

DATA = {
    "dataset": "photos",
    "base_classes": ["ant"],
    "novel_classes": ["bee"],
    "domains": ["all"],
    "train_images": 2,
    "test_base_images": 3,
    "test_novel_images": 3,
    "images_per_client_and_class": [[2]],
}


def make_run(experiment: Experiment, records: tuple[RoundRecord, ...] = (), final: float | None = None) -> RunResult:
    scores = {"local": final, "base": final, "novel": final, "harmonic_mean": final}
    summary = replace(outcome("x", 0, 1.0, 1.0).summary, zero_shot=scores, final=scores, seconds_by_phase={}, rounds=2)
    name = f"{experiment.method}-{experiment.seed}"
    return RunResult(name, experiment, None if final is None else summary, {}, DATA, records)


def experiment(method: str = "feddtl", seed: int = 0, **changes: Any) -> Experiment:
    return replace(Experiment(method=method, seed=seed), **changes)


def test_runs_that_differ_in_the_seed_or_the_machine_are_one_method() -> None:
    moved = experiment(seed=0, compute=replace(Experiment().compute, device="cpu"))
    [setting] = settings_of([make_run(experiment(seed=1)), make_run(moved), make_run(experiment("fedlora"))])
    assert [(method.label, [run.experiment.seed for run in method.runs]) for method in setting.methods] == [
        ("FedDTL", [0, 1]),
        ("FedLoRA + two-stage", [0]),
    ]
    assert setting.seeds == [0, 1]


def test_other_novel_classes_are_another_setting() -> None:
    """Their images and class lists differ, so they must never share a mean."""
    kinds = ("pairs", "shapes", "colours")
    settings = settings_of([make_run(experiment(data=DataConfig(novel=novel))) for novel in kinds])
    assert len(settings) == 3
    for setting, novel in zip(settings, kinds, strict=True):
        assert setting.title.endswith(f", novel {novel}")


def test_labels_of_one_title_name_what_differs() -> None:
    runs = [
        make_run(experiment(lora=LoraConfig(rank=8))),
        make_run(experiment()),
        make_run(experiment(schedule=ScheduleConfig(stages="sft"))),
    ]
    [setting] = settings_of(runs)
    assert [method.label for method in setting.methods] == [
        "FedDTL, lora.rank 8",
        "FedDTL, lora.rank 4",
        "FedDTL (SFT only)",
    ]
    assert [method.style for method in setting.methods] == [0, 1, 2]


def test_other_images_are_another_setting() -> None:
    settings = settings_of(
        [make_run(experiment(data=DataConfig(partition="dirichlet", alpha=alpha))) for alpha in (0.1, 1.0)]
        + [make_run(experiment(data=DataConfig(domains=domain))) for domain in ("fog", "night")]
    )
    assert [setting.title for setting in settings] == [
        "photos, few-shot, dirichlet (α = 0.1), 5 clients, 20 rounds, tiny-clip",
        "photos, few-shot, dirichlet (α = 1), 5 clients, 20 rounds, tiny-clip",
        "photos, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip, domains fog",
        "photos, few-shot, non-iid, 5 clients, 20 rounds, tiny-clip, domains night",
    ]


def test_another_budget_is_another_setting_as_it_is_in_a_comparison() -> None:
    """Zero-shot has no rounds: a run of it belongs to both."""
    runs = [make_run(experiment(rounds=rounds)) for rounds in (5, 20)] + [make_run(experiment("zero-shot"))]
    settings = settings_of(runs)
    assert [len(setting.methods) for setting in settings] == [1, 1]
    assert [[run.experiment.method for run in setting.runs] for setting in settings] == [["feddtl", "zero-shot"]] * 2


def test_zero_shot_counts_once_per_seed() -> None:
    """Two methods of seed 0 both scored it; the mean over seeds must not weigh that seed twice."""
    runs = [
        make_run(experiment(m, s), final=v)
        for m, s, v in (("feddtl", 0, 10.0), ("fedlora", 0, 10.0), ("feddtl", 1, 40.0))
    ]
    [setting] = settings_of(runs)
    assert [scores["base"] for scores in setting.zero_shot.values()] == [10.0, 40.0]


def test_a_seed_that_was_run_twice_counts_once() -> None:
    """A run is a pure function of its experiment: counting it twice would make the deviation too small."""
    again, unfinished = make_run(experiment(seed=1), final=40.0), make_run(experiment(seed=1))
    [setting] = settings_of([unfinished, make_run(experiment(seed=0), final=10.0), again, again])
    [method] = setting.methods
    assert [run.final.get("base") for run in method.runs] == [10.0, 40.0]
    assert method.note == ""


def test_rounds_that_all_runs_share() -> None:
    """Run 0 has rounds 1 and 2, run 1 has 1 to 3 of which round 1 was not scored; the third has nothing yet."""
    runs = [
        make_run(experiment(seed=0), (made_record(1, base=10.0), made_record(2, base=20.0))),
        make_run(experiment(seed=1), (made_record(1), made_record(2, base=40.0), made_record(3, base=50.0))),
        make_run(experiment(seed=2)),
    ]
    assert common_rounds(runs, "base") == {2: [20.0, 40.0]}
    assert common_rounds(runs, "novel") == {}


def test_fields_inside_a_record() -> None:
    records = (made_record(1, train={"reward": 0.5}), made_record(2, train={"reward": None}), made_record(3))
    assert common_rounds([make_run(experiment(), records)], "reward", "train") == {1: [0.5]}


def test_costs_of_an_unoutcome_are_those_of_its_rounds() -> None:
    records = tuple(made_record(n, seconds={"steps": 2.0, "server": 0.5}, bytes_up=3, bytes_down=5) for n in (1, 2))
    run = make_run(experiment(), records)
    assert run.seconds == {"steps": 4.0, "server": 1.0}
    assert (run.sent("bytes_up"), run.sent("bytes_down")) == (6, 10)


# --- the experiments of a comparison -----------------------------------------------------------------


def labels_of(runs: list[RunResult]) -> dict[str, str]:
    """The label of each experiment by its name."""
    return {method.runs[0].name: method.label for method in by_experiment(runs)}


def test_labels_of_experiments() -> None:
    runs = [
        outcome("plain", 0, 60, 50),
        outcome("loud", 0, 60, 50),
        outcome("half", 0, 60, 50, stages="sft"),
        outcome("prompts", 0, 60, 50, method="promptfl", stages="sft"),
        outcome("plain", 1, 60, 50),
    ]
    assert labels_of(runs) == {
        "plain": "FedDTL (plain)",
        "loud": "FedDTL (loud)",
        "half": "FedDTL (SFT only)",
        "prompts": "PromptFL",
    }


def test_experiments_of_one_title_are_distinguished_by_their_settings() -> None:
    """The label holds no name of an experiment, so that the same method of two data sets is one row of their mean."""
    runs = [
        replace(run, experiment=replace(run.experiment, local=LocalConfig(learning_rate=rate)))
        for dataset in ("shapes", "cifar10")
        for rate in (0.01, 0.1)
        for run in [outcome(f"{dataset}-{rate}", 0, 60, 50, dataset=dataset)]
    ]
    labels = {"0.01": "FedDTL, local.learning_rate 0.01", "0.1": "FedDTL, local.learning_rate 0.1"}
    for dataset in ("shapes", "cifar10"):
        mine = [run for run in runs if run.experiment.data.source == dataset]
        assert labels_of(mine) == {f"{dataset}-{rate}": label for rate, label in labels.items()}
    [condition] = condition_scores(setting_scores(runs))
    assert set(labels.values()) <= set(condition.methods)
