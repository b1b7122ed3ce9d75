"""Tables of committed results in Markdown pages: what is replaced, what is left, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison.made_up import by_seed, with_hits

import write_results_tables
from feddtl.comparison.files import Comparison, write_comparison
from feddtl.errors import ConfigError, RunError
from write_results_tables import main, rendered, with_tables


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one file of results: three methods on one data set, ."""
    monkeypatch.setattr(write_results_tables, "ROOT", tmp_path)
    runs = [
        *with_hits("a", 75, 75),
        *with_hits("b", 74, 74, method="fedclip"),
        *with_hits("c", 45, 45, method="fedpgp"),
    ]
    (tmp_path / "results").mkdir()
    write_comparison(tmp_path / "results", Comparison(tuple(runs)))
    return tmp_path


MARK = "<!-- table: results/comparison.json {} -->"


def block(options: str) -> str:
    return f"Before.\n\n{MARK.format(options)}\nold\n<!-- end -->\n\nAfter.\n"


def lines(options: str) -> list[str]:
    return rendered(f"results/comparison.json {options}").splitlines()


def test_a_page_without_marks_stays_as_it_is(root: Path) -> None:
    for text in ("", "No mark.\n", "no line break", "<!-- end -->\n", f"```text\n{MARK}\n```\n"):
        assert with_tables(text) == text


def test_what_is_between_the_marks_is_replaced_and_then_stays(root: Path) -> None:
    once = with_tables(block("columns=hm,delta table=Accuracy"))
    assert once.startswith(f"Before.\n\n{MARK.format('columns=hm,delta table=Accuracy')}\n\n**Accuracy in %: shapes")
    assert once.endswith("\n\n<!-- end -->\n\nAfter.\n")
    assert "\nold\n" not in once
    assert "|  | HM | Δ HM |" in once
    assert with_tables(once) == once


def test_columns(root: Path) -> None:
    [head] = [line for line in lines("columns=delta-base,base table=Accuracy") if line.startswith("|  |")]
    assert head == "|  | Base | Δ Base |"
    [head] = [line for line in lines("table=Accuracy") if line.startswith("|  |")]
    assert "Δ HM" in head
    assert "Δ Base" not in head


def test_title_and_notes_can_be_left_out(root: Path) -> None:
    found = lines("title=no notes=no table=Accuracy")
    assert all(line.startswith("|") for line in found)
    assert any("bootstrap" in line for line in lines("title=no table=Accuracy"))


def test_rows_are_compared_with_each_other_alone(root: Path) -> None:
    """FedCLIP is not distinguishable from FedDTL, but it is from FedPGP."""
    whole = lines("columns=hm table=Accuracy")
    assert not any("**" in line for line in whole if line.startswith("| Fed"))
    part = lines('columns=hm,delta table=Accuracy rows="FedCLIP;FedPGP"')
    rows = [line for line in part if line.startswith("| Fed")]
    assert [row.split(" | ")[0] for row in rows] == ["| FedCLIP", "| FedPGP"]
    assert rows[0].split(" | ")[1].startswith("**74.0")
    assert rows[0].endswith("| best |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("colums=hm", "no option 'colums'"),
        ("columns=hmm", "no column 'hmm'"),
        ("columns=paper", "none of the columns paper"),
        ("table=Other", "No table of results/comparison.json has 'Other'"),
        ('rows="FedDLT"', "no row 'FedDLT'"),
        ('rows="FedDTL', "cannot be read"),
    ],
)
def test_wrong_options_are_named(root: Path, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        lines(options)
    assert caught.value.hint


@pytest.mark.parametrize("text", [MARK, f"{MARK}\n{MARK}\n<!-- end -->"])
def test_a_mark_without_an_end_is_refused(root: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="has no end"):
        with_tables(text)


def test_a_file_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(RunError, match=r"Cannot read .*absent\.json"):
        rendered("results/absent.json")


def test_the_command_writes_what_it_can(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = root / "good.md", root / "bad.md"
    good.write_text(block("table=Accuracy"), encoding="utf-8")
    bad.write_text(block("tables=Accuracy"), encoding="utf-8")
    assert main([str(bad), str(good)]) == 1
    assert "no option 'tables'" in capsys.readouterr().err
    assert "old" in bad.read_text(encoding="utf-8")
    assert "75.0 " in good.read_text(encoding="utf-8")
    bad.unlink()
    assert main([]) == 0


def test_results_without_hits_are_written_too(root: Path) -> None:
    write_comparison(root, Comparison(tuple(by_seed("a", 60, 70))))
    assert "| FedDTL | 65.0 ± 7.1 |" in rendered("comparison.json columns=hm")
