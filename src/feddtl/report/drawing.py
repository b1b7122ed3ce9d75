"""Figures as SVG inside a page, in its light or dark colours; equal numbers give equal text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from feddtl.plots import REPRODUCIBLE, matplotlib_settings, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders for the colours of the page, because matplotlib knows no CSS variables.
INK, MUTED, RULE, PAPER, BAND = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0600{number:02x}" for number in range(8))
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "card", BAND: "band"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# A phone shows five inches at nearly full size, so that letters stay legible.
WIDTH, FONT_SIZE = 5.0, 10.5
SMALL = 9.0

Paint = Callable[["Axes"], None]


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        label: Its text.
        style: Position in the colours and markers.
        kind: 'marker' with a line, 'point' without one, 'area', or 'dashes' and 'star' for zero-shot.
    """

    label: str
    style: int = 0
    kind: str = "marker"

    @property
    def colour(self) -> str:
        """Its colour, as CSS."""
        return f"var(--{VARIABLES[colour_of(self.style)]})"

    @property
    def marker(self) -> str:
        """matplotlib's letter for its marker."""
        return "*" if self.kind == "star" else marker_of(self.style)


@dataclass(frozen=True)
class Figure:
    """A drawing with its texts.

    Attributes:
        title: Heading.
        description: The content in words, for readers who cannot see it.
        svg: The drawing.
        keys: Legend.
        caption: What the drawing itself does not say.
    """

    title: str
    description: str
    svg: Markup
    keys: tuple[Key, ...]
    caption: str


def colour_of(style: int) -> str:
    """The colour of a line; after eight lines colours repeat, with other markers."""
    return SERIES[style % len(SERIES)]


def marker_of(style: int) -> str:
    """The marker of a line."""
    return MARKERS[(style + style // len(SERIES)) % len(MARKERS)]


def draw(
    title: str,
    name: str,
    description: str,
    paint: Paint,
    *,
    keys: Iterable[Key] = (),
    caption: str = "",
    height: float = 3.1,
) -> Figure:
    """The figure that `paint` draws, `height` inches high and five wide; `name` is unique on the page."""
    drawn = io.BytesIO()
    with _style():
        canvas = new_figure(WIDTH, height)
        paint(canvas.subplots())
        canvas.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = Markup(_inlined(drawn.getvalue().decode(), name, description))
    return Figure(title, description, svg, tuple(keys), caption)


@contextmanager
def _style() -> Iterator[None]:
    settings: dict[Any, Any] = {
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.7,
        "lines.markersize": 4.5,
        "font.size": FONT_SIZE,
        # Text stays text, in the page's font.
        "svg.fonttype": "none",
        **REPRODUCIBLE,
        **{f"{axis}tick.{what}": value for axis in "xy" for what, value in (("color", RULE), ("labelcolor", MUTED))},
    }
    with matplotlib_settings(settings), warnings.catch_warnings():
        # The browser draws the letters, and it has fonts that matplotlib lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _inlined(svg: str, name: str, description: str) -> str:
    """The drawing as an element of an HTML page: no namespaces, own identifiers, the page's colours and font."""
    root = ElementTree.fromstring(svg)
    used = set(
        re.findall(r"#([\w-]+)", " ".join(value for element in root.iter() for value in element.attrib.values()))
    )
    for element in root.iter():
        for child in [child for child in element if _without_namespace(child.tag) in ("metadata", "style")]:
            element.remove(child)
        attributes = {_without_namespace(key): _themed(value, name) for key, value in element.attrib.items()}
        identifier = attributes.pop("id", None)
        if identifier in used:
            attributes["id"] = f"{name}-{identifier}"
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{name}-{attributes['href'][1:]}"
        element.tag, element.attrib, element.tail = _without_namespace(element.tag), attributes, "\n"
        element.text = element.text if element.tag == "text" else None
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str, name: str) -> str:
    """An attribute in the page's colours and font, with identifiers of this drawing and two decimals."""
    if value.startswith("data:"):
        return value
    value = value.replace("url(#", f"url(#{name}-")
    value = re.sub(r"font-family: [^;]*;? ?", "", value)
    value = re.sub(r"font: ([\w. ]*?)'[^;]*", r"font: \1var(--font)", value)
    value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)
    return re.sub("|".join(VARIABLES), lambda found: f"var(--{VARIABLES[found[0]]})", value)


def _without_namespace(name: str) -> str:
    return name.rpartition("}")[2]
