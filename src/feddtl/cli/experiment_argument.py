"""Finds the experiment file, or the run to resume, among the words, before the flags that override it are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from feddtl.cli.commands import Partition, Run
from feddtl.config import Experiment
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import experiment_from_dict, load_experiment
from feddtl.experiment_grid import split_choice

Kind = TypeVar("Kind", Run, Partition)
SWITCHES = ("-h", "--help", "--json", "--quiet")


def experiment_default(kind: type[Kind], words: Sequence[str]) -> Kind:
    """The command with the experiment that the words name: a file, or else the run to resume.

    Raises:
        ConfigError: The experiment file is missing or wrong.
        RunError: The folder to resume holds no run.
    """
    named = _first_positional(words)
    if named is not None:
        if split_choice(Path(named))[0].suffix != ".toml":
            raise ConfigError(f"'{named}' is not an experiment file.", "Give a .toml file first, then flags.")
        return replace(kind(), experiment=Path(named), config=load_experiment(Path(named)))
    resume = _value_of("--resume", words)
    if kind is Run and resume is not None:
        return replace(kind(), config=_experiment_of_run(Path(resume)))
    return kind()


def _first_positional(words: Sequence[str]) -> str | None:
    """The first word that is neither a flag nor the value of one; every flag but a switch has a value."""
    is_value = False
    for word in words:
        if word.startswith("-") and not is_value:
            is_value = word not in SWITCHES and "=" not in word
        elif is_value:
            is_value = False
        else:
            return word
    return None


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for index, word in enumerate(words):
        if word == flag and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _experiment_of_run(folder: Path) -> Experiment:
    # Read here and not through RunFolder, which needs torch: `--help` must stay instant.
    path = folder / "config.json"
    try:
        return experiment_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise RunError(
            f"There is no run in {folder}.", "Give the --output folder of an earlier run (it has a config.json)."
        ) from None
    except (ValueError, ConfigError) as error:
        raise RunError(f"{path} cannot be used: {error}", "Start a new run with another --output.") from None
