"""One picture, however somebody holds it, is the same picture; files by paths and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feddtl.data.given_images import OneImage, given_images
from feddtl.data.listing import list_images
from feddtl.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def forms(folder: Path) -> dict[str, OneImage]:
    """The same pixels in every form."""
    file = folder / "a.png"
    Image.fromarray(PIXELS).save(file)
    channels_first = torch.from_numpy(PIXELS).permute(2, 0, 1)
    return {
        "text": str(file),
        "path": file,
        "pillow": Image.fromarray(PIXELS),
        "array": PIXELS,
        "transparent array": np.dstack([PIXELS, PIXELS[..., 0]]),
        "fractions": (PIXELS / 255).astype(np.float32),
        "tensor": channels_first,
        "tensor of fractions": channels_first / 255,
    }


def test_every_form_is_the_same_picture(tmp_path: Path) -> None:
    images = forms(tmp_path)
    alone = [given for image in images.values() for given in given_images(image)]
    for given in (*alone, *given_images(iter(images.values()))):
        assert np.array_equal(np.asarray(given.decode()), PIXELS)
    assert len(alone) == len(images)
    assert [given.name for given in given_images([tmp_path / "a.png", PIXELS])] == [
        f"{tmp_path}/a.png",
        "at position 1",
    ]


def test_grey_and_batches() -> None:
    grey = PIXELS[..., 0]
    for image in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        [given] = given_images(image)
        assert np.array_equal(np.asarray(given.decode()), np.repeat(grey[..., None], 3, axis=-1))
    for batch in (np.stack([PIXELS, PIXELS]), torch.from_numpy(PIXELS).permute(2, 0, 1).repeat(2, 1, 1, 1)):
        assert [given.decode().size for given in given_images(batch)] == [(7, 5), (7, 5)]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (PIXELS / 100, "outside 0 to 1"),
        (np.full((2, 2, 3), np.nan), "outside 0 to 1"),
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS[..., :2], r"\(5, 7, 2\)"),
        (np.zeros((0, 3, 3), np.uint8), "shape"),
        (torch.from_numpy(PIXELS), r"\(5, 7, 3\)"),  # as it was given
        (b"content of a file", "is bytes"),
        (7, "int is no image"),
        ([None], "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(image: OneImage, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        [given.decode() for given in given_images(image)]
    assert caught.value.hint.startswith("Give a file, a Pillow image")


def test_files_of_folders_in_order(tmp_path: Path) -> None:
    """A named file is taken as it is; in folders, only images, and none through a link that leads back."""
    for name in ("b.png", "sub/deep/a.JPG", "sub/z.png", ".hidden.png", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"-")
    (tmp_path / "photos" / "sub" / "again").symlink_to(tmp_path / "photos")
    named = tmp_path / "photos" / "notes.txt"
    notes: list[str] = []
    found = list_images([named, str(tmp_path / "photos")], note=notes.append)
    assert [str(Path(file).relative_to(tmp_path / "photos")) for file in found] == [
        *("notes.txt", "b.png", "sub/z.png", "sub/deep/a.JPG")
    ]
    assert len(notes) == 1
    assert ".txt (1)" in notes[0]


def test_images_that_are_certainly_missing(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"-")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "c.png").write_bytes(b"-")
    with pytest.raises(DataError, match=r"b\.png"):
        list_images(tmp_path)
    notes: list[str] = []
    assert list_images(tmp_path, skip_unread=True, note=notes.append) == [str(tmp_path / "c.png")]
    assert [note.split(":")[0] for note in notes] == [f"Skipped {tmp_path / name}" for name in ("b.png", "a.heic")]
    for missing in (tmp_path / "no.png", []):
        with pytest.raises(DataError):
            list_images(missing)
