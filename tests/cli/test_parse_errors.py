"""Flags that cannot be read are told as other errors are, without the parser's boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli.small_runs import Command, refused

from feddtl.cli.parse_errors import plain_parse_errors, unboxed

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.toml"
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
    expected = "error: Invalid choice 'x' for a flag. Expected y.\n      --y INT\n  See `it │ this`.\n"
    assert unboxed(BOX) == expected
    assert unboxed(BOX.replace("Expected", "\x1b[31mExpected\x1b[0m")) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--rl.noise-std", "big"), "--rl.noise-std: 'big' is not a number or 'auto'."),
        (("run", "--rounds", "x"), "--rounds: 'x' is not a whole number."),
        (("run", "--data.alpha", "x"), "--data.alpha: 'x' is not a number."),
        (("compare", QUICKSTART, "--seeds", "0", "1.5"), "--seeds: not all whole numbers: '0', '1.5'."),
        (("compare", QUICKSTART, "--tune", "--tune-rates", "abc"), "--tune-rates: not all numbers: 'abc'."),
    ],
)
def test_a_value_of_the_wrong_type(feddtl: Command, words: tuple[object, ...], said: str) -> None:
    answer = feddtl(*words)
    assert (answer.code, answer.err.splitlines()[0]) == (2, f"error: {said}")


@pytest.mark.parametrize("flag", ["--seeds", "--tune-seeds"])
def test_a_negative_seed_is_a_value_and_out_of_range(feddtl: Command, flag: str) -> None:
    """It is no flag, so the words after it are what they are elsewhere."""
    refused(feddtl("compare", QUICKSTART, "--tune", flag, 0, -1, "--output", "runs/x"), f"{flag} = -1 is out of range")


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
    assert (answer.code, first) == (2, "error: Unrecognized options: --rond")
    assert all(line.startswith("  ") for line in rest)
    assert "      --rounds INT" in rest
    assert rest[-1] == "  See `feddtl run --help`."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("run", "--gpu", 0, "--lr=1"),
            ["--gpu is --compute.device cuda here.", "--lr is --local.learning-rate here."],
        ),
        (("compare", QUICKSTART, "--workers", 2), ["--workers is --compute.loading-threads here."]),
        (("evaluate", "run", "--dataset", "pets"), ["--dataset is --data.source here."]),
        (("predict", "run", "a.png", "--topk", 3), ["--topk is --top-k here."]),
        (("embed", "run", "a.png", "--output", "a.npz", "--device", "cpu"), ["--device is --compute.device here."]),
    ],
)
def test_flags_of_other_programs(feddtl: Command, words: tuple[object, ...], said: list[str]) -> None:
    """Their counterparts and nothing else: no list of flags with a similar name."""
    answer = feddtl(*words)
    assert answer.code == 2
    assert answer.err.splitlines()[1:] == [f"  {line}" for line in [*said, f"See `feddtl {words[0]} --help`."]]
