"""What a comparison's folder holds, and that results committed earlier can still be read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from comparison.made_up import by_seed, outcome, with_hits
from results.made_hits import run_hits_of

from feddtl.comparison.files import FILES, Comparison, Failure, csv_text, load_comparison, write_comparison
from feddtl.errors import RunError
from feddtl.results.run import RunResult

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = sorted((ROOT / "results").glob("*.json"))


@pytest.fixture
def comparison() -> Comparison:
    runs = [
        *by_seed("a", 60, 70, final_domains={"fog": [61.5, 62.5]}),
        outcome("b", 0, 50, None, method="fedlora", stages="sft"),
    ]
    return Comparison(tuple(runs), (Failure("b", 1, "The disk is full.", "Free some."),))


def test_what_is_written_is_read_back(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for path in (tmp_path, tmp_path / "comparison.json"):
        found = load_comparison(path)
        assert found == comparison
        assert found.tables == comparison.tables


@pytest.mark.parametrize("change", [{"tuning": {"rates": [0.1]}}, {"failures": [{"name": "b"}]}, {"tuning": []}])
def test_a_damaged_part_is_an_error_with_a_next_step(comparison: Comparison, tmp_path: Path, change: object) -> None:
    write_comparison(tmp_path, comparison)
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))  # type: ignore[dict-item]
    with pytest.raises(RunError, match="is not a comparison"):
        load_comparison(file)


def test_names_with_dots_are_read_back_whole(tmp_path: Path) -> None:
    """A grid over learning rates gives names such as 'rates-0.01-promptfl'; cut at a dot, two would be one."""
    runs = (outcome("rates-0.01-promptfl", 0, 50, 60), outcome("rates-0.1-promptfl", 0, 50, 70))
    write_comparison(tmp_path, Comparison(runs))
    assert load_comparison(tmp_path).outcomes == runs


def test_the_tables_are_in_the_files(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison)
    assert "| FedDTL | 50.0 ± 0.0 | 65.0 ± 7.1 |" in (tmp_path / "table.md").read_text()
    assert r"FedDTL & 50.0 $\pm$ 0.0 & 65.0 $\pm$ 7.1" in (tmp_path / "table.tex").read_text()


def test_intervals_survive_the_file_and_bold_is_the_same_everywhere(tmp_path: Path) -> None:
    comparison = Comparison((*with_hits("a", 75, 75), *with_hits("b", 45, 45, method="fedclip")))
    write_comparison(tmp_path, comparison)
    assert load_comparison(tmp_path).tables == comparison.tables
    [cells] = [cells for label, cells in comparison.tables[0].rows if label == "FedDTL"]
    text = cells[1].text
    assert text.startswith("75.0 [")
    written = text.replace("[", r"\[").replace("]", r"\]")
    assert f"**{written}**" in (tmp_path / "table.md").read_text()
    assert rf"\textbf{{{text}}}" in (tmp_path / "table.tex").read_text()
    [setting] = json.loads((tmp_path / "comparison.json").read_text())["settings"]
    [_, best, other] = setting["rows"]
    low, high = best["final"]["base"]["interval"]
    assert text == f"75.0 [{low:.1f}, {high:.1f}]"
    assert best["leads_in"] == ["base", "harmonic_mean", "novel"]
    assert best["difference_to_best"] == {}
    assert other["difference_to_best"]["base"]["mean"] == -30
    assert other["difference_to_best"]["base"]["interval"][1] < 0


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_comparison(tmp_path / name, Comparison(tuple(with_hits("a", 75, 70))))
    assert (tmp_path / "one/comparison.json").read_bytes() == (tmp_path / "two/comparison.json").read_bytes()


def test_hits_of_thirty_runs_fit_a_repository() -> None:
    """Ten methods and three seeds on 500 images: what runs share is stored once."""
    hits = [
        replace(run, hits=run_hits_of(60 + index, 500, seed=seed))
        for index in range(10)
        for seed in range(3)
        for run in by_seed(f"e{index}", 60)
    ]
    with_columns = json.dumps(Comparison(tuple(hits)).as_dict()["columns_of_hits"])
    assert len(with_columns) < 30_000


def test_lists_are_one_cell_of_the_csv(tmp_path: Path) -> None:
    """They are no pairs of base and novel: client 0 is no base accuracy."""
    run = outcome("a", 0, 60, 70, final_domains={"fog": [61.5, 62.5]}, local_clients=[0, 3])
    [row] = csv.DictReader(io.StringIO(csv_text(Comparison((run,)))))
    assert row["local_clients"] == "0 3"
    assert not any(key.startswith("local_clients.") for key in row)
    assert (row["final_domains.fog.base"], row["final_domains.fog.novel"]) == ("61.5", "62.5")


def test_csv_has_no_empty_column_beside_those_of_a_table_and_no_rate_where_nothing_is_trained() -> None:
    own = {"base": 1.0, "novel": 2.0, "harmonic_mean": 3.0}
    zero = outcome("z", 0, 40, 60, method="zero-shot", stages="sft")
    text = csv_text(Comparison((outcome("a", 0, 60, 50, final_client_models=own), zero)))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert "final_client_models" not in rows[0]
    assert [row["final_client_models.base"] for row in rows] == ["1.0", ""]
    assert [row["local.learning_rate"] for row in rows] == ["0.001", ""]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_the_csv_is_a_formula(start: str) -> None:
    run = outcome("a", 0, -60, 50, dataset=f"{start}1+1")
    failure = Failure(f"{start}cmd|' /C calc'!A0", 1, f"{start}2")
    first, second = csv.DictReader(io.StringIO(csv_text(Comparison((run,), (failure,)))))
    assert first["dataset"] == f"'{start}1+1".replace("\r", " ")
    assert first["final.base"] == "-60"  # a number stays one
    assert second["experiment"].startswith("'")
    assert second["failure"] == f"'{start}2".replace("\r", " ")


def test_csv_has_a_row_for_each_cell(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    assert [(row["experiment"], row["seed"], row["state"]) for row in rows] == [
        ("a", "0", "finished"),
        ("a", "1", "finished"),
        ("b", "0", "finished"),
        ("b", "1", "failed"),
    ]
    assert rows[0]["final.harmonic_mean"] == "60.0"
    assert (rows[0]["final_domains.fog.base"], rows[0]["final_domains.fog.novel"]) == ("61.5", "62.5")
    assert rows[2]["label"] == "FedLoRA"
    assert rows[2]["final.novel"] == ""
    assert rows[3]["failure"] == "The disk is full."


def test_json_names_a_common_environment_once(comparison: Comparison) -> None:
    other = RunResult("c", comparison.outcomes[0].experiment, comparison.outcomes[0].summary, {"python": "3.12"})
    content = Comparison((*comparison.outcomes, other)).as_dict()
    assert content["environment"] == {"python": "3.11"}
    assert ["environment" in record for record in content["runs"]] == [False, False, False, True]


def test_json_has_settings_that_all_runs_share_once(comparison: Comparison) -> None:
    content = comparison.as_dict()
    assert content["config"]["data"]["alpha"] == 0.1
    assert [record["config"]["seed"] for record in content["runs"]] == [0, 1, 0]
    assert [record["config"]["method"] for record in content["runs"]] == ["feddtl", "feddtl", "fedlora"]
    assert all("data" not in record["config"] for record in content["runs"])
    [alone] = Comparison(comparison.outcomes[:1]).as_dict()["runs"]
    assert alone["config"] == {}


def test_json_has_the_aggregate(comparison: Comparison) -> None:
    [setting] = comparison.as_dict()["settings"]
    row = setting["rows"][1]
    assert (setting["best"], row["label"]) == ("FedDTL", "FedDTL")
    assert row["final"]["base"] == {"mean": 65.0, "std": 7.0711, "n": 2}


def test_nothing_done_yet_is_a_comparison_too(tmp_path: Path) -> None:
    write_comparison(tmp_path, Comparison(()))
    assert load_comparison(tmp_path) == Comparison(())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": [{}], "environment": {}}', '{"runs": 3}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(RunError) as caught:
        load_comparison(tmp_path / "file.json")
    assert caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Cannot read .*comparison\.json"):
        load_comparison(tmp_path)


@pytest.mark.parametrize("file", RESULTS, ids=[file.stem for file in RESULTS])
def test_committed_results_can_be_read(file: Path) -> None:
    found = load_comparison(file)
    records = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert [one.summary.final for one in found.outcomes] == [record["final"] for record in records]
    assert all(one.methods[0].label == "Zero-shot" for one in found.settings)
    trained = [
        value for results in found.settings for row in results.methods[1:] for value in row.final["base"].values()
    ]
    assert sorted(trained) == sorted(one.summary.final["base"] for one in found.outcomes if one.experiment.trains)
