"""Markdown and LaTeX: nothing of a name is taken for markup, groups and rules are where they belong."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.results.rendering import latex, latex_text, markdown
from feddtl.results.tables import Cell, Column, Table

TABLE = Table(
    "Accuracy in %: my_photos",
    (Column("Base"), Column("HM"), Column("Base", "Paper"), Column("HM", "Paper")),
    (("FedDTL (a_b)", (Cell("70.1 ± 0.2", best=True), Cell("−"), Cell("1"), Cell("2"))),),
    ("A note & more.",),
)


def test_markdown_by_hand() -> None:
    assert markdown([TABLE]) == (
        "## Accuracy in %: my\\_photos\n\n"
        "|  | Base | HM | Paper: Base | Paper: HM |\n"
        "|---|---:|---:|---:|---:|\n"
        "| FedDTL (a\\_b) | **70.1 ± 0.2** | − | 1 | 2 |\n\n"
        "A note & more.\n"
    )


def test_latex_by_hand() -> None:
    lines = latex([TABLE]).splitlines()
    assert r"\caption{Accuracy in \%: my\_photos. A note \& more.}" in lines
    head = lines.index(r"\toprule")
    assert lines[head - 1] == r"\begin{tabular}{lrrrr}"
    assert lines[head + 1 : head + 7] == [
        r" & \multicolumn{2}{c}{} & \multicolumn{2}{c}{Paper} \\",
        r"\cmidrule(lr){4-5}",
        r" & Base & HM & Base & HM \\",
        r"\midrule",
        r"FedDTL (a\_b) & \textbf{70.1 $\pm$ 0.2} & $-$ & 1 & 2 \\",
        r"\bottomrule",
    ]


def test_a_wide_latex_table_is_scaled_to_the_width_of_the_text() -> None:
    wide = Table("T", tuple(Column("HM") for _ in range(10)), (("A", (Cell("70.1", "[68.0, 72.0]"),) * 10),))
    lines = latex([wide]).splitlines()
    begin = lines.index(r"\resizebox{\textwidth}{!}{%")
    assert lines[begin + 1].startswith(r"\begin{tabular}")
    assert lines[lines.index(r"\end{tabular}") + 1] == "}"
    assert "resizebox" not in latex([TABLE])
    assert "graphicx" in lines[0]


def test_without_groups_there_is_one_line_of_headings() -> None:
    plain = Table("T", (Column("Base"),), (("A", (Cell("1"),)),))
    assert "multicolumn" not in latex([plain])
    assert "cmidrule" not in latex([plain])


def test_latex_special_characters() -> None:
    assert latex_text("a_b & 50% #1 $x {y} ~z ^w \\v") == (
        r"a\_b \& 50\% \#1 \$x \{y\} \textasciitilde{}z \textasciicircum{}w \textbackslash{}v"
    )
    assert latex_text("p < 0.001, α = 0.1, Δ ≈ 85 – 70 ± 1") == (
        r"p $<$ 0.001, $\alpha$ = 0.1, $\Delta$ $\approx$ 85 -- 70 $\pm$ 1"
    )


@given(st.text(alphabet="ab_&%#$~^{}\\<> \n", max_size=30))
def test_no_special_character_is_left_bare(text: str) -> None:
    """Without the commands that stand for one, nothing special remains, and no line ends."""
    shown = latex_text(text)
    rest = re.sub(r"\\text\w+\{\}|\$[<>]\$|\\[_&%#${}]", "", shown)
    assert not re.search(r"[_&%#$~^{}\\<>\n]", rest)


@pytest.mark.parametrize("name", ["[red]", "*"])
def test_a_name_is_no_argument_of_the_line_above(name: str) -> None:
    lines = latex([Table("T", (Column("Base"),), ((name, (Cell("1"),)),))]).splitlines()
    assert lines[lines.index(r"\midrule") + 1] == rf"{{}}{name} & 1 \\"


def test_names_are_no_entities_and_no_formulas_in_markdown() -> None:
    text = markdown([Table("a &lt;b&gt; & c $x$ ~~d~~ \x1b", (), ())])
    assert text.startswith(r"## a \&lt;b\&gt; & c \$x\$ \~\~d\~\~ �")


@given(st.text(alphabet="ab|*_`\\<>[]\n", min_size=1, max_size=30))
def test_a_name_cannot_break_a_markdown_table(text: str) -> None:
    row = markdown([Table("T", (Column("Base"),), ((text, (Cell("1"),)),))]).splitlines()[4]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
