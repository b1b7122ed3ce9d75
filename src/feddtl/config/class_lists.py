"""Lists of class names as one text, and files of class names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from feddtl.checks import FILE_MARK, names_a_file
from feddtl.config.names import name_key, readable
from feddtl.errors import ConfigError

OTHERS = "others"
MOST_BYTES = 10_000_000  # of a file of names; a larger one is something else


def split_class_names(text: str, key: str) -> tuple[str, ...]:
    """The names in a text, separated by commas or lines; a name that contains a comma is in double quotes.

    Underscores and repeated blanks in names become single spaces.

    Args:
        text: `cat, "maillot, tank suit"`.
        key: The setting, for errors.

    Raises:
        ConfigError: A quotation mark is not closed.
    """
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ConfigError(
            f"{key} = {text!r} is not a list of names: {error}.",
            f'Separate names by commas, put a name with a comma into "quotes", or use {FILE_MARK}FILE, a name a line.',
        ) from None
    return tuple(name for row in rows for entry in row if (name := readable(entry)))


def joined_class_names(names: Sequence[str]) -> str:
    """The text of which `split_class_names` makes these names."""
    return ", ".join(f'"{name.replace(chr(34), 2 * chr(34))}"' if _is_quoted(name) else name for name in names)


def require_different(names: Sequence[str], where: str) -> None:
    """Raise ConfigError if two names differ in case alone, or not at all; `where` begins the error."""
    seen: set[str] = set()
    for name in names:
        key = name_key(name)
        if key in seen:
            raise ConfigError(f"{where} '{name}' twice.", "Name each class only once.")
        seen.add(key)


def read_class_names(text: str, key: str) -> str:
    """The text itself, or the names of the file that it names, as one text.

    A file is read where a person gives it, and never where a setting comes from a run folder or over a network.

    Args:
        text: A list of names, or `@FILE`.
        key: The setting, for errors.

    Raises:
        ConfigError: The file cannot be read, or contains no name.
    """
    if not names_a_file(text):
        return text
    names = [name for line in lines_of_file(text, key) if (name := readable(line))]
    return joined_class_names(names)


def read_prompt(prompt: str, key: str) -> str:
    """The prompt itself, or the templates of the file that it names; see `read_class_names`."""
    return "\n".join(lines_of_file(prompt, key, "template")) if names_a_file(prompt) else prompt


def lines_of_file(text: str, key: str, what: str = "class name") -> list[str]:
    """The lines of the file in `@FILE` that are not blank, without blanks around them.

    Args:
        text: `@FILE`.
        key: The setting, for errors.
        what: What each line is, for errors.

    Raises:
        ConfigError: The file cannot be read, is too large for a list, or has no such line.
    """
    path = Path(text.strip()[len(FILE_MARK) :].strip())
    try:
        path = path.expanduser()
        if not path.is_file():
            raise ConfigError(
                f"{key} = {text!r}: there is no file {path}.", f"Give a text file with one {what} a line."
            )
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{key} = {text!r}: {path} is too large for a list.", f"Give one {what} a line.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, ValueError, RuntimeError) as error:  # the last one is said of an unknown home folder
        raise ConfigError(
            f"{key} = {text!r}: cannot read {path}: {str(error).rstrip('.')}.", "Give a UTF-8 text file."
        ) from None
    if not any(lines):
        raise ConfigError(f"{key} = {text!r}: {path} is empty.", f"Write one {what} on each line.")
    return [line for line in lines if line]


def _is_quoted(name: str) -> bool:
    """Whether a name means something else without quotes."""
    return any(letter in name for letter in ',"\r\n') or name.startswith(FILE_MARK) or name == OTHERS
