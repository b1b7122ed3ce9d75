"""Flags that cannot be read are told as other errors are, without the parser's boxes."""

from __future__ import annotations

import sys

import pytest
from cli.small_runs import Command

from feddtl.cli.parse_errors import plain_parse_errors, unboxed

BOX = """\
╭─ Unrecognized options ────────────╮
│ invalid choice 'x' for a flag.    │
│ Expected y.                       │
│     --y INT                       │
│ ───────────────────────────────── │
│ For full helptext, run it │ this  │
╰───────────────────────────────────╯
"""


def test_a_box_becomes_an_error_with_what_may_help_below() -> None:
    expected = "error: Invalid choice 'x' for a flag. Expected y.\n      --y INT\n  For full helptext, run it │ this\n"
    assert unboxed(BOX) == expected
    assert unboxed(BOX.replace("Expected", "\x1b[31mExpected\x1b[0m")) == expected


def test_a_value_that_is_neither_a_number_nor_a_word(feddtl: Command) -> None:
    answer = feddtl("run", "--rl.noise-std", "big")
    assert answer.err.splitlines()[0] == "error: --rl.noise-std: ['big'] is not FLOAT|{auto}."


def test_a_box_without_utf8() -> None:
    """Where the output is not UTF-8, the box is a title above a rule, and its rules are of dashes."""
    box = "\n".join([" Invalid choice  ", " ------------- ", "  invalid choice", "  -----------", "  For help ", " "])
    assert unboxed(box) == "error: Invalid choice\n  For help\n"


def test_another_text_stays_as_it_is() -> None:
    assert unboxed("plain\n│ text\n") == "plain\n│ text\n"
    assert unboxed("") == ""


@pytest.mark.parametrize("code", [0, 2])
def test_only_what_goes_with_the_exit_code_of_bad_flags_is_changed(
    code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        with plain_parse_errors():
            print(BOX, end="", file=sys.stderr)
            sys.exit(code)

    with pytest.raises(SystemExit) as caught:
        refuse()
    assert caught.value.code == code
    assert capsys.readouterr().err == (unboxed(BOX) if code else BOX)


def test_what_is_said_of_flags_that_are_fine_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_parse_errors():
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().err == "a warning\n"


def test_a_misspelt_flag(feddtl: Command) -> None:
    answer = feddtl("run", "--rond", 3)
    first, *rest = answer.err.splitlines()
    assert (answer.code, first) == (2, "error: Unrecognized options: --rond, 3")
    assert all(line.startswith("  ") for line in rest)
    assert "      --rounds INT" in rest
