"""The encoder: the same activations cold, warm, in memory, on disk and recomputed, in any view."""

from __future__ import annotations

import time

import pytest
import torch
from plain_activations import frozen_activations

from feddtl.backbones.clip import load_clip
from feddtl.data.table import ImageTable
from feddtl.errors import ModelError
from feddtl.models.cache.packed import pack

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
# Bytes of an image at block 2 of the tiny tower in float32: 5 tokens of width 32.
ROW = 5 * 32 * 4


def with_reader(table, read):
    return ImageTable(read, table.rows, table.labels, table.domains)


def segments(tmp_path):
    return sorted((tmp_path / "cache").glob("*/segment-*"))


# --- the same numbers everywhere ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_case_gives_the_plain_result_in_the_stored_precision(make_encoder, table, exact, precision):
    expected = pack(exact, precision).floats()
    cases = {
        "cold": {},
        "warm": {},
        "on disk": {"cache_memory_gb": 0.0},
        "partly on disk": {"cache_memory_gb": 7.5 * ROW / 1e9},
        "without a cache": {"cache_folder": "off"},
        "recomputed": {"cache_folder": "off", "cache_memory_gb": 0.0},
        "partly recomputed": {"cache_folder": "off", "cache_memory_gb": 7.5 * ROW / 1e9},
    }
    first = None
    for name, changes in cases.items():
        activations = make_encoder(activations=precision, **changes).encode(table)
        rows = activations.all()
        assert len(activations) == 30
        torch.testing.assert_close(rows, expected, rtol=0, atol=0.02 if precision == "int8" else 1e-6, msg=name)
        first = rows if first is None else first
        assert torch.equal(rows, first), name
        for positions in ([29, 3, 3], []):
            chosen = activations.rows(torch.tensor(positions, dtype=torch.long))
            assert torch.equal(chosen, first[positions]), name


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(make_encoder, table, exact, threads):
    """Early images are made the slowest to read, so that threads finish them out of order."""

    def slow_start(row):
        time.sleep(0.005 if row < 8 else 0)
        return table.reader(row)

    slow = with_reader(table, slow_start)
    rows = make_encoder(loading_threads=threads, cache_folder="off").encode(slow).all()
    torch.testing.assert_close(rows, exact, rtol=0, atol=1e-6)
    assert torch.equal(rows, make_encoder(cache_folder="off").encode(table).all())


@pytest.mark.parametrize("known", [[0], [5, 17, 29], list(range(0, 30, 2)), list(range(29))])
def test_what_was_known_before_does_not_change_a_bit(make_encoder, table, known):
    """Other images are then missing, and go through the tower in other company."""
    whole = make_encoder(cache_folder="off").encode(table).all()
    make_encoder().encode(table.select(known))
    assert torch.equal(make_encoder().encode(table).all(), whole)


def test_final_features_are_kept_in_float32(make_encoder, clip, table, passes):
    expected = frozen_activations(clip.image, table, len(clip.image.stack))
    for _ in range(2):
        passes.clear()
        features = make_encoder(block=len(clip.image.stack), activations="int8").encode(table).all()
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    assert passes == []


def test_automatic_precision_follows_the_arithmetic(make_encoder, clip_folder, table):
    from feddtl.models.kernels import Kernels

    clip = load_clip(str(clip_folder))
    assert make_encoder(tower=clip.image, activations="auto").encode(table).all().dtype == torch.float32
    clip.use(Kernels(torch.bfloat16))
    assert make_encoder(tower=clip.image, activations="auto").encode(table).all().dtype == torch.bfloat16


def test_no_images_give_no_rows(make_encoder, table):
    for folder in ("off", ""):
        empty = make_encoder(cache_folder=folder).encode(table.select([]), views=2)
        assert len(empty) == 0
        assert len(empty.all()) == len(empty.rows(torch.empty(0, dtype=torch.long))) == 0


def test_a_value_too_large_for_float16_is_refused_and_not_kept(make_encoder, clip, table, monkeypatch, tmp_path):
    prefix = clip.image.prefix
    monkeypatch.setattr(clip.image, "prefix", lambda pixels, stop: prefix(pixels, stop) * 1e6)
    with pytest.raises(ModelError, match="float16"):
        make_encoder(activations="float16").encode(table)
    assert segments(tmp_path) == []


# --- views -------------------------------------------------------------------------------------------


def test_views_are_frozen_and_distinct(make_encoder, table, passes, tmp_path):
    """Row p · 3 + v is view v of image p; view 0 is the test image, shared with runs without views."""
    plain = make_encoder().encode(table).all()
    passes.clear()
    rows = make_encoder().encode(table, views=3).all()
    assert passes == [4] * 15
    assert torch.equal(rows[::3], plain)
    assert len({row.numpy().tobytes() for row in rows}) == 90
    passes.clear()
    assert torch.equal(make_encoder().encode(table.select([4, 2]), views=2).all(), rows[[12, 13, 6, 7]])
    assert passes == []
    for changes in ({"cache_folder": "off"}, {"cache_folder": "off", "cache_memory_gb": 0.0, "loading_threads": 3}):
        assert torch.equal(make_encoder(**changes).encode(table, views=3).all(), rows)
