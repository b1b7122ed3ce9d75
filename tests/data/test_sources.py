from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_images import (
    SPLITS,
    MakeFolder,
    MakeParquet,
    greys,
    load,
    per_class,
    picture,
    png_bytes,
    real_data,
)

from feddtl.errors import DataError


class TestParquet:
    def test_train_and_test_files(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/train-00000-of-00001.parquet", [0, 1, 1], names=["cat", "ice_cream"])
        make_parquet("set/test-00000-of-00001.parquet", [1, 0], names=["cat", "ice_cream"])
        dataset = load(str(tmp_path / "set"))
        assert dataset.name == "set"
        assert dataset.class_names == ("cat", "ice cream")
        assert per_class(dataset) == ([1, 2], [1, 1])
        assert greys(dataset) == [10, 11, 12]
        assert dataset.notes == ()

    def test_files_in_the_subfolder_data_and_several_shards(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/data/train-00000-of-00002.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("set/data/train-00001-of-00002.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("set/data/validation-00000-of-00001.parquet", [0, 1], names=["cat", "dog"])
        assert per_class(load(str(tmp_path / "set"))) == ([2, 2], [1, 1])

    def test_files_in_the_subfolder_of_a_configuration(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/plain_text/train-00000-of-00001.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("set/plain_text/test-00000-of-00001.parquet", [1, 0, 1], names=["cat", "dog"])
        assert load(str(tmp_path / "set")).test.labels.tolist() == [1, 0, 1]
        make_parquet("set/other/train-00000-of-00001.parquet", [0, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match="several subfolders: other, plain_text"):
            load(str(tmp_path / "set"))

    @pytest.mark.parametrize("source", ["set", "set/part.parquet"])
    def test_one_file_without_splits(self, make_parquet: MakeParquet, tmp_path: Path, source: str) -> None:
        make_parquet("set/part.parquet", [0, 1] * 10, names=["cat", "dog"])
        dataset = load(str(tmp_path / source))
        assert per_class(dataset) == ([8, 8], [2, 2])
        assert "no test split" in dataset.notes[0]

    def test_unused_files_are_noted(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        for split in ("train", "test", "validation"):
            make_parquet(f"set/{split}.parquet", [0, 1], names=["cat", "dog"])
        assert "validation.parquet" in load(str(tmp_path / "set")).notes[0]

    def test_domains_as_text_or_class_label(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        shades = ["sketch", "photo", "photo", "sketch"]
        make_parquet("a/train.parquet", [0, 1, 0, 1], names=["cat", "dog"], domains=shades)
        make_parquet("a/test.parquet", [0, 1], names=["cat", "dog"], domains=["art", "photo"])
        dataset = load(str(tmp_path / "a"))
        assert dataset.domain_names == ("art", "photo", "sketch")
        assert dataset.train.domains.tolist() == [2, 1, 1, 2]
        file = make_parquet(
            "b.parquet", [0, 1, 0, 1], names=["cat", "dog"], domains=shades, domain_names=["sketch", "none", "photo"]
        )
        assert load(str(file)).domain_names == ("sketch", "photo")

    def test_text_labels_become_sorted_classes(self, make_parquet: MakeParquet) -> None:
        file = make_parquet("x.parquet", ["dog", "cat", "dog", "cat"], image_column="picture")
        dataset = load(str(file))
        assert dataset.class_names == ("cat", "dog")
        assert per_class(dataset) == ([1, 1], [1, 1])

    def test_grey_images_become_rgb(self, make_parquet: MakeParquet) -> None:
        dataset = load(str(make_parquet("x.parquet", [0, 1, 0, 1], names=["cat", "dog"], mode="L")))
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
        assert load(str(tmp_path / "x.parquet")).class_names == ("cat", "dog")
        chosen = load(str(tmp_path / "x.parquet"), label_column="coarse_label", image_column="img")
        assert chosen.class_names == ("animal", "thing")

    def test_plain_parquet_without_the_hub_metadata(self, tmp_path: Path, make_parquet: MakeParquet) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        encoded = [{"bytes": png_bytes(picture(i)), "path": None} for i in range(4)]
        pq.write_table(pa.table({"image": encoded, "label": ["cat", "dog", "cat", "dog"]}), tmp_path / "x.parquet")
        assert load(str(tmp_path / "x.parquet")).train.read(0).size == (6, 4)
        raw = [image["bytes"] for image in encoded]
        pq.write_table(pa.table({"jpg": raw, "label": ["cat", "dog", "cat", "dog"]}), tmp_path / "y.parquet")
        assert load(str(tmp_path / "y.parquet"), image_column="jpg").train.read(1).size == (6, 4)

    def test_a_damaged_row_is_named(self, tmp_path: Path, make_parquet: MakeParquet) -> None:
        import datasets

        rows = {"image": [{"bytes": b"damaged", "path": None}, None], "label": [0, 1]}
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
        make_parquet("test.parquet", [0, 1], names=["cat", "dog"])
        dataset = load(str(tmp_path))
        with pytest.raises(DataError, match=r"row 0 of .* \(train\)"):
            dataset.train.read(0)
        with pytest.raises(DataError, match="no image in row 1"):
            dataset.train.read(1)

    def test_loading_shows_no_progress_bar(self, make_parquet: MakeParquet, capfd: pytest.CaptureFixture[str]) -> None:
        file = str(make_parquet("x.parquet", [0, 1, 0, 1], names=["cat", "dog"]))
        capfd.readouterr()
        load(file)
        assert capfd.readouterr() == ("", "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ((), "class folders of .* contain no images"),
            (("0.png", "1.png"), "directly contains 2 images"),
            (("cat/0.png",), "a single class, 'cat'"),
            (("cat/0.png", "photo/dog/0.png"), "cat contains images directly"),
            (("test/cat/0.png", "test/dog/0.png"), "no folder 'train'"),
            ((*SPLITS, "train/fox/0.png"), "missing in .*test: fox"),
            ((*SPLITS, "test/fox/0.png"), "missing in .*train: fox"),
            (
                ("train/cat/0.png", "train/dog/0.png", "test/a/cat/0.png", "test/a/dog/0.png"),
                "Only one of .* has domain folders",
            ),
            (("ice cream/0.png", "ice_cream/0.png", "ice_cream/1.png"), "both named 'ice cream'"),
            (("CAT/0.png", "cat/0.png", "dog/1.png"), "differ only in case: 'CAT' and 'cat'"),
            (("Ice_cream/0.png", "ice cream/0.png"), "differ only in case: 'Ice cream' and 'ice cream'"),
            (("_/0.png", "cat/0.png", "cat/1.png", "_/1.png"), "has no name"),
        ],
    )
    def test_folders_that_cannot_be_used(self, make_folder: MakeFolder, files: tuple[str, ...], message: str) -> None:
        root = make_folder(*files)
        root.mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message) as refused:
            load(str(root))
        assert refused.value.hint

    def test_an_empty_class_folder_is_named(self, make_folder: MakeFolder) -> None:
        root = make_folder("cat/0.png", "dog/0.png")
        (root / "fox").mkdir()
        with pytest.raises(DataError, match=r"class folder 'fox' .* no image"):
            load(str(root))

    def test_an_empty_domain_folder_is_named(self, make_folder: MakeFolder) -> None:
        root = make_folder("a/cat/0.png", "a/dog/0.png")
        (root / "b").mkdir()
        with pytest.raises(DataError, match=r"domain folder .*b contains no class folder"):
            load(str(root))

    @pytest.mark.parametrize(
        ("source", "suggestion"),
        [("cifar-10", "'cifar10'"), ("shape", "'shapes'"), ("./no/such/folder", "Allowed")],
    )
    def test_unknown_sources_get_a_suggestion(self, source: str, suggestion: str) -> None:
        with pytest.raises(DataError, match=f"'{source}'") as refused:
            load(source)
        assert suggestion in refused.value.hint

    def test_a_file_that_is_no_parquet(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="not a parquet file"):
            load(str(make_folder("cat/0.png") / "cat" / "0.png"))

    def test_a_prompt_replaces_that_of_the_source(self, make_folder: MakeFolder) -> None:
        root = str(make_folder(*SPLITS))
        assert load(root).prompt_template == "a photo of a {class}."
        assert load(root, prompt="art of {class}").prompt_template == "art of {class}"

    def test_unknown_domains(self, make_folder: MakeFolder) -> None:
        files = [f"{d}/{c}/{i}.png" for d in ("photo", "sketch") for c in ("cat", "dog") for i in range(2)]
        with pytest.raises(DataError, match="no domain 'foto'") as refused:
            load(str(make_folder(*files)), domains="sketch,foto")
        assert "'photo'" in refused.value.hint
        with pytest.raises(DataError, match="no domains to choose"):
            load(str(make_folder(*SPLITS, name="flat")), domains="photo")

    @pytest.mark.parametrize("source", ["shapes", "cifar10"])
    def test_column_options_without_columns(self, source: str) -> None:
        with pytest.raises(DataError, match="no columns to choose"):
            load(source, label_column="label")

    def test_column_options_for_an_image_folder(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="no columns to choose"):
            load(str(make_folder(*SPLITS)), label_column="label")

    def test_integer_labels_without_names(self, make_parquet: MakeParquet) -> None:
        with pytest.raises(DataError, match="without names") as refused:
            load(str(make_parquet("x.parquet", [0, 1, 0, 1])))
        assert "ClassLabel" in refused.value.hint

    def test_different_class_lists_in_train_and_test(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("train.parquet", [0, 1], names=["cat", "dog"])
        make_parquet("test.parquet", ["cat", "fox"])
        with pytest.raises(DataError, match="missing in test: dog; missing in train: fox"):
            load(str(tmp_path))

    def test_columns_that_cannot_be_detected(self, make_parquet: MakeParquet) -> None:
        file = str(make_parquet("x.parquet", [0, 1] * 2, names=["cat", "dog"], label_column="what"))
        assert load(file).class_names == ("cat", "dog")
        file = str(make_parquet("y.parquet", ["cat", "dog"], label_column="what"))
        with pytest.raises(DataError, match="no column label"):
            load(file)
        with pytest.raises(DataError, match="no column 'wat'") as refused:
            load(file, label_column="wat")
        assert "'what'" in refused.value.hint
        with pytest.raises(DataError, match=r"'what' .* does not contain images"):
            load(file, label_column="what", image_column="what")

    def test_rows_without_a_label(self, make_parquet: MakeParquet) -> None:
        file = make_parquet("x.parquet", [0, -1, 1, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match=r"Row 1 of .*x\.parquet \(train\) has no label"):
            load(str(file))

    def test_a_row_and_a_column_are_named_with_their_split(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("train.parquet", [0, 1], names=["cat", "dog"], domains=["art", "photo"])
        make_parquet("test.parquet", [0, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match=r"\(test\) has no column 'domain'"):
            load(str(tmp_path))
        make_parquet("test.parquet", [0, 1, -1], names=["cat", "dog"], domains=["art", "photo", "art"])
        with pytest.raises(DataError, match=r"Row 2 of .* \(test\) has no label"):
            load(str(tmp_path))

    def test_only_a_test_file(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        make_parquet("set/test.parquet", [0, 1], names=["cat", "dog"])
        with pytest.raises(DataError, match="no training file"):
            load(str(tmp_path / "set"))

    def test_a_damaged_parquet_file(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
        with pytest.raises(DataError, match=r"Cannot read .*train\.parquet"):
            load(str(tmp_path))

    def test_one_image_per_class_leaves_nothing_to_test(self, make_folder: MakeFolder) -> None:
        with pytest.raises(DataError, match="no test images"):
            load(str(make_folder("cat/0.png", "dog/0.png")))

    def test_a_table_without_rows(self, make_parquet: MakeParquet, tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
        datasets.Dataset.from_dict({"image": [], "label": []}, features=features).to_parquet(tmp_path / "x.parquet")
        with pytest.raises(DataError):
            load(str(tmp_path / "x.parquet"))


class TestHub:
    def test_a_hub_id_is_passed_on(self, monkeypatch: pytest.MonkeyPatch, make_parquet: MakeParquet) -> None:
        import datasets

        split = datasets.Dataset.from_parquet(str(make_parquet("x.parquet", [0, 1] * 5, names=["cat", "dog"])))
        asked: list[str] = []

        def fetch(hub_id: str) -> datasets.DatasetDict:
            asked.append(hub_id)
            return datasets.DatasetDict({"train": split, "validation": split})

        monkeypatch.setattr(datasets, "load_dataset", fetch)
        dataset = load("owner/my-animals")
        assert asked == ["owner/my-animals"]
        assert dataset.name == "my-animals"
        assert len(dataset.train) == len(dataset.test) == 10
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"all": split}))
        assert "no test split" in load("owner/my-animals").notes[0]
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"a": split, "b": split}))
        with pytest.raises(DataError, match="it has a, b"):
            load("owner/my-animals")
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_: datasets.DatasetDict({"Training": split, "dev": split})
        )
        assert len(load("owner/my-animals").test) == 10
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"test": split}))
        with pytest.raises(DataError, match="no training split; its only split is 'test'"):
            load("owner/my-animals")

    def test_offline_says_what_to_do(self, tmp_path: Path) -> None:
        script = (
            "from feddtl.config import DataConfig\n"
            "from feddtl.data.sources import load_dataset\n"
            "from feddtl.errors import DataError\n"
            "for source in ('owner/animals', 'cifar10', 'data/photos'):\n"
            "    try: load_dataset(DataConfig(source=source))\n"
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
    dataset = load("shapes")
    assert len(dataset.class_names) > 2
    assert len(dataset.domain_names) > 1
    assert load("shapes", novel="colours").class_names[32] == "cyan circle"
    one = load("shapes", domains=dataset.domain_names[0])
    assert one.domain_names == dataset.domain_names[:1]
    with pytest.raises(DataError):
        load("shapes", domains="no such domain")


class TestRealImages:
    @pytest.mark.usefixtures("make_parquet")
    def test_cifar10(self) -> None:
        dataset = load(str(real_data("cifar10")))
        assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
        assert per_class(dataset) == ([2500] * 10, [1000] * 10)
        assert dataset.test.read(9999).size == (32, 32)

    @pytest.mark.usefixtures("make_parquet")
    def test_pacs(self) -> None:
        dataset = load(str(real_data("pacs")), domains="photo,sketch")
        assert dataset.domain_names == ("photo", "sketch")
        assert len(dataset.class_names) == 7
        assert np.bincount(dataset.train.labels * 2 + dataset.train.domains).tolist() == [70] * 14
        assert dataset.train.read(0).mode == "RGB"
