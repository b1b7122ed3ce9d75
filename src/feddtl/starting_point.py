"""The model of another run that a run starts from: what is taken, and whether it fits.

Taken is what the server had after the last finished round: the shared tensors and, of FedDTL, the text tower's. The
anchor of the RL stage starts as the model that was taken. What clients keep to themselves is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from feddtl.config import Experiment
from feddtl.errors import ConfigError, RunError, shown
from feddtl.experiment_file import settings_by_key
from feddtl.messages import ServerState, count_parameters
from feddtl.methods.base import Method
from feddtl.methods.catalog import method_class, method_entry, settings_table
from feddtl.methods.local_round import ANCHOR, SHARED
from feddtl.methods.lora import RESIDUAL
from feddtl.models.digests import digest_each, joint_digest
from feddtl.models.lora import Tensors
from feddtl.run_files import DATA, read_data
from feddtl.run_origin import different_parts, recorded_model, recorded_start
from feddtl.run_status import refuse_running
from feddtl.runs import RunFolder
from feddtl.tensor_groups import add_prefix, drop_groups
from feddtl.units import counted, first_few, listed

# Settings that decide which factors of LoRA there are, of which shape, and what they mean.
OF_LORA = tuple(
    f"lora.{name}" for name in ("rank", "alpha", "targets", "first_image_block", "first_text_block", "aggregation")
)
NAMED = 1  # tensors that an error names, of those that have the same fault


@dataclass(frozen=True)
class StartingPoint:
    """What a run takes from another one.

    Attributes:
        folder: Of the other run.
        experiment: Its experiment.
        rounds: Its finished rounds.
        tensors: What is taken: 'image/…', the same name whether clients or the server train it.
        keeps_parts: Whether its clients keep a part of the model.
    """

    folder: Path
    experiment: Experiment
    rounds: int
    tensors: Mapping[str, Tensor]
    keeps_parts: bool

    @property
    def origin(self) -> dict[str, Any]:
        """What origin.json has of it."""
        digests = digest_each(list(self.tensors), self.tensors.__getitem__)
        before = recorded_start(self.folder)
        return {
            "folder": str(self.folder),
            "method": self.experiment.method,
            "title": self.experiment.title,
            "rounds": self.rounds,
            "dataset": read_data(self.folder / DATA)["dataset"],
            "tensors": len(self.tensors),
            "sha256": joint_digest(digests),
            **({"started_from": before} if before else {}),
        }

    def require_same(self, begun: Path) -> None:
        """Raise RunError if a run that has begun took something else from the other run, which went on since."""
        if recorded_start(begun).get("sha256") != self.origin["sha256"]:
            raise RunError(
                f"{begun} has lost its first checkpoint, and {self.folder}, where it started, has changed since.",
                "Start a new run with another --output.",
            )

    @property
    def _note(self) -> str:
        """What is taken, and what is not."""
        text = (
            f"Starting from {self.folder} after round {self.rounds} of {self.experiment.rounds} "
            f"({self.experiment.title}): {counted(len(self.tensors), 'tensor')}, "
            f"{count_parameters(self.tensors):,} numbers."
        )
        return f"{text} The parts of the model that its clients keep are not taken." if self.keeps_parts else text

    def require_fit(self, experiment: Experiment, note: Callable[[str], None], method: Method) -> None:
        """Check that the tensors mean in a run what they meant where they come from.

        Args:
            experiment: Of the new run.
            note: Called with what is taken, and if the other run does not say what its model was.
            method: The method of the new run.

        Raises:
            ConfigError: They do not; the message says what differs.
        """
        recorded = recorded_model(self.folder)
        if different := different_parts(recorded, method.clip.identity()):
            raise ConfigError(
                f"init_from = {str(self.folder)!r}: its adapters belong to another model than {experiment.model_name}. "
                f"Other {different}.",
                f"Set model = {self.experiment.model_name!r}, as it was for that run, or start from a run of this one.",
            )
        if faults := [*self._other_tensors(experiment, method), *_other_values(self.experiment, experiment)]:
            raise ConfigError(
                f"init_from = {str(self.folder)!r} does not fit this run: {'; '.join(faults)}.",
                self._remedy(experiment),
            )
        if not recorded:
            note(
                f"{self.folder} was made by an earlier version, which did not record its model: whether "
                f"{experiment.model_name} is the same cannot be checked."
            )
        note(self._note)

    def state(self, method: Method) -> ServerState:
        """State of the server before round 1, for a method that fits."""
        start = method.init_server()
        own = drop_groups(start.tensors, SHARED, ANCHOR)
        shared = {name: value for name, value in self.tensors.items() if name not in own}
        taken = {**add_prefix(SHARED, shared), **{name: self.tensors[name] for name in own}}
        has_anchor = len(drop_groups(start.tensors, ANCHOR)) < len(start.tensors)
        return ServerState(start.round, {**taken, **(add_prefix(ANCHOR, shared) if has_anchor else {})})

    def _other_tensors(self, experiment: Experiment, method: Method) -> Iterator[str]:
        """How the tensors of a method differ from those here."""
        wanted = _model_of(method.init_server())
        # The residual is not there before the first aggregation.
        grown = f"{RESIDUAL}/" if experiment.aggregation == "residual" else None
        missing = [name for name in wanted if name not in self.tensors]
        left = [name for name in self.tensors if name not in wanted and not (grown and name.startswith(grown))]
        if missing:
            yield f"it lacks {counted(len(missing), 'tensor')} of {experiment.title} ({first_few(missing, NAMED)})"
        if left:
            yield f"{experiment.title} has no place for {counted(len(left), 'tensor')} ({first_few(left, NAMED)})"
        shapes = [
            f"{name} is {tuple(self.tensors[name].shape)} there, {tuple(value.shape)} here"
            for name, value in wanted.items()
            if name in self.tensors and self.tensors[name].shape != value.shape
        ]
        if shapes:
            yield first_few(shapes, NAMED)

    def _remedy(self, experiment: Experiment) -> str:
        """The settings of that run, as far as they differ."""
        there, here = (settings_by_key(one) for one in (self.experiment, experiment))
        own, entry = f"{settings_table(self.experiment.method)}.", method_entry(self.experiment.method)
        keys = ["method", *(OF_LORA if entry.has_lora else ()), *(key for key in there if key.startswith(own))]
        keys += ["seed"] if self.experiment.aggregation == "frozen-a" else []
        changes = [f"{key} = {shown(there[key])}" for key in keys if here.get(key) != there[key]]
        first = f"Set {listed(changes)}, as in that run" if changes else "Start from a run of the same method"
        return f"{first}, or omit init_from."


def starting_point(folder: Path) -> StartingPoint:
    """The starting point that a finished or stopped run is.

    Raises:
        ConfigError: The run trains nothing.
        RunError: There is no run, it is still running, or it has no finished round.
    """
    run = RunFolder.open(folder)
    refuse_running(folder)
    experiment = run.experiment
    if not experiment.trains:
        raise ConfigError(
            f"init_from = {str(folder)!r} is a run of {experiment.title}, which has no adapters.",
            "Start from a run of a method that trains, or omit init_from.",
        )
    progress = run.latest_progress()
    if progress is None or not progress.state.round:
        raise RunError(f"{folder} has no finished round to start from.", "Resume it first, or omit init_from.")
    # Over Flower, the personal tensors are not in the run folder.
    keeps_parts = method_class(experiment.method).initial_personal is not Method.initial_personal
    return StartingPoint(folder, experiment, progress.state.round, _model_of(progress.state), keeps_parts)


def _model_of(state: ServerState) -> Tensors:
    """The tensors of the model alone, without the group of those that are shared."""
    return {name.removeprefix(f"{SHARED}/"): value for name, value in drop_groups(state.tensors, ANCHOR).items()}


def _meaning(experiment: Experiment) -> dict[str, Any]:
    """What a model depends on beside its tensors, by name."""
    meaning: dict[str, Any] = {}
    if method_entry(experiment.method).has_lora:
        meaning["lora.alpha / lora.rank"] = experiment.lora.scaling
        if experiment.aggregation == "frozen-a":
            meaning["seed, from which the frozen A is drawn,"] = experiment.seed
    if experiment.method == "pfedmma":
        meaning["pfedmma.scale"] = experiment.method_settings.scale
    return meaning


def _other_values(before: Experiment, now: Experiment) -> Iterator[str]:
    """How two experiments differ in what their models depend on beside their tensors."""
    there, here = _meaning(before), _meaning(now)
    for key in there:
        if key in here and here[key] != there[key]:
            yield f"{key} is {there[key]} there, {here[key]} here"
