"""Each row of docs/reference/what-is-read.md, tried with the smallest input."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_images import load, picture, png_bytes

from feddtl.data.decode import MOST_PIXELS
from feddtl.data.image_checks import copies_note
from feddtl.data.image_files import IMAGE_SUFFIXES
from feddtl.data.split_names import WORDS
from feddtl.errors import DataError
from feddtl.models.text_tower import prompts_for

# pytest shows warnings that a user does not see.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "what-is-read.md"
OUTCOMES = ("read", "noted", "ignored", "refused")
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text("utf-8").splitlines()]
ROWS = {cells[0]: cells[1] for cells in CELLS if len(cells) == 3 and cells[1] in OUTCOMES}
NAMES = ["cat", "dog"] * 2
ENCODED = [{"bytes": png_bytes(picture(grey)), "path": None} for grey in (20, 60, 100, 140)]


def save(root: Path, *files: str, image: Image.Image | None = None, **options: object) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (image or picture(len(file) * 9 % 200)).save(root / file, **options)


def table(root: Path, file: str, labels: object = NAMES, names: tuple[str, ...] = ()) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    if not names:
        return pq.write_table(pa.table({"image": ENCODED, "label": labels}), root / file)
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(names)))
    datasets.Dataset.from_dict({"image": ENCODED, "label": labels}, features=features).to_parquet(root / file)
    return None


def small(root: Path, *more: str) -> None:
    save(root, "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", *more)


def one(write: Callable[[Path], object], name: str = "cat/9.png") -> Callable[[Path], None]:
    """A small folder and one more file."""

    def build(root: Path) -> None:
        small(root)
        write(root / name)

    return build


def folder(*files: str, touched: tuple[str, ...] = (), folders: tuple[str, ...] = ()) -> Callable[[Path], None]:
    """Images, empty files and empty folders."""

    def build(root: Path) -> None:
        save(root, *files)
        for name in folders:
            (root / name).mkdir(parents=True)
        for name in touched:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    return build


def both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}/{index}.png" for name in names for index in range(2))


def tables(*files: tuple[str, object, tuple[str, ...]]) -> Callable[[Path], None]:
    return lambda root: [table(root, *file) for file in files] and None


def grey_16(*values: int) -> Image.Image:
    return Image.fromarray(np.uint16([values]))


def every_ending(root: Path) -> None:
    """MPO and AVIF sequences are saved as one picture."""
    small(root)
    kinds = {".apng": "PNG", ".avifs": "AVIF", ".pbm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".jpe": "JPEG"}
    for ending in sorted(IMAGE_SUFFIXES):
        file = root / "dog" / f"x{ending.upper()}"
        mode = {".pbm": "1", ".pgm": "L"}.get(ending, "RGB")
        picture(60).convert(mode).save(file, kinds.get(ending) or Image.registered_extensions()[ending])


def other_formats(root: Path) -> None:
    small(root)
    for name in ("a.HEIC", "b.cr2", "c.svg", "d.psd", "e.eps", "f.dcm"):
        (root / "cat" / name).write_bytes(b"?")


def modes(root: Path) -> None:
    small(root)
    for mode in ("L", "P", "1", "RGBA", "LA"):
        save(root, f"cat/mode {mode}.png", image=picture(255, mode))
    save(root, "cat/CMYK.tif", image=picture(255, "CMYK"))
    save(root, "cat/mask.gif", image=picture(1, "L").convert("P"), transparency=0)


def fourteen(root: Path) -> None:
    for number, name in enumerate((*both("cat"), *both("dog"))):
        save(root, name, image=grey_16(9, 16383 - number))


def sixteen(root: Path) -> None:
    small(root)
    save(root, "cat/8.png", image=grey_16(0, 65535))
    save(root, "cat/9.tif", image=grey_16(0, 4095), tiffinfo={281: 4095})
    (root / "cat" / "10.pgm").write_bytes(b"P5 2 1 4095\n\0\0\x0f\xff")
    (root / "cat" / "11.ppm").write_bytes(b"P6 1 1 65535\n" + b"\xff" * 6)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    picture(9, size=(3, 9)).save(path, exif=exif)


def odd_exif(path: Path) -> None:
    picture(9).save(path, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0")


def linked(root: Path) -> None:
    small(root / "x")
    root.mkdir(exist_ok=True)
    for name in ("cat", "dog"):
        shutil.move(root / "x" / name, root.parent / f"elsewhere-{name}")
        (root / name).symlink_to(root.parent / f"elsewhere-{name}")
    (root / "x").rmdir()
    (root / "dog" / "9.png").symlink_to(root / "cat" / "0.png")


def copies(root: Path) -> None:
    small(root / "train")
    shutil.copytree(root / "train", root / "test")


def split_column(root: Path) -> None:
    root.mkdir()
    pq.write_table(
        pa.table({"image": ENCODED, "label": NAMES, "is_test": [False, False, True, True]}), root / "a.parquet"
    )


def site_column(root: Path) -> None:
    root.mkdir()
    pq.write_table(pa.table({"image": ENCODED, "label": NAMES, "site": list("nnss")}), root / "a.parquet")


def card(root: Path) -> None:
    tables(("a.parquet", NAMES, ()), ("b.parquet", NAMES, ()))(root)
    files = "data_files:\n  - {split: train, path: a*}\n  - {split: test, path: b.parquet}"
    (root / "README.md").write_text(f"---\nconfigs:\n- {files}\n---\n# Pets\n", encoding="utf-8")


def apart(name: str) -> str:
    return unicodedata.normalize("NFD", name)


SPLIT = (*both("train/cat", "train/dog"), *both("test/cat", "test/dog"))
HEADER = f"P4 {MOST_PIXELS} 2\n".encode()
ANIMATION = {"save_all": True, "append_images": [picture(99), picture(199)]}
TRIED: dict[str, tuple[Callable[[Path], object], int | str]] = {
    # input: how to build it, and the number of images, or the words of the note or error
    "files that end in": (every_ending, 4 + len(IMAGE_SUFFIXES)),
    "HEIC, camera raw": (other_formats, "6 images in a format that is not read"),
    "a file of one of these": (one(lambda path: picture(9).save(path, "JPEG")), 5),
    "a file of any other format": (one(lambda path: picture(9).save(path, "EPS")), "another format than JPEG"),
    "grey, palette": (modes, 11),
    "grey or colours of 16": (sixteen, 8),
    "values of 16 bits, all": (one(lambda path: grey_16(0, 4095).save(path)), "below 4096"),
    "colours of 16 bits": (
        one(lambda path: path.write_bytes(b"P6 1 1 65535\n" + bytes(6)), "cat/9.ppm"),
        "0 or below 256",
    ),
    "values of 16 bits, of": (fourteen, "exceeds 16383 of 65535"),
    "pixels of 32": (one(lambda path: Image.fromarray(np.float32([[1]])).save(path, "TIFF")), "32-bit pixels"),
    "an EXIF orientation": (one(turned), 5),
    "odd or damaged EXIF": (one(odd_exif), 5),
    "an animation": (one(lambda path: picture(9).save(path, "GIF", **ANIMATION)), 5),
    "more than 178,956,970": (one(lambda path: path.write_bytes(HEADER), "cat/9.pbm"), "at most 178,956,970"),
    "damaged and empty files": (one(lambda path: path.write_bytes(b"")), "it is empty"),
    "test images that are": (copies, "4 of 4 test images are training images too"),
    "`ROOT/CLASS": (small, 4),
    "`ROOT/DOMAIN": (folder(*both("fog/cat", "fog/dog", "sun/cat")), 6),
    "`ROOT/train": (folder(*(file.replace("test", "Testing") for file in SPLIT)), 8),
    "`ROOT/SITE/train": (folder(*both("a/train/cat", "a/test/cat", "b/train/dog")), "a folder of sites"),
    "a folder of folders": (folder(*both("tset/cat", "photo/cat", "photo/dog")), "looks like a test split"),
    "splits below": (folder(*both("cat/train", "cat/test", "dog/train")), "Splits belong above"),
    "`ROOT/test": (folder(*SPLIT[4:]), "no folder 'train'"),
    "folders other than": (folder(*SPLIT, *both("old/cat")), "are ignored: old"),
    "images that no class": (folder(*SPLIT, "0.png", "train/0.png"), "have no class and are ignored: 1"),
    "images below": (folder(*both("cat", "dog", "dog/2024")), "2 images deeper"),
    "a class folder without": (folder(*both("cat", "dog"), folders=("fox",)), "contains no images"),
    "links to files": (linked, 5),
    "links to something": (one(lambda path: path.symlink_to("/nowhere/at/all")), "1 link"),
    "files that are not": (folder(*both("cat", "dog"), touched=("cat/a.txt",)), r"not used: \.txt \(1\)"),
    "folders with images whose": (folder(*both("cat", "dog", ".fox/old")), r"have images: \.fox\. Rename"),
    "other names that begin": (
        folder(
            *both("cat", "dog"),
            touched=("cat/.9.png", "cat/Thumbs.db", "dog/desktop.ini"),
            folders=("__MACOSX", "@eaDir", ".git"),
        ),
        4,
    ),
    "class names with accents": (folder(*both(apart("é"), "train/a")[:2], *both("a")), 4),
    "two folders whose": (folder(*both("é", apart("é"), "a")), "two Unicode forms"),
    "names of classes and": (folder(*both("caf\udce9", "a")), "not stored as UTF-8"),
    "class names with braces": (folder(*both("{class}", "50 % {0}", "$x_1$")), 6),
    "`train-*.parquet`": (tables(("data/train-0.parquet", NAMES, ()), ("data/test-0.parquet", NAMES, ())), 8),
    "`mydata_test.parquet`": (tables(("train/0.parquet", NAMES, ()), ("test/mydata_eval.parquet", NAMES, ())), 8),
    "a single file": (tables(("pets.parquet", NAMES, ())), 4),
    "classes as `ClassLabel`": (
        tables(
            ("train-0.parquet", [0, 1] * 2, ("cat", "dog")), ("train-1.parquet", pa.array(NAMES, pa.large_string()), ())
        ),
        8,
    ),
    "files that list": (
        tables(("train-0.parquet", [0, 1] * 2, ("cat", "dog")), ("train-1.parquet", [1, 0] * 2, ("dog", "cat"))),
        8,
    ),
    "classes as numbers": (tables(("train.parquet", [0, 1] * 2, ())), "classes without names"),
    "class names in one": (
        tables(("train-0.parquet", NAMES, ()), ("train-1.parquet", [0, 1] * 2, ())),
        "whole numbers",
    ),
    "rows without a label": (tables(("train.parquet", ["cat", None, "dog", ""], ())), "Row 1 of"),
    "a file with a name": (tables(("train.parquet", NAMES, ()), ("tset.parquet", NAMES, ())), "looks like a split"),
    "a column that says": (split_column, "'is_test' .* looks like the split of each row"),
    "a column `site`": (site_column, "column 'site' of .* is not used"),
    "files that `README.md`": (card, "README.md puts b.parquet into the split 'test'"),
    "a test file without": (tables(("mydata-test.parquet", NAMES, ())), "no training file"),
    "a series such as": (tables(("train-00000-of-00003.parquet", NAMES, ())), "is missing"),
    "parquet files in several": (tables(("a/0.parquet", NAMES, ()), ("b/0.parquet", NAMES, ())), "several subfolders"),
    "images, and tables": (lambda root: (table(root, "train.parquet"), save(root, "0.png")), r"not used: \.png \(1\)"),
    "damaged files": (folder(touched=("train-0.parquet", "train-1.parquet")), "Cannot read 2 parquet files"),
}


def test_every_row_is_tried():
    assert len(ROWS) == len(TRIED)
    assert all(sum(row.startswith(start) for row in ROWS) == 1 for start in TRIED)


@pytest.mark.parametrize("start", TRIED)
def test_a_row_is_true(tmp_path, monkeypatch, start):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    build, expected = TRIED[start]
    outcome = next(ROWS[row] for row in ROWS if row.startswith(start))
    root = tmp_path / "photos"
    build(root)
    if outcome == "refused":
        with pytest.raises(DataError, match=str(expected)) as refused:
            read_all(root)
        assert refused.value.hint
        return
    dataset, images = read_all(root)
    assert all(image.mode == "RGB" for image in images)
    if outcome == "noted":
        contents = [[part.digest(at) for at in range(len(part))] for part in (dataset.train, dataset.test)]
        notes = [*dataset.notes, copies_note((dataset.train, contents[0]), [(dataset.test, contents[1])])]
        assert any(re.search(str(expected), note) for note in notes)
    else:
        assert len(images) == expected
        assert not [note for note in dataset.notes if "used" in note or "ignored" in note]


def read_all(root):
    dataset = load(root)
    return dataset, [part.read(at) for part in (dataset.train, dataset.test) for at in range(len(part))]


def test_the_words_and_endings_of_the_page():
    text = PAGE.read_text(encoding="utf-8")
    first = next(row for row in ROWS if row.startswith("files that end in"))
    assert set(re.findall(r"`(\.\w+)`", first)) == IMAGE_SUFFIXES
    listed = re.findall(r"^\| (train|test|validation) \| (.*?) \|$", text, re.MULTILINE)
    assert {split: set(re.findall(r"`(\w+)`", words)) for split, words in listed} == {
        split: set(words) for split, words in WORDS.items()
    }


@pytest.mark.parametrize("name", ["{class}", "{0}", "100 %", "%s", "$x_1$", "a {class} of {", "\\n", "<b>"])
def test_odd_letters_of_a_name_stand_in_the_prompt_as_they_are(make_folder, name):
    classes = load(make_folder(f"{name}/0.png", f"{name}/1.png", "z/0.png", "z/1.png")).class_names
    shown = " ".join(name.replace("_", " ").split())
    assert shown in classes
    assert prompts_for([shown], "a photo of a {class}, {a} 5 % of $5.") == [f"a photo of a {shown}, {{a}} 5 % of $5."]
