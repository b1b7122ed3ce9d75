"""The encoder: the same activations cold, warm, in memory, on disk and recomputed, alone or among processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from encoding_processes import EncodingProcesses, random_table
from PIL import Image

import feddtl.encoding
import feddtl.models.cache.folder
import feddtl.models.cache.namespace
from feddtl.config import ComputeConfig
from feddtl.data.table import ImageTable
from feddtl.errors import ConfigError, DataError, ModelError
from feddtl.features import ImageEncoder, frozen_activations
from feddtl.models.activations import HeldRows
from feddtl.models.cache.packed import pack
from feddtl.models.clip import load_clip
from feddtl.timing import Stopwatch

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
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
    """An encoder as a new run makes it; float32 unless it is told otherwise."""

    def make(tower=clip.image, block=BLOCK, stopwatch=None, **changes):
        options = {"cache_folder": str(tmp_path / "cache"), "activations": "float32", "cache_disk_gb": 1.0}
        compute = ComputeConfig(**(options | changes))
        return ImageEncoder(tower, block, compute, note=notes.append, stopwatch=stopwatch)

    return make


@pytest.fixture
def exact(clip, table):
    """The whole float32 result, by the plain way."""
    return frozen_activations(clip.image, table, BLOCK)


def with_reader(table, read):
    return ImageTable(read, table.rows, table.labels, table.domains)


def segments(tmp_path):
    return sorted((tmp_path / "cache").glob("*/segment-*"))


# --- the same numbers everywhere ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_way_gives_the_plain_result_as_it_is_kept(make_encoder, table, exact, precision):
    expected = pack(exact, precision).floats()
    ways = {
        "cold": {},
        "warm": {},
        "on disk": {"cache_memory_gb": 0.0},
        "partly on disk": {"cache_memory_gb": 7.5 * ROW / 1e9},
        "without a cache": {"cache_folder": "off"},
        "computed anew": {"cache_folder": "off", "cache_memory_gb": 0.0},
        "partly computed anew": {"cache_folder": "off", "cache_memory_gb": 7.5 * ROW / 1e9},
    }
    first = None
    for name, changes in ways.items():
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
    assert make_encoder(tower=clip.image, activations="auto").encode(table).all().dtype == torch.float16
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


# --- what is the same image --------------------------------------------------------------------------


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


# --- budgets -----------------------------------------------------------------------------------------


def test_the_memory_budget_holds_over_all_calls(make_encoder, table, exact):
    encoder = make_encoder(cache_memory_gb=40 * ROW / 1e9)
    first, second, third = (encoder.encode(table), encoder.encode(table), encoder.encode(table.select([1, 2])))
    assert isinstance(first._source, HeldRows)
    assert len(second._source._sources[0]) == 10
    assert not isinstance(third._source, HeldRows)
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
    assert "images go through the frozen blocks again whenever they are used" in note
    assert "compute.cache_memory_gb = 0" in note
    assert "compute.cache_disk_gb" in note
    passes.clear()
    torch.testing.assert_close(activations.all(), exact, rtol=0, atol=1e-6)
    assert len(passes) >= 4
    passes.clear()
    warm = make_encoder(cache_memory_gb=0.0, cache_disk_gb=cap).encode(table)
    # A run reserves room for headers, so that the next one may find place for a few images more.
    assert len(passes) <= 1
    assert torch.equal(warm.all(), activations.all())


def test_memory_goes_on_where_the_disk_ends(make_encoder, table, exact, notes, passes, monkeypatch, tmp_path):
    monkeypatch.setattr(feddtl.models.cache.folder, "FREE_MARGIN", 10**18)
    rows = make_encoder().encode(table).all()
    torch.testing.assert_close(rows, exact, rtol=0, atol=1e-6)
    assert len(passes) == 8
    assert len(notes) == 1
    assert "30 images are kept for this run only" in notes[0]
    assert segments(tmp_path) == []


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_a_disk_that_fills_up_on_the_way(make_encoder, table, exact, notes, monkeypatch, tmp_path, memory):
    """The second segment is refused: what was written stays, the rest is held or computed anew."""
    write, done = feddtl.models.cache.namespace.write_all, []

    def full(file, chunks):
        done.append(file)
        if len(done) > 1:
            raise OSError(28, "No space left on device")
        write(file, chunks)

    monkeypatch.setattr(feddtl.models.cache.namespace, "write_all", full)
    activations = make_encoder(cache_memory_gb=memory).encode(table)
    torch.testing.assert_close(activations.all(), exact, rtol=0, atol=1e-6)
    assert any("takes no more activations: No space left on device" in note for note in notes)
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


# --- faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_a_bad_image_stops_and_what_was_done_is_kept(make_encoder, table, passes, threads, tmp_path):
    class Reader:
        bad = 21

        def __call__(self, row):
            if row == self.bad:
                raise DataError("Cannot read the image cat/21.png.")
            return table.reader(row)

        def digest(self, row):
            return table.reader.digest(row)

    reader = Reader()
    with pytest.raises(DataError, match=r"cat/21\.png"):
        make_encoder(loading_threads=threads).encode(with_reader(table, reader))
    assert passes == [4] * 5
    passes.clear()
    reader.bad = None
    make_encoder().encode(with_reader(table, reader))
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


# --- several processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(clip_folder):
    started = EncodingProcesses(clip_folder)
    yield started
    started.close()


def test_another_process_starts_warm(processes, make_encoder, passes, tmp_path):
    assert processes.wait(processes.start(tmp_path / "cache", tmp_path / "report", count=30, seed=1)) == 0
    assert json.loads((tmp_path / "report").read_text()) == {"passes": 8, "notes": []}
    rows = make_encoder().encode(random_table(30, seed=1)).all()
    assert passes == []
    assert torch.equal(rows, make_encoder(cache_folder="off").encode(random_table(30, seed=1)).all())


def test_two_processes_share_the_work(processes, tmp_path):
    """Both need the same 30 images: the later one waits for those that the first has claimed, and says so."""
    started = []
    for number in range(2):
        report = tmp_path / f"report-{number}"
        started.append(processes.start(tmp_path / "cache", report, count=30, seed=1, slow=0.05))
    assert [processes.wait(process) for process in started] == [0, 0]
    reports = [json.loads((tmp_path / f"report-{number}").read_text()) for number in range(2)]
    assert sorted(report["passes"] for report in reports) == [0, 8]
    assert sorted(len(report["notes"]) for report in reports) == [0, 1]
    assert any("Another process is encoding 30 of these images" in "".join(report["notes"]) for report in reports)


def test_a_killed_process_hands_its_work_over(processes, tmp_path):
    """The second process waits for the first, which is killed: it computes what is missing."""
    first = processes.start(tmp_path / "cache", tmp_path / "never", count=30, seed=1, slow=0.1)
    limit = time.monotonic() + 30
    while not segments(tmp_path):
        assert time.monotonic() < limit
        time.sleep(0.01)
    second = processes.start(tmp_path / "cache", tmp_path / "report", count=30, seed=1)
    time.sleep(0.1)
    os.kill(first, signal.SIGKILL)
    assert processes.wait(first) == -signal.SIGKILL
    assert processes.wait(second) == 0
    assert 1 <= json.loads((tmp_path / "report").read_text())["passes"] <= 6


def test_killed_at_any_step_the_next_run_is_right(processes, make_encoder, passes, tmp_path):
    """A process that dies before its 1st, 2nd, ... step on the disk, each in a new cache, until one gets through."""
    table = random_table(30, seed=1)
    expected = make_encoder(cache_folder="off").encode(table).all()
    fewest = 8
    for step in range(1, 200):
        cache = tmp_path / f"cache-{step}"
        code = processes.wait(processes.start(cache, tmp_path / "report", count=30, seed=1, die_before=step))
        passes.clear()
        assert torch.equal(make_encoder(cache_folder=str(cache)).encode(table).all(), expected), step
        # Where nothing was left to compute, a claim may stay for the next that has something to.
        left = [path.name for path in cache.glob("*/.*") if path.name != ".lock"]
        assert not left or not passes, step
        fewest = min(fewest, len(passes)) if code else fewest
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 30 < step < 199
    assert fewest <= 2


def test_two_encoders_in_one_process(make_encoder, table, exact):
    """Threads of one process hold claims against each other as processes do."""
    results = {}

    def encode(name):
        results[name] = make_encoder().encode(table).all()

    threads = [threading.Thread(target=encode, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 3
    for rows in results.values():
        torch.testing.assert_close(rows, exact, rtol=0, atol=1e-6)


def test_encoding_needs_no_gradient(make_encoder, table):
    assert not make_encoder().encode(table).all().requires_grad


def test_changing_the_result_changes_no_cache(make_encoder, table):
    encoder = make_encoder()
    expected = encoder.encode(table).all().clone()
    encoder.encode(table).rows(torch.arange(30)).zero_()
    assert torch.equal(make_encoder().encode(table).all(), expected)
