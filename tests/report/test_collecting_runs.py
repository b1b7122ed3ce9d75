"""Finding and reading run folders, and putting them together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison.made_up import outcome
from made_records import made_record

from feddtl.config import DataConfig, Experiment, LoraConfig, Method, ScheduleConfig
from feddtl.errors import RunError
from feddtl.records import RoundRecord
from feddtl.report.collect import Run, collect, common_rounds, printable, run_folders
from feddtl.report.grouping import settings_of

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


def make_run(experiment: Experiment, records: tuple[RoundRecord, ...] = (), final: float | None = None) -> Run:
    scores = {"local": final, "base": final, "novel": final, "harmonic_mean": final}
    summary = replace(outcome("x", 0, 1.0, 1.0).summary, zero_shot=scores, final=scores, seconds_by_phase={}, rounds=2)
    name = f"{experiment.method}-{experiment.seed}"
    return Run(name, experiment, DATA, {}, records, None if final is None else summary, None)


def experiment(method: Method = "feddtl", seed: int = 0, **changes: Any) -> Experiment:
    return replace(Experiment(method=method, seed=seed), **changes)


# --- finding -----------------------------------------------------------------------------------------


def test_runs_are_found_three_folders_deep_and_not_deeper(several: Path, copy_of: Callable[[], Path]) -> None:
    assert [path.name for path in run_folders(several)] == ["feddtl-seed0", "feddtl-seed1", "fedlora-seed0"]
    folder = copy_of()
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    (folder / "runs" / "feddtl-seed0").rename(deep / "kept")
    (deep / "c").mkdir()
    (folder / "runs" / "feddtl-seed1").rename(deep / "c" / "lost")
    assert [run.name for run in collect(folder).runs] == ["a/b/kept", "runs/fedlora-seed0"]


def test_a_run_folder_is_one_run(several: Path) -> None:
    """Its checkpoints, adapters, and a model exported into it, are no runs."""
    [run] = collect(several / "runs" / "feddtl-seed1").runs
    assert (run.name, run.experiment.seed) == ("feddtl-seed1", 1)
    assert run.class_names == ("ant", "bee", "cat", "dog", "elk", "fox")
    assert run.base_classes == 3


def test_a_model_and_hidden_folders_are_no_runs(copy_of: Callable[[], Path]) -> None:
    folder = copy_of()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "clip"}')
    (folder / "runs" / "feddtl-seed0").rename(folder / "runs" / ".feddtl-seed0")
    collection = collect(folder)
    assert [run.name for run in collection.runs] == ["runs/feddtl-seed1", "runs/fedlora-seed0"]
    assert collection.problems == ()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no run in") as caught:
        collect(tmp_path)
    assert "config.json" in caught.value.hint
    with pytest.raises(RunError, match="There is no folder"):
        collect(tmp_path / "missing")


# --- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("summary.json", "{", "summary.json"),
        (
            "summary.json",
            '{"final": {}}',
            "summary.json has no method, stages, dataset,",
        ),
        ("data.json", '{"dataset": "photos"}', "data.json has no base_classes"),
        ("metrics.jsonl", "{}\n{", "metrics.jsonl"),
        ("config.json", '{"rounds": -1}', "config.json was written by another version"),
        ("environment.json", "", "environment.json"),
    ],
)
def test_a_damaged_run_is_left_out_and_named(copy_of: Callable[[], Path], file: str, content: str, said: str) -> None:
    folder = copy_of() / "runs"
    (folder / "feddtl-seed0" / file).write_text(content)
    collection = collect(folder)
    assert [run.name for run in collection.runs] == ["feddtl-seed1", "fedlora-seed0"]
    [problem] = collection.problems
    assert problem.startswith("feddtl-seed0 is left out.")
    assert said in problem
    assert str(folder) not in problem
    with pytest.raises(RunError) as caught:
        collect(folder / "feddtl-seed0")
    assert said in caught.value.message


def test_damaged_predictions_cost_no_more_than_themselves(copy_of: Callable[[], Path]) -> None:
    folder = copy_of() / "runs"
    (folder / "feddtl-seed0" / "predictions.safetensors").write_bytes(b"?")
    collection = collect(folder)
    assert [run.predictions is None for run in collection.runs] == [True, False, False]
    [problem] = collection.problems
    assert "feddtl-seed0/predictions.safetensors is damaged" in problem


def test_a_run_that_was_only_announced(copy_of: Callable[[], Path]) -> None:
    folder = copy_of() / "runs"
    (folder / "feddtl-seed0" / "data.json").unlink()
    assert "stopped before its first round" in collect(folder).problems[0]


def test_what_a_page_cannot_hold_is_replaced() -> None:
    assert printable("ant\x00\ud800\n猫 é") == "ant���猫 é"


# --- putting together --------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_or_the_machine_are_one_method() -> None:
    moved = experiment(seed=0, compute=replace(Experiment().compute, device="cpu"))
    [setting] = settings_of([make_run(experiment(seed=1)), make_run(moved), make_run(experiment("fedlora"))])
    assert [(method.label, [run.experiment.seed for run in method.runs]) for method in setting.methods] == [
        ("FedDTL", [0, 1]),
        ("FedLoRA + two-stage", [0]),
    ]
    assert setting.seeds == [0, 1]


def test_methods_of_one_title_are_told_apart_by_what_differs() -> None:
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
    assert [scores["base"] for scores in setting.zero_shot] == [10.0, 40.0]


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


def test_costs_of_an_unfinished_run_are_those_of_its_rounds() -> None:
    records = tuple(made_record(n, seconds={"steps": 2.0, "server": 0.5}, bytes_up=3, bytes_down=5) for n in (1, 2))
    run = make_run(experiment(), records)
    assert run.seconds == {"steps": 4.0, "server": 1.0}
    assert (run.sent("bytes_up"), run.sent("bytes_down")) == (6, 10)


def test_json_of_a_run_is_read(several: Path) -> None:
    folder = several / "runs" / "feddtl-seed0"
    [run] = collect(folder).runs
    assert run.final == json.loads((folder / "summary.json").read_text())["final"]
    assert [record.round for record in run.records] == [1, 2, 3, 4]
    assert run.predictions is not None
    hits = run.predictions.final_hits
    base = run.predictions.labels < run.base_classes
    assert 100 * hits[base].float().mean().item() == pytest.approx(run.final["base"], abs=1e-3)
    assert 100 * hits[~base].float().mean().item() == pytest.approx(run.final["novel"], abs=1e-3)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights are of no hindrance to an administrator, so the refusal is made up."""

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("feddtl.report.collect.os.scandir", refuse)
    with pytest.raises(RunError, match=f"Cannot read {tmp_path}: Permission denied"):
        collect(tmp_path)
