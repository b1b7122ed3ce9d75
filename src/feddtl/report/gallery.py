"""Scored images that became right or wrong with training, as thumbnails inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from feddtl.config.protocol import SHAPES
from feddtl.data.classes import in_order_of
from feddtl.data.federated import load_federated_data
from feddtl.data.regime import load_all, under_regime
from feddtl.data.table import ImageTable, of_classes
from feddtl.errors import ConfigError, DataError, FeddtlError
from feddtl.predictions import ImagePredictions
from feddtl.report.confusion import Flags, corrected_and_broken
from feddtl.results.grouping import SettingRuns
from feddtl.results.run import RunResult
from feddtl.state_folder import expanded

MOST_IMAGES = 24
UNCONFIRMED = "A run folder may name any folder, so images are read only from a source given with --images-of."
THUMBNAIL = 88  # pixels of the longer side as shown
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, its class, and the classes predicted before and after training."""

    source: str
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Gallery:
    """Some images that became right or wrong in one run; its label is method and seed."""

    label: str
    corrected: list[Thumbnail]
    broken: list[Thumbnail]


def read_from(run: RunResult) -> str:
    """The folder, file or id that a run names for its images; '' for images that are drawn or on the clients."""
    config = run.experiment.data
    return "" if config.source == SHAPES or config.on_clients else config.root or config.source


def is_confirmed(run: RunResult, confirmed: Collection[str]) -> bool:
    """Whether the images of a run may be read: a run folder of somebody else could name any folder of the reader."""
    source = read_from(run)
    return not source or source in confirmed or _whole(source) in map(_whole, confirmed)


def _whole(source: str) -> Path:
    with suppress(ConfigError):
        return expanded(source).resolve()
    return Path(source)


def galleries(
    setting: SettingRuns, most: int = MOST_IMAGES, confirmed: Collection[str] = ()
) -> tuple[list[Gallery], str]:
    """Images that became right or wrong, of each method's lowest seed.

    Args:
        setting: The runs.
        most: How many images at most.
        confirmed: Sources whose images may be read.

    Returns:
        The galleries, and the reason if there are none.
    """
    chosen = []
    for method in setting.methods[: most // 2]:
        with_predictions = [(run, run.predictions) for run in method.counted if run.predictions]
        chosen += [(method.label, *with_predictions[0])] if with_predictions else []
    if not chosen:
        return [], ""
    if not is_confirmed(chosen[0][1], confirmed):
        return [], UNCONFIRMED
    each = most // (2 * len(chosen))
    try:
        tables = source_tables(*chosen[0][1:])
        found = [
            Gallery(
                f"{label}, seed {run.seed}",
                *(_thumbnails(run, predictions, tables, side, each) for side in corrected_and_broken(predictions)),
            )
            for label, run, predictions in chosen
        ]
    except FeddtlError as error:
        return [], chosen[0][1].with_short_paths(error.message)
    return found, ""


def source_tables(run: RunResult, predictions: ImagePredictions) -> tuple[ImageTable, ImageTable]:
    """Base and novel images that a run scored, from its data source.

    Raises:
        DataError: The source is missing, or its images are not those of the run.
    """
    config, held_back = run.experiment.data, run.experiment.evaluation.held_back
    boundary = run.base_classes
    if config.by_site:
        data = load_federated_data(config, run.seed, held_back=held_back)
        base, novel = data.test_base, data.test_novel
    else:
        # The classes that the run had, whatever its settings would mean in this version.
        names = (*run.data["base_classes"], *run.data["novel_classes"])
        everything = in_order_of(names, load_all(config, held_back=held_back))
        dataset = under_regime(everything, config, run.seed, held_back)
        base, novel = (of_classes(dataset.test, half) for half in (range(boundary), range(boundary, len(names))))
    labels = np.concatenate([base.labels, novel.labels + boundary])
    if not np.array_equal(labels, predictions.labels.numpy()):
        raise DataError(
            f"{run.experiment.data.source} has different {run.scored} from those of the run {run.name}.",
            "Restore the images, or write the report with --no-images.",
        )
    return base, novel


def _thumbnails(
    run: RunResult, predictions: ImagePredictions, tables: tuple[ImageTable, ImageTable], chosen: Flags, most: int
) -> list[Thumbnail]:
    """At most `most` of the chosen images, evenly spaced so that they cover many classes."""
    indices = np.flatnonzero(chosen)
    if len(indices) > most:
        indices = indices[np.linspace(0, len(indices) - 1, most).round().astype(int)]
    names = run.class_names
    columns = (predictions.labels, predictions.zero_shot.among_half, predictions.final.among_half)
    return [
        Thumbnail(_data_uri(_read(*tables, int(index))), *(names[int(column[index])] for column in columns))
        for index in indices
    ]


def _read(base: ImageTable, novel: ImageTable, index: int) -> Image.Image:
    return base.read(index) if index < len(base) else novel.read(index - len(base))


def _data_uri(image: Image.Image) -> str:
    """The image as JPEG inside a URI; small images are not enlarged."""
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
