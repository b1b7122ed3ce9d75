"""Drawing coloured shapes: 8 colours x 8 shapes in seven visual domains, 32 x 32 pixels, in milliseconds.

The bundled tiny CLIP is pretrained on `PRETRAIN_DOMAINS` only, so all others are new to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]
ByteArray = NDArray[np.uint8]

SIDE = 32
COLOUR_RGB = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.96, 0.50, 0.06),
    "yellow": (0.95, 0.88, 0.12),
    "green": (0.12, 0.62, 0.20),
    "cyan": (0.12, 0.80, 0.86),
    "blue": (0.12, 0.24, 0.86),
    "purple": (0.50, 0.14, 0.66),
    "pink": (0.97, 0.54, 0.76),
}
COLOURS = tuple(COLOUR_RGB)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
PRETRAIN_DOMAINS = ("plain", "gradient")
FEDERATED_DOMAINS = ("texture", "sketch", "night", "fog")
SHIFTED = "shifted"
DOMAINS = (*PRETRAIN_DOMAINS, *FEDERATED_DOMAINS, SHIFTED)

# Bounds the memory of one drawing step and keeps its arrays in the processor's cache.
_CHUNK = 128


def render(colours: IntArray, shapes: IntArray, domains: IntArray, generator: np.random.Generator) -> ByteArray:
    """Draw one image per entry; position, size, rotation, tint and noise are random.

    Args:
        colours: (N,) indices into COLOURS.
        shapes: (N,) indices into SHAPES.
        domains: (N,) indices into DOMAINS.
        generator: Source of all randomness; equal state gives equal images.

    Returns:
        (N, 32, 32, 3) RGB, 0 to 255.
    """
    images = np.empty((len(colours), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(colours), _CHUNK):
        part = slice(start, start + _CHUNK)
        distance = _signed_distance(shapes[part], generator)
        palette = np.asarray(list(COLOUR_RGB.values()), np.float32)[colours[part]]
        tint = np.clip(palette + _uniform(generator, -0.06, 0.06, palette.shape), 0, 1)
        for domain in np.unique(domains[part]):
            here = np.flatnonzero(domains[part] == domain)
            paint, grain = _PAINTERS[DOMAINS[domain]]
            drawn = paint(distance[here], tint[here], generator)
            drawn = drawn + generator.standard_normal(drawn.shape, np.float32) * np.float32(grain)
            if DOMAINS[domain] == SHIFTED:
                drawn = _shifted_colours(drawn)
            images[start + here] = np.clip(drawn * 255 + 0.5, 0, 255).reshape(-1, SIDE, SIDE, 3)
    return images


def _uniform(generator: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> FloatArray:
    return generator.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


def _grid() -> tuple[FloatArray, FloatArray]:
    """x to the right and y upwards in pixels from the centre of the image, each (1, 1024)."""
    at = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)
    return np.tile(at, SIDE)[None], np.repeat(-at, SIDE)[None]


# --- shapes ------------------------------------------------------------------------------------------


def _signed_distance(shapes: IntArray, generator: np.random.Generator) -> FloatArray:
    """(N, 1024) distance of every pixel from the outline in pixels, negative inside, randomly placed."""
    count = (len(shapes), 1)
    radius = _uniform(generator, 8.0, 12.0, count)
    room = SIDE / 2 - radius
    x, y = _grid()
    x = x - _uniform(generator, -1, 1, count) * room
    y = y - _uniform(generator, -1, 1, count) * room
    angle = _uniform(generator, -0.5, 0.5, count)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    u, v = x * cos + y * sin, y * cos - x * sin
    distance = np.empty_like(u)
    for shape in np.unique(shapes):
        here = shapes == shape
        distance[here] = _OUTLINES[SHAPES[shape]](u[here], v[here])
    return distance * radius


def _star(u: FloatArray, v: FloatArray) -> FloatArray:
    """Five points: every sector is folded onto one edge from a tip to an inner corner."""
    sector = 2 * math.pi / 5
    inner_x, inner_y = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    angle = np.abs(np.mod(np.arctan2(u, v) + sector / 2, sector) - sector / 2)
    radius = np.hypot(u, v)
    along = (radius * np.cos(angle) - 1) * inner_y + radius * np.sin(angle) * (1 - inner_x)
    return along / math.hypot(1 - inner_x, inner_y)


def _heart(u: FloatArray, v: FloatArray) -> FloatArray:
    """Two circular lobes above a right-angled tip."""
    x, y = np.abs(u) / 1.65, v / 1.65 + 0.55
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.35355
    fold = 0.5 * np.maximum(x + y, 0)
    nearest = np.minimum(np.hypot(x, y - 1), np.hypot(x - fold, y - fold))
    edge: FloatArray = np.where(x + y > 1, lobe, nearest * np.sign(x - y))
    return edge * 1.65


# The shapes are up to 1 in size around the centre; the distance has the same unit.
_OUTLINES: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.85,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.72,
    "triangle": lambda u, v: np.maximum(np.abs(u) * 0.866 + (v + 0.15) * 0.5, -v - 0.15) - 0.5,
    "star": _star,
    "cross": lambda u, v: np.minimum(
        np.maximum(np.abs(u) - 0.9, np.abs(v) - 0.27), np.maximum(np.abs(u) - 0.27, np.abs(v) - 0.9)
    ),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) - 0.2,
    "heart": _heart,
    "moon": lambda u, v: np.maximum(np.hypot(u, v) - 0.92, 0.75 - np.hypot(u - 0.5, v)),
}

# --- domains: (N, 1024) distances and (N, 3) colours to (N, 1024, 3) RGB, 0 to 1 ----------------------


def _muted(generator: np.random.Generator, count: int, low: float, high: float) -> FloatArray:
    """(count, 1, 3) nearly grey colours of random brightness."""
    return _uniform(generator, low, high, (count, 1, 1)) + _uniform(generator, -0.06, 0.06, (count, 1, 3))


def _over(background: FloatArray, colour: FloatArray, distance: FloatArray, blur: float = 1.0) -> FloatArray:
    """The coloured shape on a background, its edge blurred over this many pixels."""
    cover: FloatArray = np.clip(0.5 - distance / np.float32(blur), 0, 1)[..., None]
    return background + (colour[:, None] - background) * cover


def _waves(generator: np.random.Generator, count: int, low: float, high: float) -> FloatArray:
    """(count, 1024) plane waves in [-1, 1], wavelength between `low` and `high` pixels."""
    x, y = _grid()
    angle = _uniform(generator, 0, 2 * math.pi, (count, 1))
    pace = 2 * math.pi / _uniform(generator, low, high, (count, 1))
    phase = _uniform(generator, 0, 2 * math.pi, (count, 1))
    return np.sin((x * np.cos(angle) + y * np.sin(angle)) * pace + phase)


def _plain(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """One nearly grey background."""
    return _over(_muted(generator, len(distance), 0.05, 0.95), colour, distance)


def _gradient(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Background running from one nearly grey tone to another."""
    count = len(distance)
    first, second = _muted(generator, count, 0.05, 0.95), _muted(generator, count, 0.05, 0.95)
    share = 0.5 + 0.5 * _waves(generator, count, 64, 96)[..., None]
    return _over(first + (second - first) * share, colour, distance)


def _texture(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Checks, stripes and blobs in two random colours behind the shape."""
    count = len(distance)
    first = _uniform(generator, 0.2, 0.8, (count, 1, 3))
    second = _uniform(generator, 0.2, 0.8, (count, 1, 3))
    pattern = _waves(generator, count, 4, 12) * _waves(generator, count, 6, 24)
    share = np.clip(0.5 + 3 * pattern, 0, 1)[..., None]
    return _over(first + (second - first) * share, colour, distance)


def _sketch(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Coloured pencil on paper: a wobbly outline and loose hatching."""
    count = len(distance)
    paper = _muted(generator, count, 0.85, 0.98)
    wobbly = distance + 0.5 * _waves(generator, count, 8, 16)
    hatch = np.maximum(wobbly, -_waves(generator, count, 3.5, 5.5))
    hatched = _over(paper, paper[:, 0] + (colour - paper[:, 0]) * 0.8, hatch)
    return _over(hatched, colour, np.abs(wobbly) - 1)


def _night(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Little bluish light and a grainy camera."""
    count = len(distance)
    light = _uniform(generator, 0.3, 0.55, (count, 1, 1)) * np.asarray([0.75, 0.85, 1.2], np.float32)
    scene = _over(_muted(generator, count, 0.05, 0.5), colour, distance)
    return scene * light


def _fog(distance: FloatArray, colour: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Pale haze of uneven thickness and blurred outlines."""
    count = len(distance)
    haze = 0.6 + 0.15 * _waves(generator, count, 20, 50)[..., None]
    scene = _over(_muted(generator, count, 0.3, 0.9), colour, distance, blur=4.0)
    return scene + (_muted(generator, count, 0.75, 0.9) - scene) * haze


def _shifted_colours(image: FloatArray) -> FloatArray:
    """Each channel mixed with the one before it, blue before red: 0.6 red + 0.4 blue, and so on."""
    seen = np.clip(image, 0, 1)
    return np.float32(0.6) * seen + np.float32(0.4) * np.roll(seen, 1, axis=-1)


# Painter, and standard deviation of the grain, by domain.
_PAINTERS = {
    "plain": (_plain, 0.02),
    "gradient": (_gradient, 0.02),
    "texture": (_texture, 0.04),
    "sketch": (_sketch, 0.03),
    "night": (_night, 0.04),
    "fog": (_fog, 0.02),
    SHIFTED: (_texture, 0.04),
}
