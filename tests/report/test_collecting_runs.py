"""Finding and reading run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from edited_runs import without_seals

from feddtl.errors import RunError
from feddtl.results.reading import collect, run_folders


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


def test_hits_of_a_run_are_those_that_its_accuracies_count(several: Path) -> None:
    for run in collect(several).runs:
        assert run.hits is not None
        assert run.summary is not None
        own = run.hits.client_models
        assert own is not None
        assert own.models == 3
        found = [(run.hits.before_training, run.summary.zero_shot), (run.hits.after_training, run.summary.final)]
        for hits, scores in [*found, (own, run.summary.final_client_models)]:
            assert scores is not None
            for key in ("base", "novel"):
                right = getattr(hits, key)
                assert 100 * right.sum() / len(right) / hits.models == pytest.approx(scores[key], abs=1e-4)
        for hits, scores in found:
            assert hits.owners is not None
            assert hits.local is not None
            clients = [hits.local[hits.owners == client] for client in range(3)]
            local = [100 * right.mean() for right in clients if len(right)]
            assert sum(local) / len(local) == pytest.approx(scores["local"], abs=1e-4)


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
        ("data.json", '{"dataset": "photos"}', "data.json has no prompt_template, base_classes, novel_classes"),
        ("metrics.jsonl", "{}\n{", "metrics.jsonl"),
        ("config.json", '{"rounds": -1}', "config.json was written by another version, or is damaged: rounds = -1"),
        ("environment.json", "", "environment.json"),
    ],
)
def test_a_damaged_run_is_left_out_and_named(copy_of: Callable[[], Path], file: str, content: str, said: str) -> None:
    folder = copy_of() / "runs"
    (without_seals(folder / "feddtl-seed0") / file).write_text(content)
    collection = collect(folder)
    assert [run.name for run in collection.runs] == ["feddtl-seed1", "fedlora-seed0"]
    [problem] = collection.problems
    assert problem.startswith("feddtl-seed0 is skipped.")
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

    monkeypatch.setattr("feddtl.results.reading.os.scandir", refuse)
    with pytest.raises(RunError, match=f"Cannot read {tmp_path}: Permission denied"):
        collect(tmp_path)
