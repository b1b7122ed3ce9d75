"""Classes that a text tower cannot tell apart, because their prompts are the same tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from feddtl.errors import DataError
from feddtl.models.text_tower import TextTower, prompts_for
from feddtl.units import first_few

MOST_PAIRS = 3


def require_distinct(tower: TextTower, class_names: Sequence[str], template: str) -> None:
    """Raise DataError naming the classes whose prompts the tower reads as the same tokens.

    Such names differ in what the tokenizer drops: case, Unicode form, blanks, or whatever follows the end of text. One
    of two such classes would never be predicted. Nothing is checked without the tower's weights, because the process
    that has them checks.

    Args:
        tower: Reads the prompts.
        class_names: All classes that one image may be given.
        template: Text with `{class}` in it; several, one a line. Two classes must differ in one of them.
    """
    if not tower.stack.is_loaded or not class_names:
        return
    ids, positions = tower.tokenize(prompts_for(class_names, template))
    # Under causal attention, nothing after the token that is read counts.
    ends = (positions + 1).tolist() if tower.stack.causal else [ids.shape[1]] * len(ids)
    read = [tuple(row[:end]) for row, end in zip(ids.tolist(), ends, strict=True)]
    first: dict[tuple[tuple[int, ...], ...], int] = {}
    pairs: list[str] = []
    for index in range(len(class_names)):
        if (earlier := first.setdefault(tuple(read[index :: len(class_names)]), index)) != index:
            one, two = class_names[earlier], class_names[index]
            pairs.append(f"{_shown(one, two)} and {_shown(two, one)}")
    if pairs:
        raise DataError(
            f"The model reads these classes as the same text, and could not tell them apart: "
            f"{first_few(pairs, MOST_PAIRS)}.",
            "Rename one of the two so that its words differ, or merge their images if they are one class.",
        )


def _shown(name: str, other: str) -> str:
    """A name in quotes; with escapes if the two would look alike."""
    alike = unicodedata.normalize("NFKC", name) == unicodedata.normalize("NFKC", other)
    return ascii(name) if alike else repr(name)
