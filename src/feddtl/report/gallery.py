"""Test images that became right or wrong with training, as thumbnails inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from feddtl.data.federated import of_classes
from feddtl.data.sources import load_dataset
from feddtl.data.splits import base_novel_classes
from feddtl.data.table import ImageTable
from feddtl.errors import DataError, FeddtlError
from feddtl.predictions import ImagePredictions
from feddtl.report.confusion import Flags, corrected_and_broken
from feddtl.results.grouping import SettingRuns
from feddtl.results.run import RunResult

MOST_IMAGES = 24
THUMBNAIL = 88  # pixels of the longer side, drawn at most so large
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """An image that became right or wrong with training.

    Attributes:
        source: The image as a data URI.
        name: Its class.
        before: The class predicted before training.
        after: The class predicted after training.
    """

    source: str
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Gallery:
    """Images of one run.

    Attributes:
        label: Method and seed.
        corrected: Some of those that became right.
        broken: Some of those that became wrong.
    """

    label: str
    corrected: list[Thumbnail]
    broken: list[Thumbnail]


def galleries(setting: SettingRuns, most: int = MOST_IMAGES) -> tuple[list[Gallery], str]:
    """Images that became right or wrong, of each method's lowest seed, and why there are none where there are none.

    Args:
        setting: The runs.
        most: Largest number of images.
    """
    chosen = []
    for method in setting.methods[: most // 2]:
        with_predictions = [(run, run.predictions) for run in method.counted if run.predictions]
        chosen += [(method.label, *with_predictions[0])] if with_predictions else []
    if not chosen:
        return [], ""
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
    """Base and novel test images of a run, from its data source.

    Raises:
        DataError: The source is not there, or has other images than the run had.
    """
    dataset = load_dataset(run.experiment.data)
    halves = base_novel_classes(len(dataset.class_names))
    base, novel = (of_classes(dataset.test, half) for half in halves)
    labels = np.concatenate([base.labels, novel.labels + len(halves[0])])
    if not np.array_equal(labels, predictions.labels.numpy()):
        raise DataError(
            f"{run.experiment.data.source} has different test images from those of the run {run.name}.",
            "Restore the images, or write the report with --no-images.",
        )
    return base, novel


def _thumbnails(
    run: RunResult, predictions: ImagePredictions, tables: tuple[ImageTable, ImageTable], chosen: Flags, most: int
) -> list[Thumbnail]:
    """At most `most` of the chosen images, evenly spaced so that they cover many classes."""
    places = np.flatnonzero(chosen)
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).round().astype(int)]
    names = run.class_names
    columns = (predictions.labels, predictions.zero_shot.among_half, predictions.final.among_half)
    return [
        Thumbnail(_data_uri(_read(tables, int(place))), *(names[int(column[place])] for column in columns))
        for place in places
    ]


def _read(tables: tuple[ImageTable, ImageTable], place: int) -> Image.Image:
    base, novel = tables
    return base.read(place) if place < len(base) else novel.read(place - len(base))


def _data_uri(image: Image.Image) -> str:
    """The image as JPEG inside a URI; small pictures keep their pixels."""
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
