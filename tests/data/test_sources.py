from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import MakeFolder, MakeParquet, grey_value, picture, png_bytes, real_data

from feddtl.data.sources import load_dataset
from feddtl.data.table import ImageDataset
from feddtl.errors import DataError

SPLITS = ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "test/cat/2.png", "test/dog/1.png")


def greys(dataset: ImageDataset) -> list[int]:
    return [dataset.train.read(i).getpixel((0, 0))[0] for i in range(len(dataset.train))]  # type: ignore[index]


def per_class(dataset: ImageDataset) -> tuple[list[int], list[int]]:
    size = len(dataset.class_names)
    return tuple(np.bincount(t.labels, minlength=size).tolist() for t in (dataset.train, dataset.test))  # type: ignore[return-value]


class TestFolders:
    def test_class_folders_below_train_and_test(self, make_folder: MakeFolder) -> None:
        dataset = load_dataset(str(make_folder(*SPLITS)))
        assert dataset.name == "photos"
        assert dataset.class_names == ("cat", "dog")
        assert dataset.domain_names == ("all",)
        assert per_class(dataset) == ([2, 1], [1, 1])
        assert greys(dataset) == [grey_value(file) for file in SPLITS[:3]]
        assert dataset.train.read(0).mode == "RGB"
        assert dataset.notes == ()

    def test_without_a_test_split_one_is_held_out_and_said(self, make_folder: MakeFolder) -> None:
        files = [f"{name}/{i}.png" for name in ("ice_cream", "tea_pot") for i in range(10)]
        dataset = load_dataset(str(make_folder(*files)))
        assert dataset.class_names == ("ice cream", "tea pot")
        assert per_class(dataset) == ([8, 8], [2, 2])
        assert "no test split" in dataset.notes[0]

    @pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation", "Test"])
    def test_names_of_the_test_folder(self, make_folder: MakeFolder, test_name: str) -> None:
        files = [file.replace("test/", f"{test_name}/") for file in SPLITS]
        assert per_class(load_dataset(str(make_folder(*files)))) == ([2, 1], [1, 1])

    def test_test_goes_before_val_and_val_is_said_to_be_unused(self, make_folder: MakeFolder) -> None:
        dataset = load_dataset(str(make_folder(*SPLITS, "val/cat/7.png", "val/dog/7.png")))
        assert len(dataset.test) == 2
        assert "not used: val" in dataset.notes[0]

    def test_a_class_may_be_called_train_or_test(self, make_folder: MakeFolder) -> None:
        files = [f"{name}/{i}.png" for name in ("car", "test", "train") for i in range(5)]
        assert load_dataset(str(make_folder(*files))).class_names == ("car", "test", "train")

    def test_domains_above_classes(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("photo", "sketch") for c in ("cat", "dog") for i in range(5)]
        # A class may be absent from a domain, or its folder be empty there.
        root = make_folder(*files, "clip_art/cat/0.png", "clip_art/cat/1.png")
        (root / "clip_art" / "dog").mkdir()
        dataset = load_dataset(str(root))
        assert dataset.domain_names == ("clip_art", "photo", "sketch")
        assert dataset.class_names == ("cat", "dog")
        assert np.bincount(np.concatenate([dataset.train.domains, dataset.test.domains])).tolist() == [2, 10, 10]

    def test_domains_below_train_and_test(self, make_folder: MakeFolder) -> None:
        files = [f"{s}/{d}/{c}/0.png" for s in ("train", "test") for d in ("a", "b") for c in ("cat", "dog")]
        dataset = load_dataset(str(make_folder(*files)), domains="b")
        assert dataset.domain_names == ("b",)
        assert greys(dataset) == [grey_value("train/b/cat/0.png"), grey_value("train/b/dog/0.png")]
        assert dataset.test.domains.tolist() == [0, 0]

    def test_domain_filter_ignores_case_blanks_and_order(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("clip_art", "photo", "x") for c in ("cat", "dog") for i in range(4)]
        dataset = load_dataset(str(make_folder(*files)), domains="Photo, clip art")
        assert dataset.domain_names == ("clip_art", "photo")
        assert set(dataset.train.domains) == {0, 1}

    def test_domain_filter_says_which_class_has_no_images_left(self, make_folder: MakeFolder) -> None:
        files = [f"a/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)]
        files += [f"b/cat/{i}.png" for i in range(10)]
        dataset = load_dataset(str(make_folder(*files)), domains="b")
        assert dataset.class_names == ("cat", "dog")
        assert "no training image of: dog" in dataset.notes[-1]

    def test_held_out_images_of_a_domain_do_not_depend_on_the_filter(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in "abc" for c in ("cat", "dog") for i in range(7)]
        root = str(make_folder(*files))
        whole, one = load_dataset(root), load_dataset(root, domains="b")
        np.testing.assert_array_equal(whole.test.rows[whole.test.domains == 1], one.test.rows)

    def test_suffixes_in_capitals_and_hidden_files(self, make_folder: MakeFolder) -> None:
        files = ("cat/0.PNG", "cat/1.JPG", "cat/.2.png", "dog/0.jpeg", "dog/1.png", ".git/x/0.png")
        dataset = load_dataset(str(make_folder(*files)))
        assert len(dataset.train) + len(dataset.test) == 4

    def test_other_files_are_ignored_and_stray_images_are_said(self, make_folder: MakeFolder) -> None:
        root = make_folder("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "overview.png")
        (root / "cat" / "labels.txt").write_text("not an image")
        dataset = load_dataset(str(root))
        assert any("no class" in note for note in dataset.notes)

    def test_same_seed_same_held_out_images(self, make_folder: MakeFolder) -> None:
        root = str(make_folder(*(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(30))))
        one, same, other = (load_dataset(root, seed=seed).test.rows.tolist() for seed in (0, 0, 1))
        assert one == same != other

    def test_tables_can_be_sent_to_another_process(self, make_folder: MakeFolder) -> None:
        table = load_dataset(str(make_folder(*SPLITS))).train
        copied = pickle.loads(pickle.dumps(table))
        assert copied.read(2).tobytes() == table.read(2).tobytes()


class TestDecoding:
    def one(self, make_folder: MakeFolder, write: Callable[[Path], object]) -> ImageDataset:
        root = make_folder(*SPLITS)
        write(root / "train" / "cat" / "0.png")
        return load_dataset(str(root))

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
        dataset = load_dataset(str(root))
        (root / SPLITS[0]).unlink()
        with pytest.raises(DataError, match=r"cat.0\.png"):
            dataset.train.read(0)


class TestParquet:
    def test_train_and_test_files(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/train-00000-of-00001.parquet", [0, 1, 1], names=["cat", "ice_cream"])
        make_parquet("set/test-00000-of-00001.parquet", [1, 0], names=["cat", "ice_cream"])
        dataset = load_dataset(str(tmp_path / "set"))
        assert dataset.name == "set"
        assert dataset.class_names == ("cat", "ice cream")
        assert per_class(dataset) == ([1, 2], [1, 1])
        assert greys(dataset) == [10, 11, 12]
        assert dataset.notes == ()

    def test_files_in_the_subfolder_data_and_several_shards(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/data/train-00000-of-00002.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("set/data/train-00001-of-00002.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("set/data/validation-00000-of-00001.parquet", [0, 1], names=["cat", "dog"])
        assert per_class(load_dataset(str(tmp_path / "set"))) == ([2, 2], [1, 1])

    @pytest.mark.parametrize("source", ["set", "set/part.parquet"])
    def test_one_file_without_splits(self, make_parquet: MakeParquet, tmp_path: Path, source: str) -> None:
        make_parquet("set/part.parquet", [0, 1] * 10, names=["cat", "dog"])
        dataset = load_dataset(str(tmp_path / source))
        assert per_class(dataset) == ([8, 8], [2, 2])
        assert "no test split" in dataset.notes[0]

    def test_unused_files_are_said(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        for split in ("train", "test", "validation"):
            make_parquet(f"set/{split}.parquet", [0, 1], names=["cat", "dog"])
        assert "validation.parquet" in load_dataset(str(tmp_path / "set")).notes[0]

    def test_domains_as_text_or_class_label(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        shades = ["sketch", "photo", "photo", "sketch"]
        make_parquet("a/train.parquet", [0, 1, 0, 1], names=["cat", "dog"], domains=shades)
        make_parquet("a/test.parquet", [0, 1], names=["cat", "dog"], domains=["art", "photo"])
        dataset = load_dataset(str(tmp_path / "a"))
        assert dataset.domain_names == ("art", "photo", "sketch")
        assert dataset.train.domains.tolist() == [2, 1, 1, 2]
        file = make_parquet(
            "b.parquet", [0, 1, 0, 1], names=["cat", "dog"], domains=shades, domain_names=["sketch", "none", "photo"]
        )
        assert load_dataset(str(file)).domain_names == ("sketch", "photo")

    def test_text_labels_become_sorted_classes(self, make_parquet: MakeParquet) -> None:
        file = make_parquet("x.parquet", ["dog", "cat", "dog", "cat"], image_column="picture")
        dataset = load_dataset(str(file))
        assert dataset.class_names == ("cat", "dog")
        assert per_class(dataset) == ([1, 1], [1, 1])

    def test_grey_images_become_rgb(self, make_parquet: MakeParquet) -> None:
        dataset = load_dataset(str(make_parquet("x.parquet", [0, 1, 0, 1], names=["cat", "dog"], mode="L")))
        assert dataset.train.read(0).mode == "RGB"

    def test_preferred_label_column_goes_before_others(self, tmp_path: Path, make_parquet: MakeParquet) -> None:
        import datasets

        rows = {
            "img": [{"bytes": png_bytes(picture(i)), "path": None} for i in range(4)],
            "coarse_label": [0, 0, 0, 0],
            "fine_label": [0, 1, 0, 1],
        }
        features = datasets.Features(
            img=datasets.Image(),
            coarse_label=datasets.ClassLabel(names=["animal", "thing"]),
            fine_label=datasets.ClassLabel(names=["cat", "dog"]),
        )
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
        assert load_dataset(str(tmp_path / "x.parquet")).class_names == ("cat", "dog")
        chosen = load_dataset(str(tmp_path / "x.parquet"), label_column="coarse_label", image_column="img")
        assert chosen.class_names == ("animal", "thing")

    def test_plain_parquet_without_the_hub_metadata(self, tmp_path: Path, make_parquet: MakeParquet) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        encoded = [{"bytes": png_bytes(picture(i)), "path": None} for i in range(4)]
        pq.write_table(pa.table({"image": encoded, "label": ["cat", "dog", "cat", "dog"]}), tmp_path / "x.parquet")
        assert load_dataset(str(tmp_path / "x.parquet")).train.read(0).size == (6, 4)
        raw = [image["bytes"] for image in encoded]
        pq.write_table(pa.table({"jpg": raw, "label": ["cat", "dog", "cat", "dog"]}), tmp_path / "y.parquet")
        assert load_dataset(str(tmp_path / "y.parquet"), image_column="jpg").train.read(1).size == (6, 4)

    def test_a_damaged_row_is_named(self, tmp_path: Path, make_parquet: MakeParquet) -> None:
        import datasets

        rows = {"image": [{"bytes": b"damaged", "path": None}, None], "label": [0, 1]}
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
        make_parquet("test.parquet", [0, 1], names=["cat", "dog"])
        dataset = load_dataset(str(tmp_path))
        with pytest.raises(DataError, match=r"row 0 of .* \(train\)"):
            dataset.train.read(0)
        with pytest.raises(DataError, match="no image in row 1"):
            dataset.train.read(1)

    def test_loading_shows_no_progress_bar(self, make_parquet: MakeParquet, capfd: pytest.CaptureFixture[str]) -> None:
        file = str(make_parquet("x.parquet", [0, 1, 0, 1], names=["cat", "dog"]))
        capfd.readouterr()
        load_dataset(file)
        assert capfd.readouterr() == ("", "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ((), "no image in the class folders"),
            (("0.png", "1.png"), "2 images lie directly in it"),
            (("cat/0.png",), "a single class, 'cat'"),
            (("cat/0.png", "photo/dog/0.png"), "directly in .*cat"),
            (("test/cat/0.png", "test/dog/0.png"), "no folder 'train'"),
            ((*SPLITS, "train/fox/0.png"), "missing in .*test: fox"),
            ((*SPLITS, "test/fox/0.png"), "missing in .*train: fox"),
            (("train/cat/0.png", "train/dog/0.png", "test/a/cat/0.png", "test/a/dog/0.png"), "folders per domain"),
            (("ice cream/0.png", "ice_cream/0.png", "ice_cream/1.png"), "both named 'ice cream'"),
        ],
    )
    def test_folders_that_cannot_be_used(self, make_folder: MakeFolder, files: tuple[str, ...], message: str) -> None:
        root = make_folder(*files)
        root.mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message) as refused:
            load_dataset(str(root))
        assert refused.value.hint

    def test_an_empty_class_folder_is_named(self, make_folder: MakeFolder) -> None:
        root = make_folder("cat/0.png", "dog/0.png")
        (root / "fox").mkdir()
        with pytest.raises(DataError, match=r"class folder 'fox' .* no image"):
            load_dataset(str(root))

    def test_an_empty_domain_folder_is_named(self, make_folder: MakeFolder) -> None:
        root = make_folder("a/cat/0.png", "a/dog/0.png")
        (root / "b").mkdir()
        with pytest.raises(DataError, match=r"domain folder .*b has no class folder"):
            load_dataset(str(root))

    @pytest.mark.parametrize(
        ("source", "suggestion"),
        [("cifar-10", "'cifar10'"), ("shape", "'shapes'"), ("./no/such/folder", "Allowed"), ("", "Allowed")],
    )
    def test_unknown_sources_get_a_suggestion(self, source: str, suggestion: str) -> None:
        with pytest.raises(DataError, match=f"'{source}'") as refused:
            load_dataset(source)
        assert suggestion in refused.value.hint

    def test_a_file_that_is_no_parquet(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="not a parquet file"):
            load_dataset(str(make_folder("cat/0.png") / "cat" / "0.png"))

    def test_a_prompt_without_class(self) -> None:
        with pytest.raises(DataError, match="no place for the class name"):
            load_dataset("shapes", prompt="a photo.")

    def test_a_prompt_replaces_the_own_one(self, make_folder: MakeFolder) -> None:
        root = str(make_folder(*SPLITS))
        assert load_dataset(root).prompt_template == "a photo of a {class}."
        assert load_dataset(root, prompt="art of {class}").prompt_template == "art of {class}"

    def test_unknown_domains(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("photo", "sketch") for c in ("cat", "dog") for i in range(2)]
        with pytest.raises(DataError, match="no domain 'foto'") as refused:
            load_dataset(str(make_folder(*files)), domains="sketch,foto")
        assert "'photo'" in refused.value.hint
        with pytest.raises(DataError, match="no domains to choose"):
            load_dataset(str(make_folder(*SPLITS, name="flat")), domains="photo")

    @pytest.mark.parametrize("source", ["shapes", "cifar10"])
    def test_column_options_without_columns(self, source: str) -> None:
        with pytest.raises(DataError, match="no columns to name"):
            load_dataset(source, label_column="label")

    def test_column_options_for_an_image_folder(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="no columns to name"):
            load_dataset(str(make_folder(*SPLITS)), label_column="label")

    def test_integer_labels_without_names(self, make_parquet: MakeParquet) -> None:
        with pytest.raises(DataError, match="without names") as refused:
            load_dataset(str(make_parquet("x.parquet", [0, 1, 0, 1])))
        assert "ClassLabel" in refused.value.hint

    def test_different_class_lists_in_train_and_test(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("train.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("test.parquet", [0, 1], names=["dog", "cat"])
        with pytest.raises(DataError, match="the order differs"):
            load_dataset(str(tmp_path))
        make_parquet("test.parquet", ["cat", "fox"])
        with pytest.raises(DataError, match="missing in test: dog; missing in train: fox"):
            load_dataset(str(tmp_path))

    def test_columns_that_cannot_be_told(self, make_parquet: MakeParquet) -> None:
        file = str(make_parquet("x.parquet", [0, 1] * 2, names=["cat", "dog"], label_column="what"))
        assert load_dataset(file).class_names == ("cat", "dog")
        file = str(make_parquet("y.parquet", ["cat", "dog"], label_column="what"))
        with pytest.raises(DataError, match="no column label"):
            load_dataset(file)
        with pytest.raises(DataError, match="no column 'wat'") as refused:
            load_dataset(file, label_column="wat")
        assert "'what'" in refused.value.hint
        with pytest.raises(DataError, match=r"'what' .* does not hold images"):
            load_dataset(file, label_column="what", image_column="what")

    def test_rows_without_a_label(self, make_parquet: MakeParquet) -> None:
        file = make_parquet("x.parquet", [0, -1, 1, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match=r"Row 1 .* has no label"):
            load_dataset(str(file))

    def test_only_a_test_file(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/test.parquet", [0, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match="no training file"):
            load_dataset(str(tmp_path / "set"))

    def test_a_damaged_parquet_file(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
        with pytest.raises(DataError, match=r"Cannot read .*train\.parquet"):
            load_dataset(str(tmp_path))

    def test_one_image_per_class_leaves_nothing_to_test(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="no test images"):
            load_dataset(str(make_folder("cat/0.png", "dog/0.png")))

    def test_a_table_without_rows(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
        datasets.Dataset.from_dict({"image": [], "label": []}, features=features).to_parquet(tmp_path / "x.parquet")
        with pytest.raises(DataError):
            load_dataset(str(tmp_path / "x.parquet"))


class TestHub:
    def test_a_hub_id_is_passed_on(self, monkeypatch: pytest.MonkeyPatch, make_parquet: MakeParquet) -> None:
        import datasets

        split = datasets.Dataset.from_parquet(str(make_parquet("x.parquet", [0, 1] * 5, names=["cat", "dog"])))
        asked: list[object] = []

        def fetch(hub_id: str, config: str | None) -> datasets.DatasetDict:
            asked.append((hub_id, config))
            return datasets.DatasetDict({"train": split, "validation": split})

        monkeypatch.setattr(datasets, "load_dataset", fetch)
        dataset = load_dataset("owner/my-animals")
        assert asked == [("owner/my-animals", None)]
        assert dataset.name == "my-animals"
        assert len(dataset.train) == len(dataset.test) == 10
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"all": split}))
        assert "no test split" in load_dataset("owner/my-animals").notes[0]
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"a": split, "b": split}))
        with pytest.raises(DataError, match="it has a, b"):
            load_dataset("owner/my-animals")

    def test_offline_says_what_to_do(self, tmp_path: Path) -> None:
        script = (
            "from feddtl.data.sources import load_dataset\n"
            "from feddtl.errors import DataError\n"
            "for source in ('owner/animals', 'cifar10', 'data/photos'):\n"
            "    try: load_dataset(source)\n"
            "    except DataError as error: print(error.message, '|', error.hint)\n"
        )
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=offline, check=True)
        lines = run.stdout.splitlines()
        assert len(lines) == 3
        assert "hf download owner/animals" in lines[0]
        assert "--data.source FOLDER" in lines[0]
        assert "'uoft-cs/cifar10'" in lines[1]
        assert "HF_HOME" in lines[1]
        assert "no folder has that name" in lines[2]


def test_generated_shapes() -> None:
    dataset = load_dataset("shapes")
    assert len(dataset.class_names) > 2
    assert len(dataset.domain_names) > 1
    one = load_dataset("shapes", domains=dataset.domain_names[0])
    assert one.domain_names == dataset.domain_names[:1]
    with pytest.raises(DataError):
        load_dataset("shapes", domains="no such domain")


class TestRealImages:
    @pytest.mark.usefixtures("make_parquet")
    def test_cifar10(self) -> None:
        dataset = load_dataset(str(real_data("cifar10")))
        assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
        assert per_class(dataset) == ([2500] * 10, [1000] * 10)
        assert dataset.test.read(9999).size == (32, 32)

    @pytest.mark.usefixtures("make_parquet")
    def test_pacs(self) -> None:
        dataset = load_dataset(str(real_data("pacs")), domains="photo,sketch")
        assert dataset.domain_names == ("photo", "sketch")
        assert len(dataset.class_names) == 7
        assert np.bincount(dataset.train.labels * 2 + dataset.train.domains).tolist() == [70] * 14
        assert dataset.train.read(0).mode == "RGB"
