"""How many images are behind each class and each accuracy."""

from __future__ import annotations

import pytest

from feddtl.data.images_per_class import ScoredCounts, few_images

FEW = "accuracies of fewer than 10 test images: "


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (ScoredCounts(10, 10, {0: 10}, {"day": (10, 10)}), ""),
        (ScoredCounts(10, 0), ""),  # without novel classes there is no such accuracy
        (ScoredCounts(9, 1), FEW + "base (9), novel (1)"),
        (ScoredCounts(30, 10, {0: 3, 1: 10, 2: 9}), FEW + "local of clients 0 and 2 (3–9)"),
        (ScoredCounts(30, 10, {0: 30, 1: 0}), "no test images of client 1"),
        (ScoredCounts(30, 30, {}, {"day": (20, 20), "night": (10, 4)}), FEW + "novel of domain night (4)"),
    ],
)
def test_few_images(counts: ScoredCounts, expected: str) -> None:
    assert few_images(counts) == expected


def test_a_thousand_clients_are_one_line() -> None:
    text = few_images(ScoredCounts(5000, 0, dict.fromkeys(range(1000), 5)), "held-back")
    assert (
        text == "accuracies of fewer than 10 held-back training images: local of clients 0, 1, 2, 3, 4 and 995 more (5)"
    )
