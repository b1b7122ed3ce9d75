"""The model of a run, and its predictions for images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from feddtl.config import Experiment
from feddtl.data.decode import upright_rgb
from feddtl.errors import RunError
from feddtl.methods.base import Method
from feddtl.methods.catalog import build_method
from feddtl.methods.classifier import Classifier
from feddtl.methods.task import Task
from feddtl.models.backbone import Backbone
from feddtl.models.class_texts import require_distinct
from feddtl.preparation import model_of_run
from feddtl.run_files import resuming
from feddtl.runs import RunFolder


class Prediction(NamedTuple):
    """A prediction for one image.

    Attributes:
        class_name: The most likely class name.
        probability: Its probability, 0 to 1.
    """

    class_name: str
    probability: float


@dataclass(frozen=True)
class TrainedModel:
    """A run's model; see `load_trained_model`.

    Attributes:
        experiment: The experiment of the run.
        clip: The frozen backbone.
        method: The method, on the run's base classes.
        classifier: Both towers after the last finished round.
        class_names: All classes of the run's data, base classes first.
    """

    experiment: Experiment
    clip: Backbone
    method: Method
    classifier: Classifier
    class_names: tuple[str, ...]

    def predict(self, images: Sequence[Image.Image], class_names: Sequence[str] = ()) -> list[Prediction]:
        """The most likely class of each image.

        Args:
            images: N images of any size and mode; the model sees them as it sees an image file.
            class_names: Names to choose from, any words; if empty, the classes of the run's data.

        Returns:
            N predictions, in order.

        Raises:
            DataError: The model reads two of the names as the same text, or an image cannot be converted to 8-bit RGB,
                see `feddtl.data.depth`.
        """
        names = tuple(class_names) or self.class_names
        best = self.probabilities(images, names).max(dim=1)
        return [
            Prediction(names[at], value) for at, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def probabilities(self, images: Sequence[Image.Image], class_names: Sequence[str] = ()) -> Tensor:
        """Probability of each class for each image, (N, C) on the CPU; rows sum to 1. The rest is as in `predict`."""
        names = tuple(class_names) or self.class_names
        require_distinct(self.clip.text, names, self.method.task.prompt_template)
        text = self.classifier.text_embeddings(names)  # (C, e)
        parts = [torch.empty(0, len(text))]
        size = self.classifier.images_per_pass
        for start in range(0, len(images), size):
            batch = [
                upright_rgb(image, f"at position {start + number}")
                for number, image in enumerate(images[start : start + size])
            ]
            pixels = self.clip.image.preprocess(batch).to(self.clip.image.device)
            activations = self.clip.image.prefix(pixels, self.method.first_image_block)
            logits = self.clip.logit_scale * self.classifier.image_features(activations) @ text.T
            parts.append(logits.softmax(dim=-1).cpu())
        return torch.cat(parts)


def load_trained_model(
    folder: Path, device: str = "auto", prompt: str = "", note: Callable[[str], None] = lambda text: None
) -> TrainedModel:
    """The model of a run after its last finished round.

    Args:
        folder: Folder of the run.
        device: See `ComputeConfig.device`.
        prompt: Template for class names; if empty, the run's own.
        note: Called with notes for the user.

    Raises:
        RunError: There is no run, no finished round, or another model than that of the run.
    """
    run = RunFolder.open(folder)
    experiment, data = run.experiment, run.data
    clip = model_of_run(run, experiment, device, note)
    clip.use(run.kernels)
    task = Task(clip, tuple(data["base_classes"]), prompt or data["prompt_template"], experiment.seed)
    method = build_method(task, experiment)
    progress = run.latest_progress()
    if progress is None and method.trains:
        raise RunError(f"{folder} has no finished round.", f"Go on with it: {resuming(folder)}.")
    state = progress.state if progress else method.init_server()
    names = (*data["base_classes"], *data["novel_classes"])
    return TrainedModel(experiment, clip, method, method.classifier(state), names)
