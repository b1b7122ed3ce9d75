"""The model of a run, opened for export, and what every export has beside its own files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddtl.errors import RunError
from feddtl.messages import ServerState
from feddtl.methods.base import Method
from feddtl.methods.catalog import build_method
from feddtl.methods.classifier import Classifier
from feddtl.methods.task import Task
from feddtl.models.backbone import Backbone
from feddtl.preparation import model_of_run
from feddtl.run_files import resuming
from feddtl.runs import RunFolder
from feddtl.storage import storage_errors, write_json_atomic

Note = Callable[[str], None]
CLASSES = "classes.json"


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

    @property
    def data(self) -> dict[str, Any]:
        """The content of data.json."""
        return self.run.data

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the run's data, base classes first."""
        return (*self.data["base_classes"], *self.data["novel_classes"])

    @property
    def classifier(self) -> Classifier:
        """The global model."""
        return self.method.classifier(self.state)

    @property
    def classes(self) -> dict[str, Any]:
        """The content of classes.json: classes and prompt, also as arguments of a pipeline of transformers."""
        template = self.data["prompt_template"]
        return {
            "class_names": list(self.class_names),
            "base_classes": list(self.data["base_classes"]),
            "novel_classes": list(self.data["novel_classes"]),
            "prompt_template": template,
            "candidate_labels": [name.replace("_", " ") for name in self.class_names],
            "hypothesis_template": as_format(template),
            "logit_scale": self.clip.logit_scale,
        }

    def write_classes(self, folder: Path) -> None:
        """Write classes.json."""
        write_json_atomic(folder / CLASSES, self.classes)


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
    progress = run.latest_progress()
    experiment, data = run.experiment, run.data
    clip = model_of_run(run, experiment, note=note)
    task = Task(clip, tuple(data["base_classes"]), data["prompt_template"], experiment.seed)
    method = build_method(task, experiment)
    if progress is None and method.trains:
        raise RunError(f"{folder} has no finished round.", f"Resume it: {resuming(folder)}.")
    return RunModel(run, clip, method, progress.state if progress else method.init_server())


def as_format(template: str) -> str:
    """A template with `{class}` as one for `str.format` with a single value, `{}`."""
    escaped = template.replace("{", "{{").replace("}", "}}")
    return escaped.replace("{{class}}", "{}")
