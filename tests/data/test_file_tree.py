"""Images that would be left out are refused; other files are noted, and hidden ones ignored."""

from __future__ import annotations

import unicodedata

import pytest
from small_images import grey_value, load, picture

from feddtl.data.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from feddtl.errors import DataError

SMALL = tuple(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(2))


def count(dataset):
    return len(dataset.train) + len(dataset.test)


def test_every_ending_of_a_format_that_is_read():
    """Against Pillow's own list, so that no ending is missing."""
    from PIL import Image

    from feddtl.data.decode import FORMATS

    Image.init()
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known - {".pfm"} == IMAGE_SUFFIXES
    assert not IMAGE_SUFFIXES & UNREAD_SUFFIXES


ENDINGS = {
    **{"jfif": "JPEG", "JPE": "JPEG", "mpo": "MPO", "apng": "PNG", "dib": "DIB", "TIFF": "TIFF", "pbm": "PPM"},
    **{"avif": "AVIF", "jp2": "JPEG2000", "j2k": "JPEG2000"},
}


@pytest.mark.parametrize(("ending", "kind"), ENDINGS.items())
def test_images_of_any_ending_are_read(make_folder, ending, kind):
    root = make_folder(*SMALL)
    picture(grey_value("new"), "1" if kind == "PPM" else "RGB").save(root / "cat" / f"9.{ending}", kind)
    dataset = load(root)
    assert count(dataset) == 5
    assert all(table.read(i).mode == "RGB" for table in (dataset.train, dataset.test) for i in range(len(table)))


def test_images_in_other_formats_are_refused_together(make_folder):
    root = make_folder(*SMALL)
    for index in range(12):
        (root / "cat" / f"IMG_{index:02}.HEIC").touch()
    (root / "dog" / "scan.dcm").touch()
    with pytest.raises(DataError, match=r"13 images in a format that is not read \(12 \.heic, 1 \.dcm\)") as refused:
        load(root)
    assert "IMG_09.HEIC" in refused.value.message
    assert refused.value.message.endswith("and 3 more")
    assert "Convert it to JPEG" in refused.value.hint


@pytest.mark.parametrize("link", ["cat/3.png", "cat/3", "fox", "note.txt", "train"])
def test_links_to_nowhere_are_refused(make_folder, link):
    root = make_folder(*SMALL)
    (root / link).symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match=f"1 link to a file or folder that does not exist:\n.*{link}") as refused:
        load(root)
    assert "Restore" in refused.value.hint


def test_links_that_lead_somewhere_are_followed(make_folder, tmp_path):
    root = make_folder(*SMALL)
    elsewhere = make_folder("0.png", "1.png", name="fox")
    (root / "fox").symlink_to(elsewhere)
    (root / "cat" / "9.png").symlink_to(elsewhere / "0.png")
    assert count(load(root)) == 7
    (root / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="1 link"):
        load(root)


@pytest.mark.parametrize("deep", ["cat/2024/9.png", "cat/2024/may/9.png", "dog/a/b/c/9.jpg"])
def test_images_below_a_class_are_refused(make_folder, deep):
    with pytest.raises(DataError, match=r"1 image deeper than its class folders:\n.*9\.") as caught:
        load(make_folder(*SMALL, deep))
    assert "sites" not in caught.value.hint  # a class with images of its own is no site


@pytest.mark.parametrize(
    ("cells", "doubtful"),
    [
        (("ant/2023", "ant/2024", "bee/2023", "bee/2024"), True),
        (("ant/queen", "ant/worker", "bee/drone"), True),
        (("fog/ant", "fog/bee", "sun/bee"), False),
        (("fog/ant", "fog/bee"), False),
    ],
)
def test_classes_that_may_be_read_as_domains_are_noted(make_folder, cells, doubtful):
    notes = load(make_folder(*(f"{cell}/{i}.png" for cell in cells for i in range(2)))).notes
    assert any("If ant is a class, move its images up" in note for note in notes) == doubtful


def test_images_below_a_class_of_a_domain_are_refused(make_folder):
    files = [f"{d}/{c}/{i}.png" for d in ("fog", "sun") for c in ("cat", "dog") for i in range(2)]
    with pytest.raises(DataError, match="2 images deeper") as caught:
        load(make_folder(*files, "fog/cat/old/1.png", "fog/cat/old/2.png"))
    assert "--data.partition sites" in caught.value.hint


def test_other_files_are_noted_by_their_endings(make_folder):
    root = make_folder(*SMALL)
    for name in ("a.txt", "b.TXT", "film.mp4", "README"):
        (root / "cat" / name).touch()
    assert load(root).notes[0].endswith("are not used: .txt (2), .mp4 (1), no ending (1).")


@pytest.mark.parametrize("name", [".9.png", "._1.png", ".DS_Store", "Thumbs.db", "desktop.ini"])
def test_hidden_files_are_ignored(make_folder, name):
    root = make_folder(*SMALL)
    (root / "cat" / name).touch()
    (root / "__MACOSX").mkdir()
    (root / "@eaDir").mkdir()
    dataset = load(root)
    assert count(dataset) == 4
    assert len(dataset.notes) == 1, "only that a test split is held out"


class TestUnicode:
    def test_names_are_composed(self, make_folder):
        apart = unicodedata.normalize("NFD", "café")
        whole = load(make_folder("café/0.png", "café/1.png", "thé/0.png", "thé/1.png", name="composed"))
        other = load(
            make_folder(*(f"{unicodedata.normalize('NFD', n)}/{i}.png" for n in ("café", "thé") for i in (0, 1)))
        )
        assert apart != "café"
        assert other.class_names == whole.class_names == ("café", "thé")

    def test_splits_in_two_forms_have_the_same_classes(self, make_folder):
        files = [f"train/{unicodedata.normalize('NFD', n)}/0.png" for n in ("é", "ü")]
        assert load(make_folder(*files, "test/é/0.png", "test/ü/0.png")).class_names == ("é", "ü")

    @pytest.mark.parametrize("above", ["", "fog/"])
    def test_two_folders_that_become_equal_are_refused(self, make_folder, above):
        names = ("é", unicodedata.normalize("NFD", "é"), "a")
        with pytest.raises(DataError, match="the same name 'é' in two Unicode forms"):
            load(make_folder(*(f"{above}{name}/0.png" for name in names)))

    def test_two_domains_that_become_equal_are_refused(self, make_folder):
        names = ("é", unicodedata.normalize("NFD", "é"))
        with pytest.raises(DataError, match="the same name 'é' in two Unicode forms"):
            load(make_folder(*(f"{name}/{c}/0.png" for name in names for c in ("cat", "dog"))))
