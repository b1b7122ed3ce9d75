"""Two classes with one text are refused, whatever makes them equal."""

from __future__ import annotations

import unicodedata
from types import SimpleNamespace

import pytest
import torch
from cli.small_runs import write_photos

from feddtl.backbones.clip import load_clip
from feddtl.client_side import ClientSide
from feddtl.config import DataConfig, Experiment
from feddtl.errors import DataError
from feddtl.models.class_texts import require_distinct
from feddtl.preparation import prepare

TEMPLATE = "a photo of a {class}."
SEVERAL = f"{TEMPLATE}\n{{class}}\nno {{class}}"
EQUAL = [
    ("Crane", "crane"),
    ("ice_cream", "ice cream"),
    ("owl<eos>, white", "owl<eos>, brown"),
    ("café", unicodedata.normalize("NFD", "café")),
]


@pytest.fixture(scope="module")
def tower():
    return load_clip("tiny-clip", towers={"text"}).text


@pytest.mark.parametrize(("one", "two"), EQUAL)
@pytest.mark.parametrize("template", [TEMPLATE, SEVERAL])
def test_classes_with_one_text_are_named(tower, one, two, template):
    with pytest.raises(DataError, match="reads these classes as the same text") as caught:
        require_distinct(tower, ["zebra", one, "dog", two], template)
    assert all(repr(name) in caught.value.message or ascii(name) in caught.value.message for name in (one, two))
    assert "zebra" not in caught.value.message
    assert "Rename" in caught.value.hint


def test_names_that_look_alike_are_shown_with_escapes(tower):
    with pytest.raises(DataError, match=r"'caf\\xe9' and 'cafe\\u0301'"):
        require_distinct(tower, ["café", unicodedata.normalize("NFD", "café")], TEMPLATE)


def test_all_pairs_count(tower):
    names = [word for letter in "abcde" for word in (letter, letter.upper())]
    with pytest.raises(DataError, match=r"'a' and 'A', 'b' and 'B', 'c' and 'C' and 2 more"):
        require_distinct(tower, names, TEMPLATE)


@pytest.mark.parametrize(
    "names",
    [(), ("one",), ("x!", "x.", "x", "xx", "x x"), ("{class}", "{}", "%s", "100%", "50 %"), ("猫", "犬", "😀", "😁")],
)
def test_other_names_are_told_apart(tower, names):
    require_distinct(tower, names, TEMPLATE)
    require_distinct(tower, names, SEVERAL)


def test_a_tower_that_reads_whole_texts_compares_whole_texts(tower):
    """Under causal attention alone, tokens after the one that is read do not count."""
    both_ways = SimpleNamespace(
        stack=SimpleNamespace(is_loaded=True, causal=False),
        tokenize=lambda prompts: (torch.tensor([[1, 2, 3], [1, 2, 4]]), torch.tensor([1, 1])),
    )
    require_distinct(both_ways, ["a", "b"], TEMPLATE)
    both_ways.stack.causal = True
    with pytest.raises(DataError, match="'a' and 'b'"):
        require_distinct(both_ways, ["a", "b"], TEMPLATE)


def test_nothing_is_checked_without_the_text_tower():
    require_distinct(load_clip("tiny-clip", towers={"image"}).text, ["A", "a"], TEMPLATE)


def test_a_run_refuses_them_before_training(tmp_path):
    photos = write_photos(tmp_path / "photos", classes=("Owl", "owl", "cat", "dog"), train=1, test=1)
    with pytest.raises(DataError, match="'Owl' and 'owl'"):
        prepare(Experiment(model="tiny-clip", data=DataConfig(source=str(photos), clients=1)))


def test_a_client_refuses_those_that_a_server_names():
    """Where the server has no text tower, the client checks."""
    data = DataConfig(source="clients", classes="owl<eos>a, owl<eos>b, dog", clients=1)
    with pytest.raises(DataError, match="'owl<eos>a' and 'owl<eos>b'"):
        ClientSide(Experiment(method="fedlora", model="tiny-clip", data=data))
