"""Folders that contain images, by the names of their files."""

from __future__ import annotations

import pytest

from feddtl.data.image_files import contains_images


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.parquet", "deep/er/a.png"])
def test_an_image_anywhere_below_is_found(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "notes.txt").touch()
    assert not contains_images(tmp_path)
    path.touch()
    assert contains_images(tmp_path)


def test_a_file_may_contain_images_whatever_its_name(tmp_path):
    (tmp_path / "images").touch()
    assert contains_images(tmp_path / "images")


def test_links_are_followed_once(tmp_path):
    """Five links back would otherwise give 5 ** 40 paths, up to the system's limit on their length."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    for index in range(5):
        (data / f"back-{index}").symlink_to(data)
    (data / "link").symlink_to(elsewhere)
    assert not contains_images(data)
    (elsewhere / "a.webp").touch()
    assert contains_images(data)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        contains_images(tmp_path / "nowhere")
