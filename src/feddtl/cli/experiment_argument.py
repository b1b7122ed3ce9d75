"""Finds the experiment file, or the run to resume, among the words, before the flags that override it are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from feddtl.cli.commands import Partition, Run
from feddtl.cli.deployment_commands import Submit
from feddtl.cli.flags import with_config, with_experiment_flags
from feddtl.config import Experiment
from feddtl.dotted import flatten, with_values
from feddtl.errors import ConfigError, RunError
from feddtl.experiment_file import experiment_from_dict, experiment_to_dict, load_experiment, load_experiments
from feddtl.experiment_grid import split_choice

Kind = TypeVar("Kind", bound=Run | Partition | Submit)
SWITCHES = ("-h", "--help", "--json", "--quiet")
MANY_VALUES = ("--seeds",)


def experiment_default(kind: type[Kind], words: Sequence[str]) -> Kind:
    """The command with the experiment that the words name: a file, or else the run to resume.

    Its type has the flags of the method that the words or the experiment name.

    Raises:
        ConfigError: The experiment file is missing or wrong, or there is no such method.
        RunError: The folder to resume holds no run.
    """
    named, resume = next(positionals(words), None), _value_of("--resume", words)
    path = experiment_path(named) if named is not None else None
    if path is not None:
        experiment = load_experiment(path)
    elif kind in (Run, Submit) and resume is not None:
        experiment = _experiment_of_run(Path(resume))
    else:
        experiment = Experiment()
    method = _value_of("--method", words) or experiment.method
    command = with_experiment_flags(kind, method)()
    return with_config(replace(command, experiment=path), experiment)  # type: ignore[no-any-return]


def comparison_experiments(words: Sequence[str]) -> dict[str, Experiment]:
    """The experiments of all files that the words name, by name, with the values of the files.

    Raises:
        ConfigError: There is no file, one is missing or wrong, or two experiments have one name.
    """
    found: dict[str, tuple[Path, Experiment]] = {}
    for path in map(experiment_path, positionals(words)):
        for name, experiment in load_experiments(path).items():
            if name in found:
                raise ConfigError(
                    f"Two experiments are called '{name}': one of {found[name][0]} and one of {path}.",
                    "Their runs would have one folder; rename one of the files.",
                )
            found[name] = (path, experiment)
    if not found:
        raise ConfigError("There is no experiment to compare.", "Give one or more experiment files, then flags.")
    return {name: experiment for name, (_, experiment) in found.items()}


def with_flags(
    experiments: Mapping[str, Experiment], parsed: Experiment, words: Sequence[str]
) -> dict[str, Experiment]:
    """Every experiment with the settings that are flags among the words, which `parsed` has the values of.

    Raises:
        ConfigError: A value does not fit an experiment, or the flags leave nothing to compare between two.
    """
    settings = flatten(experiment_to_dict(parsed))
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    changes = {key: value for key, value in settings.items() if key in flags}
    found: dict[str, Experiment] = {}
    for name, experiment in experiments.items():
        try:
            changed = experiment_from_dict(with_values(experiment_to_dict(experiment), changes))
        except ConfigError as error:
            raise ConfigError(f"{name} with these flags: {error.message}", error.hint) from None
        twin = next((other for other, known in found.items() if known == changed), None)
        if twin is not None:
            raise ConfigError(
                f"{twin} and {name} are the same experiment with these flags.",
                "Leave out the flag that makes them one, or choose among a file's experiments with FILE.toml::LABEL.",
            )
        found[name] = changed
    return found


def experiment_path(word: str) -> Path:
    """The file, or FILE.toml::LABEL, that a word names. Raises ConfigError if it cannot be an experiment's."""
    if split_choice(Path(word))[0].suffix != ".toml":
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
    except ConfigError as error:
        raise RunError(
            f"{path} was written by another version: {error.message}",
            "Use that version, or start a new run with another --output.",
        ) from None
    except ValueError as error:
        raise RunError(f"Cannot read {path}: {error}.", "Start a new run with another --output.") from None
