"""The command line: `feddtl run | compare | evaluate | …`.

Heavy imports happen inside the commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, TypeVar

import tyro

from feddtl.cli.commands import Cache, Compare, Doctor, Evaluate, Export, Partition, Report, Run
from feddtl.cli.deployment_commands import Client, Keys, Server, Submit
from feddtl.cli.experiment_argument import comparison_experiments, experiment_default, with_flags
from feddtl.cli.flags import parsed_experiment, with_config, with_experiment_flags
from feddtl.cli.parse_errors import plain_parse_errors
from feddtl.errors import ConfigError, FeddtlError

DESCRIPTION = "Federated fine-tuning of CLIP: images stay on the clients, one model understands all of them."
# `--json`, without a `--no-json` beside it.
SWITCHES = (tyro.conf.FlagCreatePairsOff,)
WithExperiment = Run | Partition | Submit
AnyCommand = TypeVar("AnyCommand", bound=Run | Partition | Submit | Compare)
WITH_EXPERIMENT: dict[str, type[WithExperiment]] = {
    "run": Run,
    "partition": Partition,
    "submit": Submit,
}
Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Partition, tyro.conf.subcommand("partition")]
    | Annotated[Keys, tyro.conf.subcommand("keys")]
    | Annotated[Server, tyro.conf.subcommand("server")]
    | Annotated[Client, tyro.conf.subcommand("client")]
    | Annotated[Submit, tyro.conf.subcommand("submit")]
    | Annotated[Cache, tyro.conf.subcommand("cache")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a FeddtlError, 130 interrupted. Bad flags exit with 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"feddtl {version('feddtl')}")
        return 0
    try:
        with plain_parse_errors():
            command = _parse(words)
        code = command.execute()
        sys.stdout.flush()
        return code
    except FeddtlError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has gone; what Python writes on its way out must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(words: Sequence[str]) -> Command:
    if words and words[0] == "compare":
        return _parse_comparison(words[1:])
    if words and words[0] in WITH_EXPERIMENT:
        return _parse_with_experiment(words)
    command: Command = tyro.cli(Command, prog="feddtl", args=words, description=DESCRIPTION, config=SWITCHES)
    return command


def _parse_with_experiment(words: Sequence[str]) -> WithExperiment:
    """Flags of an experiment, with the values of the TOML file among the words as their defaults."""
    default = experiment_default(WITH_EXPERIMENT[words[0]], words[1:])
    return _parse_flags(f"feddtl {words[0]}", default, words[1:])


def _parse_comparison(words: Sequence[str]) -> Compare:
    """The same flags over each experiment of the files, as `run` reads them over one."""
    if any(word.partition("=")[0] == "--seed" for word in words):
        raise ConfigError("--seed was given, but a comparison has several.", "Give --seeds, with one seed or more.")
    if not {"-h", "--help"}.isdisjoint(words):
        return _parse_flags("feddtl compare", with_experiment_flags(Compare, "", seed=False)(), words)
    experiments = comparison_experiments(words)
    # Parsed once: a table has hundreds of experiments, and each parse takes a third of a second.
    name, first = next(iter(experiments.items()))
    try:
        default = with_config(with_experiment_flags(Compare, first.method, seed=False)(), first)
        command = _parse_flags("feddtl compare", default, words)
    except ConfigError as error:
        raise ConfigError(f"{name} with these flags: {error.message}", error.hint) from None
    compared: Compare = replace(command, resolved=with_flags(experiments, command.config, words))
    return compared


def _parse_flags(prog: str, default: AnyCommand, words: Sequence[str]) -> AnyCommand:
    command: AnyCommand = tyro.cli(type(default), prog=prog, args=words, config=SWITCHES, default=default)
    return replace(command, config=parsed_experiment(command.config))


__all__ = ["Command", "main"]
