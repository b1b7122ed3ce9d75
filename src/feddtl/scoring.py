"""The model of a run, and its accuracy on any data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from feddtl.algorithms import build_algorithm
from feddtl.algorithms.base import Algorithm, Classifier, Task
from feddtl.config import DataConfig, Experiment
from feddtl.data.federated import load_source, of_classes
from feddtl.data.splits import base_novel_classes
from feddtl.data.table import ImageDataset
from feddtl.environment import choose_device
from feddtl.errors import RunError
from feddtl.evaluate import TestImages, accuracy, correct
from feddtl.features import frozen_activations
from feddtl.models.clip import Clip, load_clip
from feddtl.runs import RunFolder


@dataclass(frozen=True)
class TrainedModel:
    """A run's model.

    Attributes:
        experiment: What was run.
        clip: The frozen CLIP.
        algorithm: The method, on the run's base classes.
        state: The server's state after the last finished round.
    """

    experiment: Experiment
    clip: Clip
    algorithm: Algorithm
    classifier: Classifier


@dataclass(frozen=True)
class ClassListScore:
    """Accuracy where the model chooses from one list of classes.

    Attributes:
        dataset: Data set.
        classes: 'base', 'novel' or 'all'.
        choices: Classes in the list.
        images: Test images of these classes.
        accuracy: Percent.
        domains: Percent by domain, where there are several.
    """

    dataset: str
    classes: str
    choices: int
    images: int
    accuracy: float
    domains: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def load_trained_model(folder: Path, device: str = "auto", prompt: str = "") -> TrainedModel:
    """The model of a run after its last finished round.

    Args:
        folder: Folder of the run.
        device: See `ComputeConfig.device`.
        prompt: Template for class names; empty: the run's own.

    Raises:
        RunError: No run there, or no round finished yet.
    """
    run = RunFolder.open(folder)
    experiment, data = run.experiment, run.data
    clip = load_clip(experiment.model, choose_device(device))
    task = Task(clip, tuple(data["base_classes"]), prompt or data["prompt_template"], experiment.seed)
    algorithm = build_algorithm(task, experiment)
    progress = run.latest_progress()
    if progress is None and algorithm.trains:
        raise RunError(f"{folder} has no finished round.", f"Go on with it: feddtl run --resume {folder}.")
    state = progress.state if progress else algorithm.init_server()
    return TrainedModel(experiment, clip, algorithm, algorithm.classifier(state))


def score_run(
    folder: Path,
    *,
    source: str = "",
    domains: str = "",
    prompt: str = "",
    class_lists: Sequence[str] = ("base", "novel", "all"),
    device: str = "auto",
) -> list[ClassListScore]:
    """Accuracy of a run's model on the test images of any data set.

    Args:
        folder: Folder of the run.
        source: As `data.source`; empty: the run's own data.
        domains: As `data.domains`.
        prompt: As `data.prompt`.
        class_lists: Which class lists to score.
        device: See `ComputeConfig.device`.
    """
    own = RunFolder.open(folder).experiment.data
    if source:
        config = DataConfig(source=source, domains=domains, prompt=prompt)
    else:
        config = replace(own, domains=domains or own.domains, prompt=prompt or own.prompt)
    dataset = load_source(config)
    model = load_trained_model(folder, device, dataset.prompt_template)
    return [_score(model, dataset, name) for name in class_lists]


def _score(model: TrainedModel, dataset: ImageDataset, class_list: str) -> ClassListScore:
    base, novel = base_novel_classes(len(dataset.class_names))
    classes = {"base": base, "novel": novel, "all": range(len(dataset.class_names))}[class_list]
    table = of_classes(dataset.test, classes)
    compute = model.experiment.compute
    activations = frozen_activations(
        model.clip.image, table, model.algorithm.first_image_block, threads=compute.loading_threads
    )
    names = tuple(dataset.class_names[label] for label in classes)
    images = TestImages(activations, torch.from_numpy(table.labels), torch.from_numpy(table.domains), names)
    hits = correct(model.classifier, images)
    by_domain = {
        name: accuracy(hits[images.domains == index])
        for index, name in enumerate(dataset.domain_names)
        if len(dataset.domain_names) > 1
    }
    return ClassListScore(dataset.name, class_list, len(names), len(table), accuracy(hits), by_domain)
