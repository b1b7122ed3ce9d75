"""Plots written to files, without a display."""

from __future__ import annotations

import atexit
import io
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feddtl.errors import ConfigError
from feddtl.records import RoundRecord
from feddtl.state_folder import has_home
from feddtl.storage import make_folder, storage_errors, write_atomic
from feddtl.units import NUMBERED, ClientNames, counted, printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".svg", ".png", ".pdf")
LEAST_POINTS = 10.0
"""Percentage points that an axis of accuracy spans at least: over fewer, small differences look like falls."""
LEAST_IMAGES = 5
"""Test images whose accuracy such an axis spans at least."""
HEAVY_IMAGE = 0.5
"""A test image that is worth more percentage points is said to be."""
LETTERS_OF_CAPTION = 110
LETTERS_OF_TITLE = 70
LETTERS_OF_LABEL = 40
COLUMNS_OF_WORDS = 12  # of a heat map, with room for a sentence
# No date and no random identifiers in the file, so that the same numbers give the same file.
REPRODUCIBLE = {"svg.hashsalt": "feddtl"}
MATPLOTLIB_FOLDER = "MPLCONFIGDIR"
DATELESS: dict[str, dict[str, str | None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def matplotlib_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Settings of matplotlib, with which text is text: `$` begins no formula.

    Without a home folder, matplotlib gets a folder that is removed at the end of the process.
    """
    if not (os.environ.get(MATPLOTLIB_FOLDER) or has_home()):
        os.environ[MATPLOTLIB_FOLDER] = folder = tempfile.mkdtemp(prefix="feddtl-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from matplotlib import rc_context

    chosen: dict[Any, Any] = {"text.parse_math": False, **settings}
    with rc_context(chosen):
        yield


@matplotlib_settings(REPRODUCIBLE)
def partition_heat_map(
    counts: NDArray[np.int64],
    class_names: Sequence[str],
    title: str,
    path: Path,
    tests: NDArray[np.int64] | None = None,
    scored: str = "test images",
    clients: ClientNames = NUMBERED,
) -> bool:
    """Class × client heat map of training images, above a row of test images; novel classes are on the right.

    Args:
        counts: (K, C) training images by client and base class.
        class_names: Names of the base classes, then of the novel ones.
        title: Above the plot.
        path: File; its ending is the format.
        tests: Test images of each named class; None for no such row.
        scored: What they are called.
        clients: What the clients are called.

    Returns:
        Whether all names are legible in the file.
    """
    base, width = counts.shape[1], len(class_names)
    figure = new_figure(max(6.0, 0.22 * width + 2), max(2.5, 0.32 * counts.shape[0] + 2))
    axes = figure.subplots()
    shown = np.full((counts.shape[0] + (tests is not None), width), np.nan)
    shown[: len(counts), :base] = counts
    image = axes.imshow(shown, aspect="auto", cmap="Blues", vmin=0, vmax=counts.max(), interpolation="nearest")
    rows = [shortened(printable(clients.in_column(client)), LETTERS_OF_LABEL) for client in range(counts.shape[0])]
    if tests is not None:
        shown[len(counts)] = tests
        rows.append(scored)
        only_tests = np.where(np.arange(len(shown))[:, None] == len(counts), shown, np.nan)
        image_of_tests = axes.imshow(only_tests, aspect="auto", cmap="Oranges", vmin=0, interpolation="nearest")
        figure.colorbar(image_of_tests, ax=axes, label=scored)
    axes.set_yticks(range(len(rows)), rows)
    step = 1 if width <= 60 else width // 40
    labels = [shortened(printable(name), LETTERS_OF_LABEL) for name in class_names[::step]]
    axes.set_xticks(range(0, width, step), labels, rotation=90, fontsize=7)
    if base < width:
        _mark_untrained(axes, range(base, width), counts.shape[0])
        axes.set_xlabel(f"{counted(base, 'trained class')} | {counted(width - base, 'novel class')}")
    axes.set_title(_title(title))
    figure.colorbar(image, ax=axes, label="training images")
    return _save(figure, path)


def _mark_untrained(axes: Axes, columns: range, clients: int) -> None:
    """Shade the novel classes of a heat map, and say that no client trains on them where there is room for it."""
    axes.axvline(columns.start - 0.5, color="0.3", linewidth=1)
    axes.fill_between([columns.start - 0.5, columns.stop - 0.5], -0.5, clients - 0.5, color="0.94", zorder=-1)
    if len(columns) >= COLUMNS_OF_WORDS:
        middle = (columns.start + columns.stop - 1) / 2, (clients - 1) / 2
        axes.text(*middle, "no client trains on novel classes", ha="center", va="center", color="0.4", fontsize=9)


@matplotlib_settings(REPRODUCIBLE)
def accuracy_curves(
    records: Sequence[RoundRecord],
    zero_shot: Mapping[str, float],
    title: str,
    path: Path,
    *,
    virtual_time: bool = False,
    images: Mapping[str, int] | None = None,
    caption: str = "",
    hollow: Collection[int] = (),
) -> None:
    """Base and novel accuracy of the scored rounds, zero-shot as dashed lines.

    The x axis is the round, with the RL stage shaded, or virtual time; see `feddtl.system.clock`. The y axis spans
    several test images or more; the caption says what one is worth where that is much.

    Args:
        records: Of all rounds.
        zero_shot: 'base' and 'novel' before training.
        title: Above the plot.
        path: File; its ending is the format.
        virtual_time: Whether the x axis is virtual time.
        images: Number of test images behind 'base' and 'novel', where it is known.
        caption: Below the plot.
        hollow: Rounds whose numbers are of fewer images than others.
    """
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    images = images or {}
    scored = [record for record in records if record.is_scored]
    positions = [record.virtual_seconds if virtual_time else record.round for record in scored]
    for key, colour in (("base", "tab:blue"), ("novel", "tab:orange")):
        values = [math.nan if (value := record.headline[key]) is None else value for record in scored]
        axes.plot(positions, values, color=colour, marker="o", markersize=3, label=key)
        axes.axhline(zero_shot[key], color=colour, linestyle="--", linewidth=1, label=f"{key}, zero-shot")
        marked = [n for n, record in enumerate(scored) if record.round in hollow]
        _hollow_points(axes, [positions[n] for n in marked], [values[n] for n in marked], colour)
    widen_accuracy(axes, min((count for count in images.values() if count), default=0))
    rl = [record.round for record in records if record.stage == "rl"]
    if rl and not virtual_time:
        axes.axvspan(rl[0] - 0.5, rl[-1] + 0.5, color="0.93", zorder=0, label="RL rounds")
    if not virtual_time:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="virtual seconds" if virtual_time else "round", ylabel="accuracy in %", title=_title(title))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    worth = [weight_of_an_image(images.get(half, 0), f"{half} image") for half in ("base", "novel")]
    if text := " ".join(filter(None, [caption, *worth])):
        figure.supxlabel(fill(printable(text), LETTERS_OF_CAPTION), fontsize=8, color="0.35")
    _save(figure, path)


def _hollow_points(axes: Any, positions: Sequence[float], values: Sequence[float], colour: str) -> None:
    axes.plot(positions, values, "o", markersize=5, markerfacecolor="white", markeredgecolor=colour, zorder=3)


def least_points(images: int) -> float:
    """Percentage points that an axis of accuracy over so many test images spans at least; 0 images: unknown."""
    return min(100.0, max(LEAST_POINTS, LEAST_IMAGES * 100.0 / images)) if images else LEAST_POINTS


def weight_of_an_image(images: int, name: str, seeds: int = 1) -> str:
    """'One of 52 base images is 1.9 points.'; empty where an image weighs little, or the number is unknown.

    Args:
        images: How many there are.
        name: What one of them is.
        seeds: How many seeds a mean is over.
    """
    weight = 100.0 / images if images else 0.0
    of_seed = " of one seed" if seeds > 1 else ""
    return f"One of {images} {name}s is {weight:.1f} points{of_seed}." if weight > HEAVY_IMAGE else ""


def widen_accuracy(axes: Any, images: int = 0) -> None:
    """Let the y axis span `least_points` or more, within 0 and 100 percent but for a margin."""
    least = least_points(images)
    bottom, top = axes.get_ylim()
    if top - bottom >= least:
        return
    margin = 0.04 * least
    bottom = min(max((bottom + top - least) / 2, -margin), 100.0 + margin - least)
    axes.set_ylim(bottom, bottom + least)


def require_plot_ending(path: Path) -> None:
    """Raise ConfigError for an unsupported plot file before doing any work."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"Cannot write a plot to '{path.name}'.", f"Use a name that ends in {', '.join(ENDINGS)}.")


def _title(text: str) -> str:
    return fill(shortened(printable(text), 2 * LETTERS_OF_TITLE), LETTERS_OF_TITLE)


def new_figure(width: float, height: float) -> Any:
    """A figure with constrained layout, in inches; without pyplot, so without a display and without global state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class DrawnOnce(Figure):
        """matplotlib draws a figure for its layout, and again for the file, with the layout engine set aside."""

        def draw(self, renderer: Any) -> None:
            engine = self.get_layout_engine()
            if isinstance(engine, ConstrainedLayoutEngine):
                engine.execute(self)
            else:
                super().draw(renderer)

    return DrawnOnce(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> bool:
    """Write a figure; returns whether all letters are legible: other programs have fonts for text in an .svg."""
    require_plot_ending(path)
    ending = path.suffix.lower()
    drawn, complete = _drawn(figure, ending)
    if not complete and ending == ".svg":
        with matplotlib_settings({**REPRODUCIBLE, "svg.fonttype": "none"}):
            drawn, complete = _drawn(figure, ending)[0], True
    with storage_errors(path):
        make_folder(path.parent)
    write_atomic(path, drawn)
    return complete


def _drawn(figure: Any, ending: str) -> tuple[bytes, bool]:
    """The content of a file, and whether matplotlib's font has all letters."""
    drawn = io.BytesIO()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        figure.savefig(drawn, format=ending[1:], dpi=150, metadata=DATELESS.get(ending))
    return drawn.getvalue(), not any("missing from font" in str(warning.message) for warning in found)
