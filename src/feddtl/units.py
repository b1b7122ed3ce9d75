"""Human-readable numbers and names, and text that any page or terminal can show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_FOR_PERCENT = 10
"""Images of a class, below which it has counts and no percentage."""
REPLACEMENT = "�"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
JOINERS = "\u200c\u200d"
"""Invisible letters between others, which Persian and Indic words and some emoji need."""


def percent(value: float | None) -> str:
    """One decimal, or a dash if nothing was scored."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def scores_line(scores: Mapping[str, float | None]) -> str:
    """Base, novel and harmonic mean in percent, aligned."""
    named = (("base", "base"), ("novel", "novel"), ("HM", "harmonic_mean"))
    return "  ".join(f"{name} {percent(scores[key]):>5}" for name, key in named)


def share(count: int, images: int, seeds: int = 1) -> tuple[str, str]:
    """A share of images as ('12.5', '5 of 40'); as ('1 of 2', '') of few images, whose percentage misleads.

    Both numbers are sums over so many seeds, which score the same images.
    """
    if not images:
        return "–", ""
    fraction = f"{count} of {images}"
    return (percent(100 * count / images), fraction) if images >= LEAST_FOR_PERCENT * seeds else (fraction, "")


def size(count: int) -> str:
    """Bytes in decimal units, one decimal."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def counted(count: int, noun: str) -> str:
    """'1 round', '2 rounds', '2 classes'."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def value_text(value: object) -> str:
    """The value of a setting: '0.003', '1e-05', 'auto'."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


@dataclass(frozen=True)
class ClientNames:
    """What clients are called in texts.

    Attributes:
        sites: Name of each client, where each is a site; empty where clients have numbers alone.
    """

    sites: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """'client' or 'site'."""
        return "site" if self.sites else "client"

    def label(self, client: int) -> str:
        """'3' or 'north', for columns and axes."""
        return self.sites[client] if self.sites else str(client)

    def in_column(self, client: int) -> str:
        """'client 3' or 'north', where nothing says that these are clients."""
        return self.sites[client] if self.sites else f"client {client}"

    def one(self, client: int) -> str:
        """'client 3' or "site 'north'"."""
        return f"{self.noun} {self._name(client)}"

    def begin(self, client: int) -> str:
        """The same at the beginning of a sentence."""
        return f"{self.noun.capitalize()} {self._name(client)}"

    def all_of(self, clients: Sequence[int], most: int = 5) -> str:
        """'client 3', 'clients 1 and 3', 'clients 1, 2, 3 and 40 more', "sites 'north' and 'south'"."""
        names = [self._name(client) for client in clients]
        text = first_few(names, most) if len(names) > most else listed(names)
        return f"{self.noun}{'' if len(names) == 1 else 's'} {text}"

    def _name(self, client: int) -> str:
        return f"'{self.sites[client]}'" if self.sites else str(client)


NUMBERED = ClientNames()
"""Clients that have numbers alone."""


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers: '1–3, 5'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def rounds_named(numbers: Sequence[int]) -> str:
    """'before training', 'round 3', 'before training and rounds 1–3, 5'; 0 is before training."""
    after = [number for number in numbers if number]
    parts = ["before training"] if len(after) < len(numbers) else []
    parts += [f"round{'' if len(after) == 1 else 's'} {ranges(after)}"] if after else []
    return listed(parts)


def first_few(words: Sequence[str], most: int) -> str:
    """'a, b and 3 more'; without an ending if there are at most `most` words."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def megabytes(count: float) -> str:
    """Megabytes (10^6 bytes) without the unit: one decimal, or three below 1, so that small values stay distinct."""
    return f"{count / 1e6:.1f}" if count >= 1e6 or count == 0 else f"{count / 1e6:.3f}"


def duration(seconds: float, *, precise: bool = False) -> str:
    """Seconds (with one decimal if precise), minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if precise and seconds < 59.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """The text on one line, without what a page or a terminal cannot show or would obey.

    Such are control characters, marks that turn the direction of writing, and half a surrogate pair in the name of a
    folder.
    """
    return "".join(letter if letter.isprintable() or letter in JOINERS else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    return " " if letter.isspace() else REPLACEMENT


def harmless(text: str) -> str:
    """The text without characters that a terminal would obey: escape sequences, and marks that turn the direction."""
    return OBEYED.sub(REPLACEMENT, text)


def shortened(text: str, most: int) -> str:
    """The text with an ellipsis in its middle, if it has more than so many characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"
