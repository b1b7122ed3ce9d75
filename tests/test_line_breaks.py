"""Lines on a terminal break between words, and what one copies stays whole; a file gets lines as they are."""

from __future__ import annotations

import ast
import io
import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest

from feddtl.cli.printing import print_error, print_note, print_text
from feddtl.errors import ConfigError
from feddtl.line_breaks import fitted, width, wrapped

SOURCE = Path(__file__).parents[1] / "src" / "feddtl"
WORDS = (
    "a",
    "round",
    "clients'",
    "naïve",
    "猫猫",
    "12.5",
    "–",
    "`feddtl run --resume 'my runs/a b'`",
    "/data/" + "x" * 90,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("label", ["", "note: ", "error: ", "feddtl: ", "  "])
def test_lines_fit_and_nothing_is_lost(columns: int, label: str) -> None:
    """Of 50 random texts; greedy: each line's first word did not fit the line before."""
    choose = random.Random(columns)
    for _ in range(50):
        words = choose.choices(WORDS, k=choose.randint(1, 40))
        lines = wrapped(label + " ".join(words), columns).split("\n")
        indent = len(label) or 2
        assert " ".join([lines[0][len(label) :], *(line[indent:] for line in lines[1:])]) == " ".join(words)
        for line in lines[1:]:
            assert line[:indent] == " " * indent
        for line, following in pairwise(lines):
            begin = next(word for word in words if following[indent:].startswith(word))
            assert width(line) + 1 + width(begin) > columns
        for line in lines:
            if width(line) > columns:
                assert [word for word in WORDS if word in line][-1].startswith("/data/")


def test_columns_that_letters_take() -> None:
    """'é' in two letters takes one column, '猫' two."""
    assert [width(text) for text in ("abc", "猫", unicodedata.normalize("NFD", "é"), "é")] == [3, 2, 1, 1]


def test_aligned_numbers_stay_aligned() -> None:
    line = "round 1/4 sft   base  14.0  novel   9.5  HM  15.1"
    assert wrapped(line, 60) == line
    assert wrapped(line, 30).split("\n") == ["round 1/4 sft   base  14.0", "  novel   9.5  HM  15.1"]


def test_terminals_and_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = "alpha beta gamma"
    monkeypatch.setenv("COLUMNS", "12")
    assert fitted(text, Terminal()) == "alpha beta\n  gamma"
    assert fitted(text, io.StringIO()) == text
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    print_note(text)
    print_error(ConfigError("One two three.", "Run `feddtl run --help` now."))
    assert terminal.getvalue().splitlines() == [
        *("note: alpha", "      beta", "      gamma", "error: One", "       two", "       three."),
        *("  Run", "  `feddtl run --help`", "  now."),
    ]
    print_text(text + "\x1b[2J")
    assert capsys.readouterr().out == f"{text}\N{REPLACEMENT CHARACTER}[2J\n"


def test_every_line_of_a_command_is_printed_there() -> None:
    """Everything but rows of tables and JSON, which have lines of their own."""
    own = {"cli/printing.py", "cli/output.py", "cli/commands/predict.py"}
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in sorted((SOURCE / "cli").rglob("*.py"))
        if str(path.relative_to(SOURCE)) not in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []
