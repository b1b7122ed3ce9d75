"""Bounds of settings: what they allow and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from feddtl.checks import Above, AtLeast, Bound, Rule, SomeOf, check_fields, check_scalar, field_hints, words_of
from feddtl.errors import ConfigError

BOUNDS = [
    (AtLeast(1), "1 or more", [1, 1.5, 10**400], [0.9, -1]),
    (AtLeast(0, meaning="all"), "0 (all) or more", [0, 1], [-1]),
    (AtLeast(2, note=": one is no group"), "2 or more: one is no group", [2], [1]),
    (AtLeast(0, up_to=1), "0 to 1", [0, 0.5, 1], [-0.1, 1.1]),
    (AtLeast(0, below=1), "0 or more, below 1", [0, 0.99], [-0.1, 1]),
    (Above(0), "a number above 0", [1e-9, 5], [0, -1]),
    (Above(0, up_to=1), "above 0, up to 1", [0.1, 1], [0, 1.1]),
    (Above(0, below=1), "between 0 and 1", [0.1, 0.99], [0, 1]),
    (SomeOf(("k", "q")), "k, q", ["q", " k ,q,"], ["", ",", "q;k", "v", "q,v"]),
    (Rule(str.strip, "one or more words"), "one or more words", ["a photo"], ["", " "]),
]


@pytest.mark.parametrize(("bound", "words", "good", "bad"), BOUNDS, ids=[words for _, words, _, _ in BOUNDS])
def test_bounds(bound: Bound, words: str, good: list[object], bad: list[object]) -> None:
    assert bound.words == words
    assert all(bound.allows(value) for value in good)
    assert not any(bound.allows(value) for value in bad)


@dataclass(frozen=True)
class WithWord:
    width: Annotated[float | Literal["auto"], AtLeast(0)] = 0.1


def test_a_word_instead_of_a_number() -> None:
    """Bounds hold for the number; anything else is refused with both."""
    for good in ("auto", 0.3, 2):
        check_fields("table", WithWord(good))  # type: ignore[arg-type]
    for value, hint in (
        ("Auto", "Allowed: a number, or 'auto'."),
        (True, "Allowed: a number, or 'auto'."),
        (-1.0, "Allowed: 0 or more."),
        (float("nan"), "Allowed: a finite number."),
    ):
        with pytest.raises(ConfigError, match=r"table\.width = .* is out of range") as caught:
            check_fields("table", WithWord(value))  # type: ignore[arg-type]
        assert caught.value.hint == hint
    assert words_of(field_hints(WithWord)["width"][0]) == ("auto",)
    assert check_scalar(field_hints(WithWord)["width"][0], 2, "table.width") == 2.0


@dataclass(frozen=True)
class Settings:
    share: Annotated[float, "no bound", AtLeast(0), Rule(lambda share: share != 0.5, "not a half")] = 0.0


def test_a_field_has_any_number_of_bounds() -> None:
    hint, bounds = field_hints(Settings)["share"]
    assert hint is float
    assert [bound.words for bound in bounds] == ["0 or more", "not a half"]
    check_fields("table", Settings(1))
    for value, hint in ((-1, "Allowed: 0 or more."), (0.5, "Allowed: not a half.")):
        with pytest.raises(ConfigError, match=rf"table\.share = {value} is out of range") as caught:
            check_fields("table", Settings(value))
        assert caught.value.hint == hint
