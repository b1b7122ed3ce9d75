"""Kinds of flags that several commands have."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from feddtl.config import Experiment
from feddtl.methods.tables import MethodTables, settings_types

Command = TypeVar("Command")

# For a flag whose help text states its default; tyro would add "(default: None)".
STATED = ""
ExperimentFile = Annotated[
    Path | None,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml",
        help="Experiment file, FILE.toml::LABEL if it has several, or a name: quickstart; default: all defaults.",
        help_behavior_hint=STATED,
    ),
]
ExperimentFiles = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml [EXPERIMENT.toml ...]",
        help="Experiment files with different names, FILE.toml::PATTERN for some of one, or names such as quickstart.",
        help_behavior_hint=STATED,
    ),
]
FolderFlag = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint=STATED)]
DeviceFlag = Annotated[str, tyro.conf.arg(name="compute.device")]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
# The flags of an experiment depend on its method, so `with_experiment_flags` gives a command its final type.
Flags = Annotated[Experiment, tyro.conf.Suppress, tyro.conf.Fixed]
ClassList = Literal["base", "novel", "all"]
TrackFlag = tyro.conf.UseAppendAction[
    Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TRACKER[,TRACKER]",
            help="Pass the numbers of each round to trackers: tensorboard, mlflow, wandb, trackio. See "
            "docs/how-to/track-a-run.md.",
            help_behavior_hint=STATED,
        ),
    ]
]


def with_experiment_flags(command: type[Command], method: str, *, seed: bool = True) -> type[Command]:
    """The command with a flag for every key of an experiment: `--rounds`, `--data.source`, `--promptfl.init-std`.

    Args:
        command: A command with a field `config`.
        method: The experiment's method; a method outside the catalogue adds flags for its settings.
        seed: Whether there is a flag for the seed.
    """
    hidden: list[tuple[str, Any, Any]] = [("methods", _hidden(MethodTables), MethodTables())]
    if not seed:
        hidden.append(("seed", _hidden(int), 0))
    # tyro reads the source files for each description of a table that it is not given, and only help shows them.
    undescribed = {"help": ""}
    kinds = {**_tables_of(Experiment), **settings_types(method)}
    tables = [(name, kind, field(default_factory=kind, metadata=undescribed)) for name, kind in kinds.items()]
    flags = make_dataclass("Experiment", [*hidden, *tables], bases=(Experiment,), frozen=True)
    # No prefix of its own: the flags are the keys of the file.
    config = ("config", Annotated[flags, tyro.conf.arg(name="")], field(default_factory=flags))
    namespace = {"__doc__": command.__doc__}
    return make_dataclass(command.__name__, [config], bases=(command,), frozen=True, namespace=namespace)


def with_config(command: Any, experiment: Experiment) -> Any:
    """A command of `with_experiment_flags` with the values of an experiment."""
    kind = type(command).__dataclass_fields__["config"].default_factory
    known = {name: value for name, value in vars(experiment).items() if name != "methods"}
    return replace(command, config=kind(**known, **experiment.methods.all(experiment.method)))


def parsed_experiment(config: Experiment) -> Experiment:
    """The experiment that the flags describe, with the settings of the methods in `methods`.

    Raises:
        ConfigError: A file of class names cannot be read.
    """
    own = {field.name for field in fields(Experiment)} - {"methods"}
    values = {name: value for name, value in vars(config).items() if name in own}
    tables = {name: value for name, value in vars(config).items() if name not in {*own, "methods"}}
    values["data"] = values["data"].with_files_read()
    return Experiment(**values, methods=MethodTables.from_mapping(tables))


def _tables_of(kind: type[Any]) -> dict[str, Any]:
    """The types of the tables in an experiment, but for those of the methods."""
    found = {each.name: each.default_factory for each in fields(kind) if is_dataclass(each.default_factory)}
    return {name: table for name, table in found.items() if table is not MethodTables}


def _hidden(kind: type[Any]) -> Any:
    return Annotated[kind, tyro.conf.Suppress, tyro.conf.Fixed]
