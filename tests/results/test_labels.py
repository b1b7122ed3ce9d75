"""What stands side by side is told apart, and says nothing of where it lies on somebody's machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddtl.results.labels import distinct_labels, path_names, shown_values, without_paths
from feddtl.units import printable

NAMES = st.text("abc", min_size=1, max_size=2)
ABSOLUTE_PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/models/clip", "clip"),
        ("/home/me/models/clip/", "clip"),
        ("./clip", "clip"),
        ("~/clip", "clip"),
        ("models/mine/clip", "clip"),
        ("openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
        ("tiny-clip", "tiny-clip"),
        ("", ""),
    ],
)
def test_the_name_of_a_path(path: str, name: str) -> None:
    assert path_names([path]) == {path: name}


def test_paths_of_one_name_are_distinct_labels_by_the_folders_above() -> None:
    """'clip' names all three, 'b/clip' still two, so as many parts are shown as each of them needs."""
    names = path_names(["/x/a/clip", "/x/b/clip", "/y/b/clip", "/other"])
    assert list(names.values()) == ["a/clip", "x/b/clip", "y/b/clip", "other"]


@given(st.lists(ABSOLUTE_PATHS, unique=True, min_size=1, max_size=6))
def test_names_of_different_paths_differ(paths: list[str]) -> None:
    names = path_names(paths)
    assert len(set(names.values())) == len(paths)
    assert all(path.endswith(name) for path, name in names.items())


def test_only_what_may_be_a_path_is_shortened() -> None:
    assert shown_values("data.root", ["/data/sets"]) == {"/data/sets": "sets"}
    assert shown_values("data.prompt", ["a/b/{class}"]) == {"a/b/{class}": "a/b/{class}"}
    assert shown_values("lora.rank", [4, 8]) == {4: "4", 8: "8"}


def test_several_prompts_are_one_short_label() -> None:
    prompts = [
        "a {class}\nthe {class}",
        "a {class}\none {class}",
        "my {class}\n\nyour {class}\nour {class}",
        "",
        "ensemble",
    ]
    assert list(shown_values("data.prompt", prompts).values()) == [
        "a {class} | the {class}",
        "a {class} | one {class}",
        "my {class} and 2 more",
        "",
        "ensemble",
    ]


def test_titles_are_distinct_labels_without_paths() -> None:
    values = [{"model": "/home/me/a", "rank": 4}, {"model": "/home/me/b", "rank": 4}]
    assert distinct_labels(["FedDTL", "FedDTL"], values) == ["FedDTL, model a", "FedDTL, model b"]
    assert distinct_labels(["FedDTL", "FedLoRA"], values) == ["FedDTL", "FedLoRA"]


def test_a_text_without_paths() -> None:
    text = "Files of /data/sets/pets are not used, nor is /data/sets."
    assert without_paths(text, ["/data/sets", "", "/data/sets/pets/"]) == "Files of pets are not used, nor is sets."
    assert without_paths("Two shapes of ./a.", ["shapes", "."]) == "Two shapes of ./a."


def test_what_a_page_cannot_hold_is_replaced() -> None:
    assert printable("ant\x00\ud800\n猫 é\u202e\xa0\u200d") == "ant�� 猫 é� \u200d"
