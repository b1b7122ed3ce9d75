"""The encoder: bad images, damaged segments, lost folders; progress and time."""

from __future__ import annotations

import time

import pytest
import torch
from encoding_processes import random_table

import feddtl.encoding
import feddtl.models.cache.folder
import feddtl.models.cache.namespace
from feddtl.data.decode import EncodedImage
from feddtl.data.table import ImageTable
from feddtl.errors import ConfigError, DataError
from feddtl.timing import Stopwatch


def with_reader(table, read):
    return ImageTable(read, table.rows, table.labels, table.domains)


def segments(tmp_path):
    return sorted((tmp_path / "cache").glob("*/segment-*"))


# --- faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_a_bad_image_stops_and_what_was_done_is_kept(make_encoder, table, passes, threads, tmp_path):
    damaged = {21}

    def read(row):
        return EncodedImage(b"damaged", "cat/21.png") if row in damaged else table.reader(row)

    with pytest.raises(DataError, match=r"cat/21\.png"):
        make_encoder(loading_threads=threads).encode(with_reader(table, read))
    assert passes == [4] * 5
    passes.clear()
    damaged.clear()
    make_encoder().encode(with_reader(table, read))
    assert passes == [4] * 3
    assert torch.equal(make_encoder().encode(table).all(), make_encoder(cache_folder="off").encode(table).all())


def test_a_damaged_segment_is_computed_again(make_encoder, table, passes, notes, tmp_path):
    """One is cut short, one has changed bytes among its values."""
    expected = make_encoder().encode(table).all()
    short, changed, *_ = segments(tmp_path)
    short.write_bytes(short.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 16
    changed.write_bytes(content)
    passes.clear()
    assert torch.equal(make_encoder().encode(table).all(), expected)
    assert 1 < len(passes) <= 5
    assert sorted(str(path) in "".join(notes) for path in (short, changed)) == [True, True]
    assert len(notes) == 2
    passes.clear()
    make_encoder().encode(table)
    assert passes == []


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(make_encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        make_encoder(cache_folder=str(tmp_path / "file"))


def test_the_cache_removed_under_a_run_is_no_harm(make_encoder, table, exact, tmp_path):
    """On disk: rows that are being read stay readable; the next table goes on in a new folder."""
    import shutil

    encoder = make_encoder(cache_memory_gb=0.0)
    first = encoder.encode(table)
    shutil.rmtree(tmp_path / "cache")
    torch.testing.assert_close(first.all(), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.encode(table).all(), exact, rtol=0, atol=1e-6)


# --- progress and time -------------------------------------------------------------------------------


def test_progress_counts_views_of_images_known_ones_first(make_encoder, table):
    seen = []
    make_encoder().encode(table.select(range(10)))
    make_encoder().encode(table, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 30) for done in (10, 14, 18, 22, 26, 30)]
    seen.clear()
    make_encoder().encode(table.select([0, 0, 1]), lambda done, total: seen.append((done, total)), views=2)
    assert [total for _, total in seen] == [6] * len(seen)
    assert seen[0] == (3, 6)
    assert seen[-1] == (6, 6)


def test_what_is_given_up_counts_as_done(make_encoder, table):
    seen = []
    encoder = make_encoder(cache_folder="off", cache_memory_gb=0.0)
    encoder.encode(table, lambda done, total: seen.append((done, total)))
    assert seen == [(30, 30)]


def test_time_is_counted_by_phase(make_encoder, table):
    watch = Stopwatch()
    slow = with_reader(table, lambda row: time.sleep(0.002) or table.reader(row))
    make_encoder(stopwatch=watch, loading_threads=1).encode(slow)
    seconds = watch.seconds()
    assert seconds["decode"] > 0.05
    assert seconds["prefix"] > 0
    assert "load" in seconds


def test_thousands_of_images_take_no_time_to_find(make_encoder, monkeypatch, passes):
    monkeypatch.setattr(feddtl.encoding, "MOST_TOGETHER", 128)
    many = random_table(4000, seed=5)
    make_encoder().encode(many)
    passes.clear()
    begun = time.perf_counter()
    make_encoder().encode(many)
    assert passes == []
    assert time.perf_counter() - begun < 5
