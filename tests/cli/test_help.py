"""Help is instant, because nothing heavy is imported for it, and names every key as a flag."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from itertools import pairwise

import pytest
from cli.small_runs import Command

import feddtl as feddtl_package
from feddtl.cli.commands import COMMANDS
from feddtl.cli.help_flags import OF_A_PARTITION, OF_A_RUN, field_docstrings
from feddtl.cli.parse_errors import HERE
from feddtl.config import DataConfig, Experiment
from feddtl.dotted import flatten
from feddtl.experiment_file import experiment_to_dict

HEAVY = (
    "tensorboard",
    "mlflow",
    "wandb",
    "trackio",
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "matplotlib",
    "PIL",
    "safetensors",
    "pandas",
    "pyarrow",
    "flwr",
    "typer",
)
REPORT = f"""
import sys
from feddtl.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("imported:", [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("words", [(), *((command,) for command in COMMANDS)])
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", REPORT, *words, "--help"], capture_output=True, text=True, check=True
    )
    assert "imported: []" in process.stderr
    assert "usage: feddtl" in process.stdout


@pytest.mark.parametrize("words", [(), ("run",)])
def test_help_answers_in_a_second(words: tuple[str, ...]) -> None:
    """Of work: on a busy machine, a process waits. Twice that is allowed here, for a slow one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "feddtl", *words, "--help"], capture_output=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_every_key_is_a_flag(feddtl: Command) -> None:
    text = feddtl("run", "--help-all").out
    for key in flatten(experiment_to_dict(Experiment())):
        assert f"--{key.replace('_', '-')} " in text


def test_a_comparison_offers_every_flag_but_the_one_it_refuses(feddtl: Command) -> None:
    text = feddtl("compare", "--help-all").out
    missing = [key for key in flatten(experiment_to_dict(Experiment())) if f"--{key.replace('_', '-')} " not in text]
    assert missing == ["seed"]


@pytest.mark.parametrize("command", ["run", "compare", "partition", "submit"])
def test_help_is_short_and_names_the_way_to_all_of_it(feddtl: Command, command: str) -> None:
    short, whole = feddtl(command, "--help").out, feddtl(command, "--help-all").out
    assert f"feddtl {command} --help-all" in " ".join(short.split())
    assert len(short.splitlines()) < 130 < 400 < len(whole.splitlines())
    assert "--data.clients" in short
    assert "--afedpg." not in short


def test_help_shows_what_the_method_alone_has(feddtl: Command) -> None:
    assert "--fedpgp." in feddtl("run", "--method", "fedpgp", "--help").out
    assert "--fedpgp." not in feddtl("run", "--help").out


def test_every_flag_of_the_short_help_is_a_setting() -> None:
    known = flatten(experiment_to_dict(Experiment()))
    assert {*OF_A_RUN, *OF_A_PARTITION} - set(known) == set()


def test_descriptions_are_one_paragraph(feddtl: Command) -> None:
    """A docstring of two lines is broken where the terminal ends, and nowhere else."""
    text = " ".join(feddtl("run", "--help-all").out.replace("│", " ").split())
    for kind in (Experiment, DataConfig):
        for name, meaning in field_docstrings(kind).items():
            assert name == "methods" or meaning.split(" (")[0][:60] in text


@pytest.mark.parametrize("command", ["run", "compare", "status", "predict", "evaluate"])
def test_help_fits_the_terminal(feddtl: Command, command: str) -> None:
    """A command's description is broken between words, and no line of a flag's is left half empty."""
    lines = feddtl(command, "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    # A line with one word of a sentence, and a further line in the same column.
    alone = re.compile(r"│ {5,}([a-z]+,?) +│")
    ragged = [
        line for line, after in pairwise(lines) if (found := alone.fullmatch(line)) and after[found.start(1)] != " "
    ]
    assert ragged == []


@pytest.mark.parametrize(
    ("flags", "instead"),
    [
        (("--lr", "0.1"), "--lr is --local.learning-rate here."),
        (("--batch_size=3",), "--batch-size is --local.batch-size here."),
        (("--shots", "4", "--epochs", "3"), "--epochs is --local.epochs here."),
    ],
)
def test_flags_of_other_programs_have_a_counterpart(feddtl: Command, flags: tuple[str, ...], instead: str) -> None:
    answer = feddtl("run", *flags)
    assert answer.code == 2
    assert instead in answer.err
    assert "here." not in feddtl("evaluate", "runs", *flags).err


def test_counterparts_are_flags(feddtl: Command) -> None:
    text = feddtl("run", "--help-all").out
    assert [flag for flag in HERE.values() if f"{flag.split()[0]} " not in text] == []
    assert [flag for flag in HERE if f" {flag} " in text] == []


def test_help_shows_the_values_of_the_file(feddtl: Command, tmp_path: object) -> None:
    with open("mine.toml", "w") as file:  # noqa: PTH123
        file.write("rounds = 77\n")
    assert "(default: 77)" in feddtl("run", "mine.toml", "--help").out


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`feddtl run --help | head -1` prints a line and no traceback."""
    process = subprocess.run(
        f"{sys.executable} -m feddtl run --help | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("usage: feddtl run")
    assert process.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_default_that_says_nothing(feddtl: Command, command: str) -> None:
    """What holds without a flag is in its words; '' is left where they say what an empty text means."""
    text = " ".join(feddtl(command, "--help").out.replace("│", " ").split())
    assert "(default: None)" not in text
    assert "(default: )" not in text
    for words in text.split("(default: '')")[:-1]:
        assert "empty: " in words[-400:]


def test_version(feddtl: Command) -> None:
    answer = feddtl("--version")
    assert (answer.code, answer.out) == (0, f"feddtl {feddtl_package.__version__}\n")
