"""An encoder as a run makes it, on small passes and segments."""

from __future__ import annotations

import pytest
from encoding_processes import random_table
from plain_activations import frozen_activations

import feddtl.encoding
import feddtl.models.cache.folder
import feddtl.models.cache.namespace
from feddtl.config import ComputeConfig
from feddtl.features import ImageEncoder

BLOCK = 2
# Bytes of an image at block 2 of the tiny tower in float32: 5 tokens of width 32.
ROW = 5 * 32 * 4


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    """Passes of 4 images and segments of 8, so that 30 images are several of either."""
    monkeypatch.setattr(feddtl.encoding, "MOST_TOGETHER", 4)
    monkeypatch.setattr(feddtl.models.cache.namespace, "SEGMENT_BYTES", 8 * (ROW + 24))
    monkeypatch.setattr(feddtl.models.cache.namespace, "MOST_SEGMENTS", 10**12)


@pytest.fixture
def table():
    return random_table(30, seed=1)


@pytest.fixture
def passes(clip, monkeypatch):
    """Sizes of the passes through the tower."""
    seen, prefix = [], clip.image.prefix

    def counted(pixels, stop):
        seen.append(len(pixels))
        return prefix(pixels, stop)

    monkeypatch.setattr(clip.image, "prefix", counted)
    return seen


@pytest.fixture
def notes():
    return []


@pytest.fixture
def make_encoder(clip, tmp_path, notes):
    """An encoder as a new run makes it; float32 by default."""

    def make(tower=clip.image, block=BLOCK, stopwatch=None, **changes):
        options = {"cache_folder": str(tmp_path / "cache"), "activations": "float32", "cache_disk_gb": 1.0}
        compute = ComputeConfig(**(options | changes))
        return ImageEncoder(tower, block, compute, note=notes.append, stopwatch=stopwatch)

    return make


@pytest.fixture
def exact(clip, table):
    """The whole float32 result of the plain code."""
    return frozen_activations(clip.image, table, BLOCK)
