"""Frozen activations: the same whatever batch, thread or precision, and in the order of the table."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import feddtl.features
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.features import frozen_activations


@pytest.fixture
def table(make_images):
    return make_images([0, 1, 2, 3, 4] * 5, seed=1, size=(20, 18))


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 4, so that 25 images are seven batches."""
    monkeypatch.setattr(feddtl.features, "PREFIX_BATCH", 4)


def with_reader(table, read):
    return ImageTable(read, table.rows, table.labels, table.domains)


@pytest.mark.parametrize("block", [0, 1, 3])
def test_activations_are_the_input_of_the_block(clip, table, block):
    """Image by image through transformers' own modules."""
    activations = frozen_activations(clip.image, table, block)
    assert activations.shape == (25, 5, 32)
    assert activations.dtype == torch.float32
    for index in (0, 7, 24):
        pixels = clip.processor(images=table.read(index), return_tensors="pt")["pixel_values"]
        vision = clip.model.vision_model
        states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(activations[index], states[block][0], rtol=0, atol=4e-6)


def test_batch_size_does_not_change_the_result(clip, table, monkeypatch):
    whole = frozen_activations(clip.image, table, 2)
    for size in (1, 4, 25):
        monkeypatch.setattr(feddtl.features, "PREFIX_BATCH", size)
        torch.testing.assert_close(frozen_activations(clip.image, table, 2), whole, rtol=0, atol=4e-6)


@pytest.mark.usefixtures("small_batches")
def test_number_of_threads_does_not_change_the_result(clip, table):
    """Early batches are made the slowest to read, so that four threads finish them out of order."""
    finished = []

    def slow_start(row):
        time.sleep(0.01 if row < 8 else 0)
        finished.append(row)
        return table.reader(row)

    one = frozen_activations(clip.image, table, 2, threads=1)
    four = frozen_activations(clip.image, with_reader(table, slow_start), 2, threads=4)
    assert torch.equal(one, four)
    assert finished != sorted(finished)
    assert sorted(finished) == list(range(25))


@pytest.mark.usefixtures("small_batches")
def test_reading_uses_the_threads_it_was_given_and_runs_only_a_little_ahead(clip, table):
    """With two threads three batches of four may wait: when the first is encoded, 12 images are read at most."""
    read, threads, at_first = [], set(), []

    def watch(row):
        threads.add(threading.get_ident())
        read.append(row)
        time.sleep(0.001)
        return table.reader(row)

    def progress(done, total):
        if not at_first:
            time.sleep(0.1)
            at_first.append(len(read))

    frozen_activations(clip.image, with_reader(table, watch), 0, threads=2, progress=progress)
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    assert at_first[0] <= 12


@pytest.mark.usefixtures("small_batches")
def test_progress_counts_images(clip, table):
    seen = []
    frozen_activations(clip.image, table, 1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 25) for done in (4, 8, 12, 16, 20, 24, 25)]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("threads", [1, 4])
def test_unreadable_image_stops_with_its_own_error(clip, table, threads):
    def broken(row):
        if row == 13:
            raise DataError("Cannot read the image cat/13.png.")
        return table.reader(row)

    with pytest.raises(DataError, match=r"cat/13\.png"):
        frozen_activations(clip.image, with_reader(table, broken), 0, threads=threads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_is_the_rounding_of_the_float32_result(clip, table, dtype):
    """Arithmetic stays in float32; only what is kept is rounded."""
    exact = frozen_activations(clip.image, table, 2)
    kept = frozen_activations(clip.image, table, 2, dtype=dtype)
    assert kept.dtype == dtype
    assert torch.equal(kept, exact.to(dtype))


def test_selected_table_gives_the_selected_rows(clip, table):
    chosen = table.select([24, 3, 3, 10])
    whole = frozen_activations(clip.image, table, 2)
    torch.testing.assert_close(frozen_activations(clip.image, chosen, 2), whole[[24, 3, 3, 10]], rtol=0, atol=4e-6)
    assert not torch.allclose(whole[24], whole[3])


def test_empty_table_gives_no_rows(clip, table):
    assert len(frozen_activations(clip.image, table.select([]), 2)) == 0


def test_no_gradient_is_kept(clip, table):
    assert not frozen_activations(clip.image, table, 2).requires_grad
