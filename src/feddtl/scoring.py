"""The model of a run: its predictions for images, and its accuracy on any data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from feddtl.config import DataConfig, Experiment
from feddtl.data.classes import MOST_NAMES, ClassChoice, classes_of_run, in_order_of
from feddtl.data.decode import upright_rgb
from feddtl.data.image_checks import all_damaged_named
from feddtl.data.images_per_class import ScoredCounts, few_images
from feddtl.data.sites import all_sites
from feddtl.data.sources import load_dataset
from feddtl.data.table import ImageDataset, of_classes
from feddtl.errors import ConfigError, RunError
from feddtl.evaluate import TestImages, accuracy, correct
from feddtl.features import ImageEncoder
from feddtl.methods.base import Method
from feddtl.methods.catalog import build_method
from feddtl.methods.classifier import Classifier
from feddtl.methods.task import Task
from feddtl.models.activations import joined
from feddtl.models.backbone import Backbone
from feddtl.models.class_texts import require_distinct
from feddtl.preparation import labelled, model_of_run
from feddtl.run_files import resuming
from feddtl.runs import RunFolder
from feddtl.state_folder import expanded
from feddtl.units import first_few


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


@dataclass(frozen=True)
class ClassCount:
    """Test images of one class, and how many of them are classified correctly."""

    images: int
    correct: int


@dataclass(frozen=True)
class ClassListScore:
    """Accuracy among one list of classes.

    Attributes:
        dataset: Data set.
        classes: 'base', 'novel' or 'all'.
        choices: Number of classes in the list.
        images: Number of test images of these classes.
        accuracy: Percent; NaN without images.
        zero_shot: The same of the model before training.
        domains: Percent by domain, if there are several.
        by_class: Counts by class name, in the order of the list.
    """

    dataset: str
    classes: str
    choices: int
    images: int
    accuracy: float
    zero_shot: float
    domains: dict[str, float]
    by_class: dict[str, ClassCount]


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


def score_run(
    folder: Path,
    data: DataConfig | None = None,
    *,
    class_lists: Sequence[str] = ("base", "novel", "all"),
    class_names: Sequence[str] = (),
    device: str = "auto",
    note: Callable[[str], None] = lambda text: None,
) -> list[ClassListScore]:
    """Accuracy of a run's model, and of zero-shot beside it, on the test images of any data set.

    Args:
        folder: Folder of the run.
        data: Images to score: source, domains, prompt and columns are used; None for the run's own.
        class_lists: Class lists to score: 'base', the classes that the run trained; 'novel', the others; or 'all'.
        class_names: The classes that take part, in any order; empty: those of the run for its own data or a part of it,
            else all of the data set.
        device: See `ComputeConfig.device`.
        note: Called with notes for the user, e.g. that nothing can be cached on disk.

    Raises:
        FeddtlError: No finished run, data that cannot be used, or no class list.
    """
    if not class_lists:
        raise ConfigError("There is no class list to score.", "Choose one or more of base, novel, all.")
    experiment = RunFolder.open(folder).experiment
    if experiment.evaluation.held_back:
        note(
            "These are test images, and the run's own accuracies are on held-back training images, to choose settings "
            "by: the two cannot be compared, and no setting should be chosen by these."
        )
    dataset, choice = _to_score(experiment.data, RunFolder.open(folder).data, data, class_names)
    for text in (*dataset.notes, *choice.notes):
        note(text)
    model = load_trained_model(folder, device, dataset.prompt_template, note)
    if model.method.trained_parameters().personal:
        note(
            f"{model.experiment.title}: this scores the global model without the parts that the clients keep; "
            "final_client_models in summary.json has the scores of the clients' own models"
        )
    require_distinct(model.clip.text, dataset.class_names, model.method.task.prompt_template)
    # This machine's cache: the run may be from another machine.
    compute = replace(model.experiment.compute, cache_folder="")
    encoder = ImageEncoder(model.clip.image, model.method.first_image_block, compute, note=note)
    ranges = zip(("base", "novel"), choice.ranges, strict=True)
    parts = {name: classes for name, classes in ranges if {name, "all"} & set(class_lists)}
    needed = [of_classes(dataset.test, classes) for classes in parts.values()]
    with all_damaged_named(needed, encoder.threads, note):
        images = {name: _encode(encoder, dataset, classes) for name, classes in parts.items()}
    for text in _notes_on_numbers(choice, dataset.domain_names, images):
        note(text)
    if "all" in class_lists:
        images["all"] = _joined(images["base"], images["novel"])
    return [_score(model, dataset, name, images[name]) for name in class_lists]


def _to_score(
    own: DataConfig, described: Mapping[str, Any], asked: DataConfig | None, class_names: Sequence[str]
) -> tuple[ImageDataset, ClassChoice]:
    """The data set to score, with labels in its base and novel classes.

    Args:
        own: The run's data settings.
        described: The run's data.json.
        asked: Another data set; None for the run's own.
        class_names: See `score_run`.
    """
    config = asked or own
    trained, scored = described["base_classes"], described["novel_classes"]
    if config.by_site:
        dataset = all_sites(config)
        choice = classes_of_run(dataset, trained, scored, class_names)
        return in_order_of(choice.names, dataset), choice
    on_clients = own.each_has_own and not config.on_clients
    # One client's images are a part of the run's data, and their prompt is the run's.
    here = on_clients and expanded(config.source).exists() and not config.root
    dataset = load_dataset(config, config.source, partial=True) if here else load_dataset(config)
    if on_clients:
        dataset = replace(dataset, prompt_template=config.prompt)
    choice = classes_of_run(dataset, trained, scored, class_names)
    return in_order_of(choice.names, dataset), choice


def _notes_on_numbers(choice: ClassChoice, domains: Sequence[str], images: Mapping[str, TestImages]) -> Iterator[str]:
    """Which classes have no test image, and which accuracies are of few; `images` are those of 'base' and 'novel'."""
    missing = []
    for half, classes in zip(("base", "novel"), (choice.base, choice.novel), strict=True):
        if half in images:
            there = set(images[half].labels.tolist())
            missing += [name for label, name in enumerate(classes) if label not in there]
    if missing:
        yield f"No test image, and so no accuracy, of: {first_few(missing, MOST_NAMES)}."
    numbers = {half: len(found.labels) for half, found in images.items()}
    by_domain = {
        name: tuple(int((images[half].domains == index).sum()) if half in images else 0 for half in ("base", "novel"))
        for index, name in enumerate(domains)
        if len(domains) > 1
    }
    yield from filter(None, [few_images(ScoredCounts(numbers.get("base", 0), numbers.get("novel", 0), {}, by_domain))])


def _encode(encoder: ImageEncoder, dataset: ImageDataset, classes: range) -> TestImages:
    table = of_classes(dataset.test, classes)
    names = tuple(dataset.class_names[label] for label in classes)
    return labelled(table, encoder.encode(table), names)


def _joined(base: TestImages, novel: TestImages) -> TestImages:
    """The images of both halves, among the classes of both."""
    return TestImages(
        joined([base.activations, novel.activations]),
        torch.cat([base.labels, novel.labels + len(base.class_names)]),
        torch.cat([base.domains, novel.domains]),
        base.class_names + novel.class_names,
    )


def _score(model: TrainedModel, dataset: ImageDataset, class_list: str, images: TestImages) -> ClassListScore:
    hits = correct(model.classifier, images)
    before = accuracy(hits if not model.method.trains else correct(model.method.zero_shot_classifier(), images))
    by_domain = {
        name: accuracy(hits[images.domains == index])
        for index, name in enumerate(dataset.domain_names)
        if len(dataset.domain_names) > 1
    }
    choices = len(images.class_names)
    counts, right = (torch.bincount(labels, minlength=choices) for labels in (images.labels, images.labels[hits]))
    by_class = {
        name: ClassCount(int(count), int(correct))
        for name, count, correct in zip(images.class_names, counts, right, strict=True)
    }
    found = accuracy(hits)
    return ClassListScore(dataset.name, class_list, choices, len(images.labels), found, before, by_domain, by_class)
