"""Folders and parquet files of small images, for the tests of the data package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_images import MakeFolder, MakeParquet, grey_value, picture, png_bytes


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes images at paths such as `train/cat/0.png` below a folder and returns the folder."""

    def make(*files: str, name: str = "photos") -> Path:
        root = tmp_path / name
        for file in files:
            target = root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            picture(grey_value(file)).save(target, "PNG" if target.suffix.lower() == ".png" else "JPEG")
        return root

    return make


@pytest.fixture
def make_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeParquet:
    """Writes one parquet file in Hub format; the loader's cache goes to a temporary folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(
        file: str,
        labels: Sequence[int | str],
        *,
        names: Sequence[str] = (),
        domains: Sequence[str] = (),
        domain_names: Sequence[str] = (),
        image_column: str = "image",
        label_column: str = "label",
        mode: str = "RGB",
    ) -> Path:
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        columns: dict[str, object] = {
            image_column: [{"bytes": png_bytes(picture(10 + i, mode)), "path": None} for i in range(len(labels))],
            label_column: list(labels),
        }
        plain = datasets.Value("string" if isinstance(labels[0], str) else "int64")
        features = {
            image_column: datasets.Image(),
            label_column: datasets.ClassLabel(names=list(names)) if names else plain,
        }
        if domains:
            columns["domain"] = list(domains)
            features["domain"] = (
                datasets.ClassLabel(names=list(domain_names)) if domain_names else datasets.Value("string")
            )
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(target)
        return target

    return make
