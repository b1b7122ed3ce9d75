"""Accuracy of a run's model on any data set, beside zero-shot: in all, by site or domain, and by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from feddtl.config import DataConfig
from feddtl.data.classes import MOST_NAMES, ClassChoice, classes_of_run, in_order_of
from feddtl.data.image_checks import all_damaged_named
from feddtl.data.images_per_class import ScoredCounts, few_images
from feddtl.data.sites import all_sites
from feddtl.data.sources import domains_note, load_dataset
from feddtl.data.table import ImageDataset, of_classes
from feddtl.data.templates import ensemble_note
from feddtl.errors import ConfigError
from feddtl.evaluate import TestImages, correct, percentage
from feddtl.features import ImageEncoder
from feddtl.models.activations import joined
from feddtl.models.class_texts import require_distinct
from feddtl.preparation import labelled
from feddtl.runs import RunFolder
from feddtl.state_folder import AnyPath, expanded
from feddtl.trained_model import TrainedModel, load_trained_model
from feddtl.units import first_few


@dataclass(frozen=True)
class Hits:
    """Test images of a class, a domain or a site, and how many are classified correctly.

    Attributes:
        images: Number of images.
        correct: Correct predictions of the model.
        zero_shot_correct: Those of the model before training.
    """

    images: int
    correct: int
    zero_shot_correct: int

    @property
    def accuracy(self) -> float:
        """Percent; NaN without images."""
        return percentage(self.correct, self.images)

    @property
    def zero_shot(self) -> float:
        """Percent of the model before training; NaN without images."""
        return percentage(self.zero_shot_correct, self.images)


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
        domains: By domain, if there are several.
        sites: By site, if the data set is one of sites.
        by_class: By class name, in the order of the list.
    """

    dataset: str
    classes: str
    choices: int
    images: int
    accuracy: float
    zero_shot: float
    domains: dict[str, Hits]
    sites: dict[str, Hits]
    by_class: dict[str, Hits]

    @property
    def together(self) -> Hits:
        """All images of the list."""
        counts = self.by_class.values()
        return Hits(*(sum(getattr(hits, key) for hits in counts) for key in ("images", "correct", "zero_shot_correct")))


def score_run(
    folder: AnyPath,
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
        data: Images to score: source, domains, prompt, columns and, if it is 'sites', the partition are used; None for
            the run's own.
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
    folder = expanded(folder)
    experiment = RunFolder.open(folder).experiment
    if experiment.evaluation.held_back:
        note(
            "These are test images, and the run's own accuracies are on held-back training images, to choose settings "
            "by: the two cannot be compared, and no setting should be chosen by these."
        )
    dataset, choice = _to_score(experiment.data, RunFolder.open(folder).data, data, class_names)
    as_domains = domains_note(dataset, data) if data else ""
    for text in filter(None, (*dataset.notes, as_domains, *choice.notes)):
        note(text)
    asked = dataset.prompt_template if (data and data.prompt) or not experiment.own_prompt else ""
    model = load_trained_model(folder, device, asked, note)
    if averaged := ensemble_note(model.method.prompt):
        note(averaged)
    if model.method.trained_parameters().personal:
        note(
            f"{model.experiment.title}: this scores the global model without the parts that the clients keep; "
            "final_client_models in summary.json has the scores of the clients' own models"
        )
    require_distinct(model.clip.text, dataset.class_names, model.method.prompt)
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
    by_site = (data or experiment.data).by_site
    return [_score(model, dataset, name, images[name], by_site=by_site) for name in class_lists]


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
    on_clients = own.each_has_own and not config.on_clients
    if config.by_site:
        dataset = all_sites(config)
    elif on_clients and expanded(config.source).exists() and not config.root:
        dataset = load_dataset(config, config.source, partial=True)
    else:
        dataset = load_dataset(config)
    # The images of clients are a part of the run's data. The prompt of its own data is in data.json, too.
    if (on_clients and not config.prompt) or (config.source, config.prompt) == (own.source, own.prompt):
        dataset = replace(dataset, prompt_template="")
    # Classes that took no part in the run are no novel classes of it.
    of_run = () if on_clients or (config.source, config.root) != (own.source, own.root) else (*trained, *scored)
    choice = classes_of_run(dataset, trained, scored, class_names or of_run)
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


def _score(
    model: TrainedModel, dataset: ImageDataset, class_list: str, images: TestImages, *, by_site: bool
) -> ClassListScore:
    hits = correct(model.classifier, images)
    before = hits if not model.method.trains else correct(model.method.zero_shot_classifier(), images)

    def counted(names: Sequence[str], ids: Tensor) -> dict[str, Hits]:
        """The hits on the images of each name; `ids` (N,) are indices into the names."""
        counts = (torch.bincount(kept, minlength=len(names)).tolist() for kept in (ids, ids[hits], ids[before]))
        return {name: Hits(*numbers) for name, *numbers in zip(names, *counts, strict=True)}

    several = len(dataset.domain_names) > 1
    parts = counted(dataset.domain_names, images.domains) if several or by_site else {}
    everything = Hits(len(hits), int(hits.sum()), int(before.sum()))
    return ClassListScore(
        dataset.name,
        class_list,
        len(images.class_names),
        everything.images,
        everything.accuracy,
        everything.zero_shot,
        {} if by_site else parts,
        parts if by_site else {},
        counted(images.class_names, images.labels),
    )
