"""The model of a run, opened for export, and what every export has beside its own files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from feddtl.errors import RunError
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.classifier import Classifier
from feddtl.models.backbone import Backbone
from feddtl.models.text_tower import prompts_for
from feddtl.preparation import method_of_run, model_of_run
from feddtl.prompts import templates_of
from feddtl.runs import RunFolder
from feddtl.storage import storage_errors, write_json_atomic
from feddtl.trained_model import AS_IT_IS, EXPORTED_CLASSES

Note = Callable[[str], None]


@dataclass(frozen=True)
class RunModel:
    """A run's model after its last finished round.

    Attributes:
        run: The run.
        clip: The frozen backbone, on the CPU and in float32.
        method: The method, on the run's base classes.
        state: Server state; that before round 1 for a method without training.
    """

    run: RunFolder
    clip: Backbone
    method: Method
    state: ServerState

    @cached_property
    def data(self) -> dict[str, Any]:
        """The content of data.json."""
        return self.run.data

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the run's data, base classes first."""
        return (*self.data["base_classes"], *self.data["novel_classes"])

    @property
    def prompt(self) -> str:
        """The template of the run, or several, a line each; empty if the method learns its prompts."""
        return "" if self.method.learns_prompts else self.method.prompt

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates of the run's prompt; none if the method learns its prompts."""
        return templates_of(self.prompt) if self.prompt else ()

    @property
    def classifier(self) -> Classifier:
        """The global model."""
        return self.method.classifier(self.state)

    @property
    def classes(self) -> dict[str, Any]:
        """The content of classes.json: classes and prompt, also as arguments of a pipeline of transformers.

        A pipeline takes one template: of several, the first; for learned prompts, the names as they are.
        """
        return {
            "class_names": list(self.class_names),
            "base_classes": list(self.data["base_classes"]),
            "novel_classes": list(self.data["novel_classes"]),
            "prompt_template": self.prompt,
            "candidate_labels": prompts_for(self.class_names, AS_IT_IS),
            "hypothesis_template": as_format((*self.templates, AS_IT_IS)[0]),
            "logit_scale": self.clip.logit_scale,
        }

    def write_classes(self, folder: Path) -> None:
        """Write classes.json."""
        write_json_atomic(folder / EXPORTED_CLASSES, self.classes)


def open_run_model(folder: Path, output: Path, note: Note) -> RunModel:
    """Load a run's model.

    Args:
        folder: Of the run.
        output: Folder of the export, new or empty.
        note: Called with notes for the user.

    Raises:
        RunError: No run in `folder`, no finished round, another model than that of the run, or a non-empty `output`.
    """
    with storage_errors(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunError(f"{output} is not empty; nothing was changed.", "Choose a new folder.")
    run = RunFolder.open(folder)
    experiment = run.experiment
    clip = model_of_run(run, experiment, note=note)
    return RunModel(run, clip, *method_of_run(run, experiment, clip))


def as_format(template: str) -> str:
    """A template with `{class}` as one for `str.format` with a single value, `{}`."""
    escaped = template.replace("{", "{{").replace("}", "}}")
    return escaped.replace("{{class}}", "{}")
