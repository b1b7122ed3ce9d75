"""What a folder of images contains: its images, and everything beside them that is not used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from feddtl.config.names import composed
from feddtl.data.image_files import CONVERT, IMAGE_SUFFIXES, READ_FORMATS, UNREAD_SUFFIXES, contains_images, visible
from feddtl.errors import DataError
from feddtl.notes import Warned
from feddtl.units import counted, first_few

MOST_LINES = 10


@dataclass(frozen=True)
class ImageFolder:
    """A folder with what is visible in it, in alphabetical order.

    Attributes:
        path: The folder.
        name: Its name in the same Unicode form on every system.
        images: Its image files.
        folders: Its sub-folders.
    """

    path: Path
    name: str
    images: tuple[Path, ...]
    folders: tuple[ImageFolder, ...]

    def below(self) -> Iterator[Path]:
        """Image files in the sub-folders, at any depth."""
        for folder in self.folders:
            yield from folder.images
            yield from folder.below()


@dataclass
class Leftovers:
    """What is in a folder of images and is not used.

    Attributes:
        broken: Links that lead nowhere.
        unread: Images in a format that is not read.
        endings: Number of other files by ending.
        hidden: Folders with images whose names begin with a dot.
    """

    broken: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    hidden: list[Path] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Count a file that is no image that can be read."""
        if file.suffix.lower() in UNREAD_SUFFIXES:
            self.unread.append(file)
        else:
            self.endings[file.suffix.lower() or "no ending"] += 1

    def check(self, root: Path) -> None:
        """Raise DataError if images are certainly missing: broken links, and images that are not read."""
        if self.broken:
            raise DataError(
                f"{root} has {counted(len(self.broken), 'link')} to a file or folder that does not exist:"
                f"{lines_of([str(file) for file in self.broken])}",
                "Restore what the links point to, or remove them.",
            )
        if self.unread:
            endings = Counter(file.suffix.lower() for file in self.unread)
            kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
            raise DataError(
                f"{root} has {counted(len(self.unread), 'image')} in a format that is not read ({kinds}):"
                f"{lines_of([str(file) for file in self.unread])}",
                f"{CONVERT}. Or move them elsewhere. Formats that are read: {READ_FORMATS}.",
            )

    def note(self, root: Path) -> str:
        """What the user should know of the other files; '' for nothing."""
        kinds = [
            f"{ending} ({count})"
            for ending, count in sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))
        ]
        notes = [f"Files in {root} that are not images are not used: {first_few(kinds, MOST_LINES)}."] if kinds else []
        if self.hidden:
            names = first_few([str(folder.relative_to(root)) for folder in self.hidden], MOST_LINES)
            notes.append(
                f"Folders in {root} whose names begin with a dot are not used, although they have images: {names}. "
                "Rename them if they are classes."
            )
        return Warned(" ".join(notes)) if self.hidden else " ".join(notes)


def read_tree(root: Path) -> tuple[ImageFolder, Leftovers]:
    """A folder with all its sub-folders. Hidden names, and those of the system's own files, are ignored.

    Raises:
        OSError: A folder cannot be read.
    """
    left = Leftovers()
    return _read(root, left, ()), left


def _read(path: Path, left: Leftovers, above: tuple[str, ...]) -> ImageFolder:
    real = os.path.realpath(path)
    # A link to a folder above would lead in circles.
    folders, images = ([], []) if real in above else entries(path, left)
    below = tuple(_read(folder, left, (*above, real)) for folder in folders)
    return ImageFolder(path, composed(path.name), tuple(images), below)


def entries(path: Path, left: Leftovers) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the images of a folder; what else is visible in it, but parquet files, is left over."""
    folders, images = [], []
    left.hidden += filter(_is_hidden_folder_of_images, sorted(path.glob(".*")))
    for entry in visible(path):
        if entry.is_dir():
            folders.append(entry)
        elif entry.is_symlink() and not entry.exists():
            left.broken.append(entry)
        elif is_image(entry):
            images.append(entry)
        elif entry.suffix.lower() != ".parquet":
            left.add(entry)
    return folders, images


def _is_hidden_folder_of_images(entry: Path) -> bool:
    try:
        return entry.is_dir() and contains_images(entry)
    except OSError:  # nobody asked for it
        return False


def is_image(entry: Path) -> bool:
    """Whether an entry is a file that is read as an image."""
    return entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()


def lines_of(entries: list[str], most: int = MOST_LINES) -> str:
    """Entries on a line each, each after a line break; if there are more than `most`, with the number of the others."""
    more = [f"and {len(entries) - most} more"] if len(entries) > most else []
    return "".join(f"\n  {entry}" for entry in (*entries[:most], *more))
