from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import (
    SPLITS,
    MakeFolder,
    grey_value,
    greys,
    load,
    per_class,
    picture,
)

from feddtl.data.folders import load_folder
from feddtl.data.splits import with_test_split
from feddtl.data.table import ImageDataset
from feddtl.errors import DataError


class TestFolders:
    def test_class_folders_below_train_and_test(self, make_folder: MakeFolder) -> None:
        dataset = load(str(make_folder(*SPLITS)))
        assert dataset.name == "photos"
        assert dataset.class_names == ("cat", "dog")
        assert dataset.domain_names == ("all",)
        assert per_class(dataset) == ([2, 1], [1, 1])
        assert greys(dataset) == [grey_value(file) for file in SPLITS[:3]]
        assert dataset.train.read(0).mode == "RGB"
        assert dataset.notes == ()

    def test_without_a_test_split_one_is_held_out_with_a_note(self, make_folder: MakeFolder) -> None:
        files = [f"{name}/{i}.png" for name in ("ice_cream", "tea_pot") for i in range(10)]
        dataset = load(str(make_folder(*files)))
        assert dataset.class_names == ("ice cream", "tea pot")
        assert per_class(dataset) == ([8, 8], [2, 2])
        assert "no test split" in dataset.notes[0]

    @pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation", "Test"])
    def test_names_of_the_test_folder(self, make_folder: MakeFolder, test_name: str) -> None:
        files = [file.replace("test/", f"{test_name}/") for file in SPLITS]
        assert per_class(load(str(make_folder(*files)))) == ([2, 1], [1, 1])

    def test_test_goes_before_val_and_a_note_says_that_val_is_unused(self, make_folder: MakeFolder) -> None:
        dataset = load(str(make_folder(*SPLITS, "val/cat/7.png", "val/dog/7.png")))
        assert len(dataset.test) == 2
        assert "are ignored: val" in dataset.notes[0]

    @pytest.mark.parametrize(
        "names",
        [
            ("car", "train"),
            ("beaker", "test tube"),
            ("dev board", "trainers"),
            ("station", "train station"),
            ("test tube 1", "test tube 2"),
        ],
    )
    def test_a_class_may_contain_the_word_of_a_split(self, make_folder: MakeFolder, names: tuple[str, ...]) -> None:
        files = [f"{name}/{name} {i}.png" for name in names for i in range(5)]
        assert load(str(make_folder(*files))).class_names == names

    def test_below_train_a_class_may_have_any_name(self, make_folder: MakeFolder) -> None:
        files = [f"train/{name}/test {i}.png" for name in ("car", "test", "train") for i in range(5)]
        assert load(str(make_folder(*files, "train/car/other.png"))).class_names == ("car", "test", "train")

    def test_domains_above_classes(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("photo", "sketch") for c in ("cat", "dog") for i in range(5)]
        # A class may be absent from a domain, or its folder be empty there.
        root = make_folder(*files, "clip_art/cat/0.png", "clip_art/cat/1.png")
        (root / "clip_art" / "dog").mkdir()
        dataset = load(str(root))
        assert dataset.domain_names == ("clip_art", "photo", "sketch")
        assert dataset.class_names == ("cat", "dog")
        assert np.bincount(np.concatenate([dataset.train.domains, dataset.test.domains])).tolist() == [2, 10, 10]

    def test_domains_below_train_and_test(self, make_folder: MakeFolder) -> None:
        files = [f"{s}/{d}/{c}/0.png" for s in ("train", "test") for d in ("a", "b") for c in ("cat", "dog")]
        dataset = load(str(make_folder(*files)), domains="b")
        assert dataset.domain_names == ("b",)
        assert greys(dataset) == [grey_value("train/b/cat/0.png"), grey_value("train/b/dog/0.png")]
        assert dataset.test.domains.tolist() == [0, 0]

    def test_domain_filter_ignores_case_blanks_and_order(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("clip_art", "photo", "x") for c in ("cat", "dog") for i in range(4)]
        dataset = load(str(make_folder(*files)), domains="Photo, clip art")
        assert dataset.domain_names == ("clip_art", "photo")
        assert set(dataset.train.domains) == {0, 1}

    def test_domain_filter_says_which_class_has_no_images_left(self, make_folder: MakeFolder) -> None:
        files = [f"a/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)]
        files += [f"b/cat/{i}.png" for i in range(10)]
        dataset = load(str(make_folder(*files)), domains="b")
        assert dataset.class_names == ("cat", "dog")
        assert "no training images of: dog" in dataset.notes[-1]

    def test_held_out_images_of_a_domain_do_not_depend_on_the_filter(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in "abc" for c in ("cat", "dog") for i in range(7)]
        root = str(make_folder(*files))
        whole, one = load(root), load(root, domains="b")
        np.testing.assert_array_equal(whole.test.rows[whole.test.domains == 1], one.test.rows)

    def test_suffixes_in_capitals_and_hidden_files(self, make_folder: MakeFolder) -> None:
        files = ("cat/0.PNG", "cat/1.JPG", "cat/.2.png", "dog/0.jpeg", "dog/1.png", ".git/x/0.png")
        dataset = load(str(make_folder(*files)))
        assert len(dataset.train) + len(dataset.test) == 4

    def test_other_files_are_ignored_and_stray_images_are_noted(self, make_folder: MakeFolder) -> None:
        root = make_folder("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "overview.png")
        (root / "cat" / "labels.txt").write_text("not an image")
        dataset = load(str(root))
        assert any("no class" in note for note in dataset.notes)

    def test_same_seed_same_held_out_images(self, make_folder: MakeFolder) -> None:
        whole = load_folder(make_folder(*(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(30))))
        one, same, other = (with_test_split(whole, seed).test.rows.tolist() for seed in (0, 0, 1))
        assert one == same != other

    def test_tables_can_be_sent_to_another_process(self, make_folder: MakeFolder) -> None:
        table = load(str(make_folder(*SPLITS))).train
        copied = pickle.loads(pickle.dumps(table))
        assert copied.read(2).tobytes() == table.read(2).tobytes()


class TestDecoding:
    def one(self, make_folder: MakeFolder, write: Callable[[Path], object]) -> ImageDataset:
        root = make_folder(*SPLITS)
        write(root / "train" / "cat" / "0.png")
        return load(str(root))

    def test_exif_orientation_is_applied(self, make_folder: MakeFolder) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        dataset = self.one(make_folder, lambda file: picture(9, size=(8, 4)).save(file, "JPEG", exif=exif))
        assert dataset.train.read(0).size == (4, 8)

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
    def test_every_mode_becomes_rgb(self, make_folder: MakeFolder, mode: str) -> None:
        fmt = "TIFF" if mode == "CMYK" else "PNG"
        dataset = self.one(make_folder, lambda file: picture(255, mode).save(file, fmt))
        assert dataset.train.read(0).getpixel((0, 0)) == (255, 255, 255)

    def test_16_bit_grey_is_scaled_not_clipped(self, make_folder: MakeFolder) -> None:
        deep = Image.fromarray(np.full((4, 6), 40 * 256, np.uint16))
        assert self.one(make_folder, lambda file: deep.save(file)).train.read(0).getpixel((0, 0)) == (40, 40, 40)

    def test_32_bit_pixels_are_refused(self, make_folder: MakeFolder) -> None:
        floats = Image.fromarray(np.full((4, 6), 0.5, np.float32))
        with pytest.raises(DataError, match="32-bit"):
            self.one(make_folder, lambda file: floats.save(file, "TIFF")).train.read(0)

    @pytest.mark.parametrize("kept", [0, 10, 300])
    def test_a_truncated_jpeg_is_named(self, make_folder: MakeFolder, kept: int) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG")
        dataset = self.one(make_folder, lambda file: file.write_bytes(buffer.getvalue()[:kept]))
        with pytest.raises(DataError, match=r"cat.0\.png") as refused:
            dataset.train.read(0)
        assert "intact copy" in refused.value.hint
        assert dataset.train.read(1).size == (6, 4)

    def test_a_file_removed_meanwhile_is_named(self, make_folder: MakeFolder) -> None:
        root = make_folder(*SPLITS)
        dataset = load(str(root))
        (root / SPLITS[0]).unlink()
        with pytest.raises(DataError, match=r"cat.0\.png"):
            dataset.train.read(0)
