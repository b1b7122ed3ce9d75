"""Finds the experiment file, or the run to resume, among the words, before the flags over it are parsed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from feddtl.cli.command import Command, parse_flags
from feddtl.cli.flags import (
    ExperimentFile,
    Flags,
    FolderFlag,
    TrackFlag,
    parsed_experiment,
    with_config,
    with_experiment_flags,
)
from feddtl.cli.help_flags import HELP, HELP_ALL, asks_for_help, for_help
from feddtl.config import Experiment
from feddtl.errors import ConfigError
from feddtl.experiment_file import load_experiment
from feddtl.experiment_grid import CHOICE, split_choice
from feddtl.state_folder import expanded

Kind = TypeVar("Kind", bound="ExperimentCommand")
SWITCHES = (*HELP, HELP_ALL, "--json", "--quiet", "--tune")
NEGATIVE = re.compile(r"-[.\d].*")
# In a checkout a link to experiments/, which has each file once; in a wheel a folder.
SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "experiments"
MANY_VALUES = ("--grid", "--seeds", "--tune-grid", "--tune-rates", "--tune-seeds")


class ExperimentCommand(Command):
    """A command with the flags of an experiment, whose defaults are the values of the experiment file.

    Its fields include `experiment`, the file, and `config`; with a field `resume`, the defaults may be a run's.
    """

    @classmethod
    def parse(cls: type[Kind], name: str, words: Sequence[str]) -> Kind:
        """The command of the words, flags over the values of the file.

        Raises:
            ConfigError: The experiment file is missing or wrong, or there is no such method.
            RunError: The folder to resume contains no run.
        """
        command: Kind = parse_experiment_flags(name, words, _default(cls, words))
        return command


@dataclass(frozen=True)
class RunCommand(ExperimentCommand):
    """A command that runs an experiment into a folder."""

    experiment: ExperimentFile = None
    output: FolderFlag = None
    """New folder for the run; default: runs/<experiment>-seed<seed>."""
    resume: FolderFlag = None
    """Resume the run in this folder from its last checkpoint, with its settings; with --rounds, for more rounds."""
    json: bool = False
    """Print only the summary, as JSON, on standard output; no progress."""
    quiet: bool = False
    """No notes and no progress, only warnings and the final table."""
    track: TrackFlag = ()
    config: Flags = field(default_factory=Experiment)

    def output_or_resumed(self) -> Path | None:
        """The folder of the run that `--output` or `--resume` names. Raises ConfigError if both do."""
        if self.resume and self.output:
            raise ConfigError("--resume and --output were both given.", "--resume DIR continues in DIR itself.")
        return self.resume or self.output

    def require_free(self, output: Path) -> None:
        """Raise RunError if the folder is in use, or the run to start from is not there.

        This is before anything is imported that takes seconds, and before anything is sent to a server.
        """
        from feddtl.run_files import refuse_used, require_run
        from feddtl.run_status import refuse_running

        refuse_running(output)
        if not self.resume:
            refuse_used(output)
            if self.config.init_from:
                require_run(expanded(self.config.init_from))


def _default(kind: Any, words: Sequence[str]) -> Any:
    """The command over the experiment file or run in the words, with the flags of their method."""
    named, resume = next(positionals(words), None), _value_of("--resume", words)
    path = experiment_path(named) if named is not None else None
    if path is not None:
        experiment = load_experiment(path)
    elif resume is not None and any(flag.name == "resume" for flag in fields(kind)):
        experiment = _experiment_of_run(Path(resume))
    else:
        experiment = Experiment()
    method = _value_of("--method", words) or experiment.method
    return with_config(replace(with_experiment_flags(kind, method)(), experiment=path), experiment)


def parse_experiment_flags(name: str, words: Sequence[str], default: Any) -> Any:
    """The command of the flags over the values of `default`, with an experiment in `config`.

    Exits with 0 after `--help`, which shows the flags that people use most, and after `--help-all`.
    """
    if asks_for_help(words):
        shown = for_help(default, name, words, _value_of("--method", words) or default.config.method)
        parse_flags(type(shown), name, ["--help"], shown)
    command = parse_flags(type(default), name, words, default)
    return replace(command, config=parsed_experiment(command.config))


def experiment_path(word: str, preferred: str = "") -> Path:
    """The file, or FILE.toml::LABEL, that a word names.

    Args:
        word: A .toml file, or the name of an experiment inside feddtl, such as 'quickstart' or 'sweeps/rank'.
        preferred: Folder of the experiments inside feddtl that is looked into first.

    Raises:
        ConfigError: It is neither.
    """
    file, label = split_choice(Path(word))
    if file.suffix == ".toml":
        return Path(word)
    names = shipped_experiments()
    found = next((name for name in (f"{preferred}/{file}", str(file)) if name in names), None)
    if found is None:
        raise ConfigError(
            f"'{word}' is not an experiment file, and feddtl has no experiment of this name.",
            f"Pass a .toml file or a name first, then flags. Names: {', '.join(names)}.",
        )
    path = SHIPPED / f"{found}.toml"
    return Path(f"{path}{CHOICE}{label}") if label else path


def shipped_experiments() -> list[str]:
    """The experiments inside feddtl by name: those without a folder first."""
    names = [path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.glob("**/*.toml")]
    return sorted(names, key=lambda name: (name.count("/"), name))


def positionals(words: Sequence[str]) -> Iterator[str]:
    """Words that are neither flags nor their values; a switch has no value, most other flags have one."""
    values: float = 0  # how many of the next words belong to the flag
    for word in words:
        if _is_flag(word) and (values == 0 or values == math.inf):
            flag, equals, _ = word.partition("=")
            values = 0 if equals or flag in SWITCHES else math.inf if flag in MANY_VALUES else 1
        elif values:
            values -= 1
        else:
            yield word


def _is_flag(word: str) -> bool:
    """Whether a word is the name of a flag, and not a negative number."""
    return word.startswith("-") and not NEGATIVE.fullmatch(word)


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for index, word in enumerate(words):
        if word == flag and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _experiment_of_run(folder: Path) -> Experiment:
    from feddtl.run_files import CONFIG, read_experiment, require_run

    require_run(folder)
    return read_experiment(folder / CONFIG)
