"""Digests of images: equal for copies under any name and in any storage."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_images import picture, png_bytes

from feddtl.data.columns import Columns
from feddtl.data.decode import EncodedImage, pixel_digest
from feddtl.data.folders import FolderReader
from feddtl.data.hub import load_parquet
from feddtl.data.shapes import ArrayReader
from feddtl.data.table import ImageTable
from feddtl.errors import DataError


def as_table(reader, count):
    rows = np.arange(count)
    return ImageTable(reader, rows, rows * 0, rows * 0)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_files_are_named_by_their_bytes(tmp_path):
    names = ("a.png", "copy.jpg", "other.png")
    for name, grey in zip(names, (10, 10, 11), strict=True):
        (tmp_path / name).write_bytes(png_bytes(picture(grey)))
    table = as_table(FolderReader(tuple(tmp_path / name for name in names)), 3)
    first, copy, other = map(table.digest, range(3))
    assert first == copy != other
    assert {len(digest) for digest in (first, copy, other)} == {16}


def test_a_file_and_a_parquet_row_of_the_same_bytes_are_one_image(make_parquet, tmp_path):
    """Row i of the parquet file is `picture(10 + i)`."""
    table = load_parquet(make_parquet("train.parquet", ["cat", "dog", "cat", "dog"]), Columns()).train
    (tmp_path / "a.png").write_bytes(png_bytes(picture(12)))
    digests = [table.digest(index) for index in range(4)]
    assert len(set(digests)) == 4
    assert FolderReader((tmp_path / "a.png",))(0).digest() == digests[2]


def test_naming_decodes_nothing(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    table = as_table(FolderReader((tmp_path / "broken.jpg",)), 1)
    assert len(table.digest(0)) == 16
    with pytest.raises(DataError, match=r"broken\.jpg"):
        table.read(0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        FolderReader((tmp_path / "gone.png",))(0).digest()


def test_arrays_are_named_by_pixels_and_size():
    flat, tall = pixels(1, 4, 6, 3), pixels(1, 4, 6, 3).reshape(1, 6, 4, 3)
    changed = flat.copy()
    changed[0, 3, 5, 2] ^= 1
    first, copy, reshaped, other = (
        as_table(ArrayReader(array), 1).digest(0) for array in (flat, flat.copy(), tall, changed)
    )
    assert first == copy
    assert len({first, reshaped, other}) == 3


def test_a_plain_function_is_named_by_what_it_reads():
    images = pixels(3, 4, 6, 3)
    table = as_table(lambda row: Image.fromarray(images[row]), 3)
    for row in range(3):
        assert (
            table.digest(row)
            == as_table(ArrayReader(images), 3).digest(row)
            == pixel_digest(6, 4, images[row].tobytes())
        )


def test_a_selection_keeps_the_names():
    table = as_table(ArrayReader(pixels(5, 4, 6, 3)), 5)
    assert table.select([3, 0]).digest(0) == table.digest(3)


def test_encoded_bytes_and_pixels_do_not_share_names():
    content = pixels(2, 2, 3).tobytes()
    assert EncodedImage(content, "here").digest() != pixel_digest(2, 2, content)


STORED_MODES = {
    "PNG": ("RGB", "L", "P", "RGBA", "LA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "L", "P", "RGBA", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "RGBA"),
    "GIF": ("RGB", "L", "P"),
    "PPM": ("RGB", "L"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in STORED_MODES.items() for mode in modes])
def test_a_decoded_image_outlives_its_file(tmp_path, mode, kind):
    """The file is closed, and here removed, before the pixels are used."""
    file = tmp_path / "image"
    Image.fromarray(pixels(9, 7, 3)).convert(mode).save(file, kind)
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    image = EncodedImage(file, "here").decode()
    file.write_bytes(b"")
    file.unlink()
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image.resize(image.size)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_followed(tmp_path, orientation):
    """Against Pillow's own transposition of a copy."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "image.png"
    Image.fromarray(pixels(9, 7, 3)).save(file, exif=exif)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(EncodedImage(file, "here").decode()), expected)
    assert np.asarray(EncodedImage(file, "here").decode()).shape == ((9, 7, 3) if orientation < 5 else (7, 9, 3))
