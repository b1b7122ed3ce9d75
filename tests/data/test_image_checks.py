"""All damaged images are named at once, and images that are trained on and scored are counted."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from cli.small_runs import make_bench
from PIL import Image
from small_images import picture, png_bytes

from feddtl.cli.progress import run_progress
from feddtl.config import ComputeConfig
from feddtl.data.decode import EncodedImage
from feddtl.data.folders import FolderReader
from feddtl.data.image_checks import all_damaged_named, copies_note, damaged_images, dark_note
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.notes import noted
from feddtl.preparation import prepare


def table_of(folder, contents):
    files = []
    for index, content in enumerate(contents):
        files.append(folder / f"{index:02}.png")
        files[-1].write_bytes(content)
    rows = np.arange(len(files))
    return ImageTable(FolderReader(tuple(files)), rows, rows * 0, rows * 0)


INTACT = png_bytes(picture(9))


class TestDamaged:
    def test_each_is_named_with_its_reason(self, tmp_path):
        table = table_of(tmp_path, [INTACT, b"", INTACT[:40], INTACT] * 10)
        messages = [error.message for error in damaged_images([table, table.select([1])], threads=3)]
        assert len(messages) == 20
        assert "01.png: it is empty" in messages[0]
        assert "02.png" in messages[1]

    def test_the_error_of_one_becomes_that_of_all(self, tmp_path):
        table, notes = table_of(tmp_path, [INTACT, b"", INTACT] * 14), []
        named = all_damaged_named([table], 2, notes.append)
        with pytest.raises(DataError, match=r"14 images cannot be used:\n.*01\.png") as refused, named:
            table.read(1)
        assert refused.value.message.endswith("and 4 more")
        assert "intact copy" in refused.value.hint
        assert len(notes) == 1

    def test_a_single_one_and_other_errors_stay_as_they_are(self, tmp_path):
        table = table_of(tmp_path, [INTACT, b""])
        with pytest.raises(DataError, match=r"^Cannot read the image .*01\.png"), all_damaged_named([table], 1):
            table.read(1)
        with pytest.raises(DataError, match="another"), all_damaged_named([table.select([0])], 1):
            raise DataError("another")


class TestCopies:
    def test_they_are_counted_and_named(self, tmp_path):
        table = table_of(tmp_path, [png_bytes(picture(grey)) for grey in (1, 2, 3, 2, 1)])
        contents = list(map(table.digest, range(5)))
        train, *scored = [(table.select(part), [contents[at] for at in part]) for part in ([0, 1], [2, 3], [4])]
        note = copies_note(train, scored)
        assert note.startswith("2 of 3 test images are training images too")
        pairs = [
            f"{tmp_path / f'0{copy}.png'} (trained on as {tmp_path / f'0{of}.png'})" for copy, of in ((3, 1), (4, 0))
        ]
        assert note.endswith(f"Remove the copies, such as {' and '.join(pairs)}.")
        assert noted(note).startswith("warning: 2 of 3")

    def test_nothing_is_said_without_any(self, tmp_path):
        table = table_of(tmp_path, [png_bytes(picture(grey)) for grey in (1, 2)])
        assert copies_note((table.select([0]), [table.digest(0)]), [(table.select([1]), [table.digest(1)])]) == ""


@pytest.mark.parametrize("cache", ["off", "cache"])
def test_a_run_warns_of_copies_and_names_all_damaged_images(tmp_path, capsys, cache):
    """The warning is all that --quiet leaves of the notes."""
    bench = make_bench(tmp_path)
    first, second = sorted((bench.photos / "train" / "ant").glob("*.png"))[:2]
    shutil.copy(first, bench.photos / "test" / "ant" / "copy.png")
    folder = cache if cache == "off" else str(tmp_path / cache)
    experiment = bench.experiment(compute=ComputeConfig(cache_folder=folder, device="cpu"))
    capsys.readouterr()  # what was said when the model was written
    with run_progress(quiet=True) as observer:
        data = prepare(experiment, observer).data
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: 1 of 19 test images are training images too")
    assert said.endswith(f"such as {bench.photos / 'test' / 'ant' / 'copy.png'} (trained on as {first}).")
    assert said.removeprefix("warning: ") in data.notes
    assert len(data.notes) > 1
    second.write_bytes(b"damaged")
    (bench.photos / "test" / "fox" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 images cannot be used") as refused:
        prepare(experiment)
    assert str(second) in refused.value.message


@pytest.mark.parametrize(
    ("largest", "said"),
    [([16383, 9000], True), ([16384, 9000], False), ([0, 0], False), ([None, 9000], False), ([], False)],
    ids=["14 bits", "a brighter one", "black", "8 bits", "no image"],
)
def test_images_that_use_fewer_bits_than_they_have(largest, said):
    def image(value):
        stored = Image.new("L", (1, 1)) if value is None else Image.fromarray(np.uint16([[value]]))
        return EncodedImage(png_bytes(stored), "one")

    images = [image(value) for value in largest]
    rows = np.arange(len(images))
    table = ImageTable(images.__getitem__, rows, np.zeros(len(images), int), np.zeros(len(images), int))
    note = dark_note(table)
    assert ("2 images of 16 bits exceeds 16383 of 65535" in note) == said
    assert bool(note) == said
