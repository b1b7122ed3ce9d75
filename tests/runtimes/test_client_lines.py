"""What a client's log says of its images and of its rounds."""

from __future__ import annotations

import numpy as np
import pytest

from feddtl.data.own_images import OwnImages
from feddtl.data.table import ImageTable
from feddtl.evaluate import HitCounts
from feddtl.runtimes.client_lines import evaluation_line, images_lines, round_line
from feddtl.runtimes.wire.contract import Parcel

SENT, RECEIVED = Parcel({"a": np.zeros(500, np.float32)}, {}), Parcel({"a": np.zeros(250_000, np.float64)}, {})


def table(*labels: int) -> ImageTable:
    ids = np.array(labels, dtype=np.int64)
    return ImageTable(lambda row: pytest.fail("read"), np.arange(len(ids)), ids, np.zeros_like(ids))


def test_images_by_class_and_only_those_that_are_there():
    own = OwnImages(table(0, 0, 2), table(0, 3), table(1, 1))
    assert images_lines("client 7", own, ["cat", "dog", "elk", "fox"], ["gnu", "hen"]) == [
        "client 7 has 3 training images and 2 test images of base classes, 2 of novel classes",
        "base classes (training/test images): cat 2/1, elk 1/0, fox 0/1",
        "novel classes (test images): hen 2",
    ]


def test_a_client_without_test_images():
    lines = images_lines("client 0", OwnImages(table(1), table(), table()), ["cat", "dog"], [])
    assert lines[1:] == ["base classes (training/test images): dog 1/0"]
    assert (
        evaluation_line("the final model", HitCounts(0, 0, 0, 0))
        == "the final model was not scored: there is no test image"
    )


def test_a_round_before_and_after_training_and_what_was_moved():
    assert round_line(HitCounts(3, 4, 0, 2), HitCounts(4, 4, 1, 2), RECEIVED, SENT) == (
        "base accuracy 75.0 % before, 100.0 % after training, on 4 test images; "
        "novel accuracy 0.0 % before, 50.0 % after training, on 2 test images; received 2.0 MB, sends 2.0 kB"
    )
    assert round_line(None, HitCounts(1, 4), RECEIVED, SENT).startswith("base accuracy – % before, 25.0 % after")
    assert round_line(None, None, RECEIVED, SENT) == "not scored; received 2.0 MB, sends 2.0 kB"
    assert evaluation_line("the final model", HitCounts(3, 4, 1, 2)) == (
        "the final model: base accuracy 75.0 % on 4 test images, novel accuracy 50.0 % on 2 test images"
    )
