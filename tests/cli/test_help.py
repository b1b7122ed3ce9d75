"""Help is instant, because nothing heavy is imported for it, and names every key as a flag."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
from cli.small_runs import Command

import feddtl as feddtl_package
from feddtl.cli.commands import COMMANDS
from feddtl.config import Experiment
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
    """Twice that is allowed here: a test machine may be busy."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "feddtl", *words, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    assert statistics.median(seconds) < 2


def test_every_key_is_a_flag(feddtl: Command) -> None:
    text = feddtl("run", "--help").out
    for key in flatten(experiment_to_dict(Experiment())):
        assert f"--{key.replace('_', '-')} " in text


def test_a_comparison_offers_every_flag_but_the_one_it_refuses(feddtl: Command) -> None:
    text = feddtl("compare", "--help").out
    missing = [key for key in flatten(experiment_to_dict(Experiment())) if f"--{key.replace('_', '-')} " not in text]
    assert missing == ["seed"]


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
