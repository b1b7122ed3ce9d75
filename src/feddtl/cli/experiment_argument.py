"""Finds the experiment file, or the run to resume, among the words, before the flags that override it are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from feddtl.cli.commands import Compare, Partition, Run
from feddtl.config import Experiment
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import experiment_from_dict, load_experiment

Kind = TypeVar("Kind", Run, Partition)
SWITCHES = ("-h", "--help", "--json", "--quiet")
MANY_VALUES = ("--seeds",)


def experiment_default(kind: type[Kind], words: Sequence[str]) -> Kind:
    """The command with the experiment that the words name: a file, or else the run to resume.

    Raises:
        ConfigError: The experiment file is missing or wrong.
        RunError: The folder to resume holds no run.
    """
    named = next(positionals(words), None)
    if named is not None:
        path = experiment_path(named)
        return replace(kind(), experiment=path, config=load_experiment(path))
    resume = _value_of("--resume", words)
    if kind is Run and resume is not None:
        return replace(kind(), config=_experiment_of_run(Path(resume)))
    return kind()


def comparison_defaults(words: Sequence[str]) -> dict[Path, Compare]:
    """The command once for each experiment file that the words name, with the values of the file.

    Raises:
        ConfigError: There is no file, one is missing or wrong, or two have one name.
    """
    paths = [experiment_path(word) for word in positionals(words)]
    if not paths:
        raise ConfigError("There is no experiment to compare.", "Give one or more experiment files, then flags.")
    by_name: dict[str, Path] = {}
    for path in paths:
        if (other := by_name.setdefault(path.stem, path)) is not path:
            raise ConfigError(
                f"Two experiment files are called '{path.stem}': {other} and {path}.",
                "Their runs would have one folder; rename one of them.",
            )
    return {path: Compare(experiments=tuple(paths), config=load_experiment(path)) for path in paths}


def experiment_path(word: str) -> Path:
    """The file that a word names. Raises ConfigError if it cannot be an experiment's."""
    if not word.endswith(".toml"):
        raise ConfigError(f"'{word}' is not an experiment file.", "Give a .toml file first, then flags.")
    return Path(word)


def positionals(words: Sequence[str]) -> Iterator[str]:
    """Words that are neither flags nor values of one; a switch has no value, most other flags have one."""
    values: float = 0  # how many of the next words belong to the flag
    for word in words:
        if word.startswith("-") and (values == 0 or values == math.inf):
            flag, equals, _ = word.partition("=")
            values = 0 if equals or flag in SWITCHES else math.inf if flag in MANY_VALUES else 1
        elif values:
            values -= 1
        else:
            yield word


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
