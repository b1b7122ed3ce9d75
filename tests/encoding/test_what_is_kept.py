"""The encoder: which images are the same, and the budgets of memory and disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import feddtl.encoding
import feddtl.models.cache.folder
import feddtl.models.cache.namespace
from feddtl.backbones.clip import load_clip
from feddtl.data.table import ImageTable
from feddtl.errors import DataError
from feddtl.models.cache.packed import Packed
from feddtl.timing import Stopwatch

BLOCK = 2
# Bytes of an image at block 2 of the tiny tower in float32: 5 tokens of width 32.
ROW = 5 * 32 * 4


def with_reader(table, read):
    return ImageTable(read, table.rows, table.labels, table.domains)


def segments(tmp_path):
    return sorted((tmp_path / "cache").glob("*/segment-*"))


# --- which images are the same -------------------------------------------------------------------------


def test_a_second_run_starts_warm(make_encoder, table, passes):
    make_encoder().encode(table)
    assert passes == [4] * 8
    passes.clear()
    watch = Stopwatch()
    make_encoder(stopwatch=watch).encode(table.select([7, 0, 29, 7]))
    assert passes == []
    assert "prefix" not in watch.seconds()


def test_an_image_is_known_by_its_content(make_encoder, tmp_path, passes):
    """The same file under another name; a file of the same name and size with another pixel."""
    from feddtl.data.folders import FolderReader

    def as_table(*names):
        rows = np.arange(len(names))
        files = tuple(tmp_path / name for name in names)
        return ImageTable(FolderReader(files), rows, rows * 0, rows * 0)

    pixels = np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    (tmp_path / "b.bmp").write_bytes((tmp_path / "a.bmp").read_bytes())
    first = make_encoder().encode(as_table("a.bmp")).all()
    passes.clear()
    assert torch.equal(make_encoder().encode(as_table("b.bmp", "a.bmp")).all(), first[[0, 0]])
    assert passes == []
    pixels[10, 9] ^= 255
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    assert not torch.equal(make_encoder().encode(as_table("b.bmp")).all(), first)


def test_equal_images_are_computed_and_kept_once(make_encoder, table, passes, tmp_path):
    encoder = make_encoder()
    assert len(encoder.encode(table.select([3] * 50 + [4]))) == 51
    assert passes == [4]
    (segment,) = segments(tmp_path)
    assert segment.name.startswith("segment-2-")


def test_everything_that_decides_the_result_has_its_own_place(make_encoder, clip, clip_folder, table, passes):
    """Each change computes all images again; changing it back computes none."""
    from feddtl.models.kernels import Kernels

    changed = {name: load_clip(str(clip_folder)) for name in ("weights", "embeddings", "precision", "mean")}
    vision = changed["weights"].model.vision_model
    vision.encoder.layers[1].mlp.fc1.bias.data[3] += 1e-3
    changed["embeddings"].model.vision_model.embeddings.class_embedding.data[0] += 1e-3
    changed["precision"].use(Kernels(torch.bfloat16))
    changed["mean"].image.preprocessing._processor.image_mean = (0.5, 0.4, 0.4)
    counted = []
    for name, other in changed.items():
        prefix = other.image.prefix
        other.image.prefix = lambda pixels, stop, prefix=prefix, name=name: counted.append(name) or prefix(pixels, stop)
    make_encoder().encode(table)
    for name, other in changed.items():
        make_encoder(tower=other.image).encode(table)
        assert counted.count(name) == 8, name
    passes.clear()
    make_encoder(block=1).encode(table)
    make_encoder(activations="bfloat16").encode(table)
    assert len(passes) == 16
    passes.clear()
    make_encoder().encode(table)
    make_encoder(block=1).encode(table)
    assert passes == []


def test_weights_behind_the_cut_do_not_count(make_encoder, clip_folder, table, passes):
    make_encoder().encode(table)
    other = load_clip(str(clip_folder))
    other.model.vision_model.encoder.layers[BLOCK].mlp.fc1.bias.data += 1
    other.model.visual_projection.weight.data += 1
    passes.clear()
    watch = Stopwatch()
    make_encoder(tower=other.image, stopwatch=watch).encode(table)
    assert "prefix" not in watch.seconds()


# --- budgets -----------------------------------------------------------------------------------------


def test_the_memory_budget_holds_over_all_calls(make_encoder, table, exact):
    encoder = make_encoder(cache_memory_gb=40 * ROW / 1e9)
    first, second, third = (encoder.encode(table), encoder.encode(table), encoder.encode(table.select([1, 2])))
    assert isinstance(first._source, Packed)
    assert len(second._source.sources[0]) == 10
    assert not isinstance(third._source, Packed)
    for activations, rows in ((first, exact), (second, exact), (third, exact[[1, 2]])):
        torch.testing.assert_close(activations.all(), rows, rtol=0, atol=1e-6)


def test_too_small_a_disk_keeps_what_fits_and_says_so(make_encoder, table, exact, notes, passes, monkeypatch):
    """No memory, and a cap for 8 to 16 of 30 images."""
    monkeypatch.setattr(feddtl.models.cache.folder, "FREE_MARGIN", 0)
    cap = (16 * (ROW + 24) + 2048) / 1e9
    activations = make_encoder(cache_memory_gb=0.0, cache_disk_gb=cap).encode(table)
    kept = sum(passes)
    assert 8 <= kept <= 16
    (note,) = notes
    assert "images go through the frozen blocks each time they are used" in note
    assert "compute.cache_memory_gb = 0" in note
    assert "compute.cache_disk_gb" in note
    passes.clear()
    torch.testing.assert_close(activations.all(), exact, rtol=0, atol=1e-6)
    assert len(passes) >= 4
    passes.clear()
    warm = make_encoder(cache_memory_gb=0.0, cache_disk_gb=cap).encode(table)
    # A run reserves room for headers, so that the next one may have room for a few more images.
    assert len(passes) <= 1
    assert torch.equal(warm.all(), activations.all())


def test_memory_goes_on_where_the_disk_ends(make_encoder, table, exact, notes, passes, monkeypatch, tmp_path):
    monkeypatch.setattr(feddtl.models.cache.folder, "FREE_MARGIN", 10**18)
    rows = make_encoder().encode(table).all()
    torch.testing.assert_close(rows, exact, rtol=0, atol=1e-6)
    assert len(passes) == 8
    assert len(notes) == 1
    assert "30 images are cached only for this run" in notes[0]
    assert segments(tmp_path) == []


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_a_disk_that_fills_up_on_the_way(make_encoder, table, exact, notes, monkeypatch, tmp_path, memory):
    """The second segment is refused: what was written stays, the rest is in memory or recomputed."""
    write, done = feddtl.models.cache.namespace.write_segment, []

    def full(path, *content):
        done.append(path)
        if len(done) > 1:
            raise OSError(28, "No space left on device")
        write(path, *content)

    monkeypatch.setattr(feddtl.models.cache.namespace, "write_segment", full)
    activations = make_encoder(cache_memory_gb=memory).encode(table)
    torch.testing.assert_close(activations.all(), exact, rtol=0, atol=1e-6)
    assert any("cannot store more activations: No space left on device" in note for note in notes)
    assert len(segments(tmp_path)) == 1
    assert list((tmp_path / "cache").glob("*/.segment*")) == []


def test_recomputing_needs_the_images_and_names_the_one_that_went_bad(make_encoder, table):
    broken = []

    def read(row):
        if row in broken:
            raise DataError("Cannot read the image cat/13.png.")
        return table.reader(row)

    activations = make_encoder(cache_folder="off", cache_memory_gb=0.0).encode(with_reader(table, read))
    activations.rows(torch.tensor([12, 14]))
    broken.append(13)
    activations.rows(torch.tensor([12, 14]))
    with pytest.raises(DataError, match=r"cat/13\.png"):
        activations.rows(torch.tensor([12, 13]))
