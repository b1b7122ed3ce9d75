"""Which split a folder or a file belongs to by its name, and which names merely look like a split.

The words and their separators are those by which the `datasets` library divides files without a configuration
(`datasets.data_files`, version 5); here, case is ignored.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from feddtl.errors import DataError

Split = Literal["train", "validation", "test"]
WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# The first that a source has is its test split.
TEST_SPLITS: tuple[Split, ...] = ("test", "validation")
KINDS: dict[str, Split] = {word: split for split, words in WORDS.items() for word in words}
ACCEPTED = ", ".join(KINDS)

_SEPARATORS = re.compile(r"[-._ 0-9]+")
_HUMPS = re.compile(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])")  # 'TestImages' is 'Test' and 'Images'
_COMPANIONS = re.compile(r"(sets?|data|datasets?|images?|imgs?|splits?|folders?|files?|samples?|pictures?|photos?)")
_OTHER_WORDS: dict[str, Split] = {
    "trn": "train",
    "tst": "test",
    "holdout": "test",
    "heldout": "test",
    "trainval": "train",
    "crossval": "validation",
}
# Too short to mean a split alone; languages have such codes.
ABBREVIATIONS = frozenset(("tr", "te", "ts", "va"))
_ANY = re.compile("|".join((*KINDS, *_OTHER_WORDS)), re.IGNORECASE)
_LONG = 7  # letters of a word that can be misspelt in more ways


def split_of(name: str) -> Split | None:
    """The split that a name belongs to, because one of its words is that of a split: `mydata_test` is a test split.

    Raises:
        DataError: Its words are those of several splits.
    """
    found = list(dict.fromkeys(KINDS[word] for word in _words(name) if word in KINDS))
    if len(found) > 1:
        raise DataError(
            f"The name '{name}' is that of two splits, {found[0]} and {found[1]}.", "Rename it, for example to 'train'."
        )
    return found[0] if found else None


def is_bare_split(name: str) -> bool:
    """Whether a name says nothing but a split: `test`, `Test-2`, `testset` and `val images`, but not `test tube`."""
    words = _finer_words(name)
    return any(map(_kind, words)) and all(_kind(word) or _COMPANIONS.fullmatch(word) for word in words)


def without_split(name: str) -> str:
    """The words of a name that are not those of a split: 'cat' for `cat_test`, 'a' for `trainA`."""
    return " ".join(word for word in _finer_words(name) if not _kind(word))


def marked_split(name: str) -> Split | None:
    """The split that a word of a name says, also in `TestImage7`; None for none or several."""
    if not _ANY.search(_plain(name)):  # nearly all names of files
        return None
    found = {split for word in _finer_words(name) if (split := _kind(word))}
    return found.pop() if len(found) == 1 else None


def resembled_split(name: str) -> Split | None:
    """The split that a name looks like although `split_of` does not take it for one: `tset`, `testset`, `TrainImages`.

    Only for names of folders of folders and of tables. A class may well be named `trainers`.
    """
    for word in (*_words(name), *_finer_words(name)):
        stem = max((known for known in ("train", "test", "valid", "eval") if word.startswith(known)), default="")
        if split := _kind(word) or KINDS.get(stem) or _misspelt(word):
            return split
    return None


def are_abbreviated(names: Sequence[str]) -> bool:
    """Whether names are those of splits in short, `tr` and `te` or `data_tr` and `data_te`, and of nothing else."""
    short: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        words = _finer_words(name)
        rest = tuple(word for word in words if word not in ABBREVIATIONS)
        short.setdefault(rest, set()).update(ABBREVIATIONS.intersection(words))
    return all(short.values()) and any("tr" in found and len(found) > 1 for found in short.values())


def only_one(names: Sequence[str], split: Split, where: str) -> str:
    """The only one of the names of a split; '' for none. Raises DataError for several."""
    if len(names) > 1:
        raise DataError(
            f"{where} has several {split} splits: {', '.join(names[:5])}.",
            "Join them in one, or remove or rename all but one.",
        )
    return next(iter(names), "")


def _words(name: str) -> list[str]:
    return [word.casefold() for word in _SEPARATORS.split(_plain(name)) if word]


def _finer_words(name: str) -> list[str]:
    """Words that also end where lower case meets upper case."""
    return [word.casefold() for word in _HUMPS.findall(_plain(name))]


def _plain(name: str) -> str:
    """A name with plain letters in place of those of full width, which some keyboards write."""
    return unicodedata.normalize("NFKC", name)


def _kind(word: str) -> Split | None:
    """The split of a whole word, with a companion such as 'set' before or after it."""
    for known, split in (*KINDS.items(), *_OTHER_WORDS.items()):
        rest = word.removeprefix(known) if word.startswith(known) else word.removesuffix(known)
        if not rest or (rest != word and (_COMPANIONS.fullmatch(rest) or word == f"{known}s")):
            return split
    return None


def _misspelt(word: str) -> Split | None:
    """The split whose word differs by exchanged, doubled or lost letters, but not by its first."""
    for known, split in KINDS.items():
        if len(known) < len("test") or word[:1] != known[0] or known == "eval":
            continue
        exchanged = sorted(word) == sorted(known)
        doubled = re.sub(r"(.)\1", r"\1", word) == known
        lost = len(known) > len("test") and any(word == known[:at] + known[at + 1 :] for at in range(1, len(known)))
        close = len(known) >= _LONG and difflib.SequenceMatcher(None, word, known).ratio() > 0.85
        if exchanged or doubled or lost or close:
            return split
    return None
