"""Kinds of flags that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from feddtl.config import Experiment

# Of a flag whose text says what holds without it; tyro would add "(default: None)".
UNSAID = ""
ExperimentFile = Annotated[
    Path | None,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml",
        help="Experiment file, or FILE.toml::LABEL where it has several; see experiments/; without one, defaults.",
        help_behavior_hint=UNSAID,
    ),
]
ExperimentFiles = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="EXPERIMENT.toml [EXPERIMENT.toml ...]",
        help="Experiment files with different names, or FILE.toml::PATTERN for some experiments of one.",
        help_behavior_hint=UNSAID,
    ),
]
FolderFlag = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint=UNSAID)]
# No prefix of its own: the flags are the keys of the file, `--rounds`, `--data.source`.
Flags = Annotated[Experiment, tyro.conf.arg(name="")]
ClassList = Literal["base", "novel", "all"]
TrackFlag = tyro.conf.UseAppendAction[
    Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TRACKER",
            help="Hand the numbers of each round to a tracker, 'tensorboard'; may be given several times. "
            "See docs/how-to/track-a-run.md.",
            help_behavior_hint=UNSAID,
        ),
    ]
]
