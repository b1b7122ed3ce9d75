"""What a comparison's folder holds, and that results committed earlier can still be read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from comparison.made_up import by_seed, outcome

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


def test_names_with_dots_are_read_back_whole(tmp_path: Path) -> None:
    """A grid over learning rates gives names such as 'rates-0.01-promptfl'; cut at a dot, two would be one."""
    runs = (outcome("rates-0.01-promptfl", 0, 50, 60), outcome("rates-0.1-promptfl", 0, 50, 70))
    write_comparison(tmp_path, Comparison(runs))
    assert load_comparison(tmp_path).outcomes == runs


def test_the_tables_are_in_the_files(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison)
    assert "| FedDTL | **50.0 ± 0.0** | **65.0 ± 7.1** |" in (tmp_path / "table.md").read_text()
    assert r"FedDTL & \textbf{50.0 $\pm$ 0.0} & \textbf{65.0 $\pm$ 7.1}" in (tmp_path / "table.tex").read_text()


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
    assert content["runs"][0]["config"]["data"]["alpha"] == 0.1


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


def test_the_page_of_results_says_what_the_quickstart_s_file_says() -> None:
    [table] = [table for table in load_comparison(ROOT / "results/quickstart.json").tables if "Accuracy" in table.title]
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for label, cells in table.rows:
        assert f"| {label} | {' | '.join(cell.text for cell in cells[:4])} |".lower() in page.lower()
