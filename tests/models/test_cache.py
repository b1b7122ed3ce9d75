"""The cache folder: whole segments or none, found by content, below its cap, by several processes at once."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

import feddtl.models.cache.folder
import feddtl.models.cache.namespace
from feddtl.errors import ConfigError, RunError
from feddtl.models.activations import Activations
from feddtl.models.cache.claims import claimed, wait_for_claims
from feddtl.models.cache.folder import cache_contents, cache_folder, clear_cache, open_cache_folder
from feddtl.models.cache.namespace import CacheNamespace
from feddtl.models.cache.packed import RowLayout, pack
from feddtl.models.cache.segments import DamagedSegmentError, Segment, SegmentRows

IDENTITY = {"name": "some CLIP", "block": 2, "weights": "abc"}
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def random_rows(count, layout, seed=0):
    return pack(torch.randn(count, *layout.shape, generator=torch.Generator().manual_seed(seed)), layout.precision)


def keys_of(*numbers):
    return [number.to_bytes(16, "big") for number in numbers]


@pytest.fixture
def layout():
    return RowLayout((5, 8), "float16")


@pytest.fixture
def notes():
    return []


@pytest.fixture
def make_namespace(tmp_path, layout, notes):
    """A namespace as a new run opens it."""

    def make(identity=IDENTITY, cap=10**9, layout=layout):
        return CacheNamespace(tmp_path, identity, layout, cap, notes.append)

    return make


def add(namespace, numbers, rows):
    with namespace.claim(keys_of(*numbers)) as claim:
        return namespace.add(claim, keys_of(*numbers), [rows])


def segment_files(folder):
    return sorted(folder.glob("*/segment-*"))


def hidden_files(folder):
    return sorted(path.name for path in folder.glob("*/.*") if path.name != ".lock")


# --- segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(5, 8), (3, 7), (7,), (1, 1)])
def test_what_is_added_is_found_in_every_bit(make_namespace, precision, shape):
    layout = RowLayout(shape, precision)
    rows = random_rows(6, layout)
    add(make_namespace(layout=layout), range(6), rows)
    found = make_namespace(layout=layout).find(keys_of(4, 1, 9, 5))
    assert found.keys() == set(keys_of(4, 1, 5))
    source = SegmentRows([found[key] for key in keys_of(4, 1, 5)])
    assert torch.equal(source.gather(torch.tensor([2, 0, 0, 1])), rows.floats()[[5, 4, 4, 1]])
    assert source.gather(torch.empty(0, dtype=torch.long)).shape == (0, *shape)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_segment_is_a_safetensors_file(make_namespace, precision):
    layout = RowLayout((5, 8), precision)
    first, second = random_rows(2, layout), random_rows(3, layout, seed=1)
    namespace = make_namespace(layout=layout)
    with namespace.claim(()) as claim:
        segment = namespace.add(claim, keys_of(*range(5)), [first, second])
    content = load_file(segment.path)
    assert torch.equal(content["values"], torch.cat([first.values, second.values]))
    if precision == "int8":
        assert torch.equal(content["scales"], torch.cat([first.scales, second.scales]))
    assert [bytes(key.tolist()) for key in content["keys"]] == keys_of(*range(5)) == segment.keys


def test_rows_of_many_segments_in_any_order(make_namespace, layout):
    namespace, rows = make_namespace(), random_rows(40, layout)
    for start in range(0, 40, 8):
        add(namespace, range(start, start + 8), rows.pick(slice(start, start + 8)))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = make_namespace().find(keys_of(*range(40)))
    on_disk = Activations(SegmentRows([found[key] for key in keys_of(*range(40))]))
    for positions in (order, order[:3], torch.arange(5, 25), torch.tensor([7, 7, 30])):
        assert torch.equal(on_disk.rows(positions), rows.floats()[positions])


def test_rows_stay_readable_when_their_file_is_removed(make_namespace, layout, tmp_path):
    rows = random_rows(4, layout)
    segment = add(make_namespace(), range(4), rows)
    clear_cache(tmp_path)
    assert not segment.path.exists()
    assert torch.equal(SegmentRows([(segment, 2)]).gather(torch.tensor([0])), rows.floats()[[2]])


def cut_short(content):
    return content[:-9]


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": cut_short,
    "only a header": lambda content: content[:100],
    "longer": lambda content: content + b"x",
    "no header": lambda content: b"\xff" * len(content),
    "zeros": lambda content: bytes(len(content)),
    "other format": lambda content: content.replace(b'"F16"', b'"F32"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_segment_is_removed_with_a_note(make_namespace, layout, notes, damage):
    segment = add(make_namespace(), range(4), random_rows(4, layout))
    segment.path.write_bytes(damage(segment.path.read_bytes()))
    assert make_namespace().find(keys_of(*range(4))) == {}
    assert not segment.path.exists()
    assert len(notes) == 1
    assert str(segment.path) in notes[0]
    assert "encoded again" in notes[0]


def test_changed_bytes_are_noticed_when_they_are_read(make_namespace, layout):
    """One bit of row 2. After the values are 4 checks of 8 bytes and 4 keys of 16; a row has 80 bytes."""
    segment = add(make_namespace(), range(4), random_rows(4, layout))
    content = bytearray(segment.path.read_bytes())
    content[len(content) - 4 * (8 + 16) - 2 * 80 + 7] ^= 1
    segment.path.write_bytes(content)
    (damaged, _), *_ = make_namespace().find(keys_of(*range(4))).values()
    rows = SegmentRows([(damaged, row) for row in range(4)])
    rows.gather(torch.tensor([0, 1, 3]))
    with pytest.raises(RunError, match=str(segment.path)) as error:
        rows.gather(torch.tensor([2]))
    assert "Remove this file" in error.value.hint


def test_a_segment_of_another_layout_is_not_read(make_namespace, layout):
    segment = add(make_namespace(), range(4), random_rows(4, layout))
    with pytest.raises(DamagedSegmentError):
        Segment(segment.path, RowLayout((8, 5), "float16"))


# --- namespaces --------------------------------------------------------------------------------------


def test_namespaces_are_apart_but_for_their_names(make_namespace, layout):
    add(make_namespace(), [1], random_rows(1, layout))
    assert make_namespace({**IDENTITY, "name": "a copy under another name"}).find(keys_of(1))
    for changed in ({"block": 3}, {"weights": "abd"}, {"stored": "int8"}):
        assert not make_namespace({**IDENTITY, **changed}).find(keys_of(1))


def test_only_the_owner_may_read(tmp_path, layout):
    folder = open_cache_folder(str(tmp_path / "new" / "cache"), print)
    namespace = CacheNamespace(folder, IDENTITY, layout, 10**9, print)
    segment = add(namespace, [1], random_rows(1, layout))
    for path in (folder, segment.path.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(segment.path.stat().st_mode) == 0o600


def test_meta_says_what_is_inside(make_namespace, layout, tmp_path):
    add(make_namespace(), [1], random_rows(1, layout))
    assert json.loads(next(tmp_path.glob("*/meta.json")).read_text()) == IDENTITY


# --- cap and eviction --------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Segments as small as they are given; no margin on the disk."""
    monkeypatch.setattr(feddtl.models.cache.folder, "FREE_MARGIN", 0)
    monkeypatch.setattr(feddtl.models.cache.namespace, "HEADER_BYTES", 400)


@pytest.mark.usefixtures("small")
def test_the_longest_unused_segments_go_first(make_namespace, layout, tmp_path):
    """Room for three segments of two rows. Segment 0 is read, so 1 is the longest unused, then 2, then 0."""
    size = add(make_namespace({"other": 1}), [0, 1], random_rows(2, layout)).path.stat().st_size
    clear_cache(tmp_path)
    cap = 3 * size + 200
    ages = {}
    for number in range(3):
        made = add(make_namespace({"run": number}, cap), [0, 1], random_rows(2, layout))
        ages[number] = made.path
        os.utime(made.path, (1000 + number, 1000 + number))
    assert make_namespace({"run": 0}, cap).find(keys_of(1))
    for number, gone in ((3, 1), (4, 2), (5, 0)):
        ages[number] = add(make_namespace({"run": number}, cap), [0, 1], random_rows(2, layout)).path
        assert not ages.pop(gone).exists()
        assert all(path.exists() for path in ages.values())
        os.utime(ages[number], (time.time() + number, time.time() + number))


@pytest.mark.usefixtures("small")
def test_a_run_never_evicts_what_it_uses(make_namespace, layout, tmp_path):
    size = add(make_namespace(), [0, 1], random_rows(2, layout)).path.stat().st_size
    for number in (1, 2):
        add(make_namespace(), [2 * number, 2 * number + 1], random_rows(2, layout))
    run = make_namespace(cap=4 * size + 300)
    run.find(keys_of(0, 2, 4))
    assert run.room() >= 2
    add(run, [6, 7], random_rows(2, layout))
    assert run.room() == 0
    with pytest.raises(OSError, match="no space for another"), run.claim(()) as claim:
        run.add(claim, keys_of(8, 9), [random_rows(2, layout)])
    assert make_namespace().find(keys_of(*range(10))).keys() == set(keys_of(*range(8)))
    assert hidden_files(tmp_path) == []


@pytest.mark.usefixtures("small")
def test_a_smaller_cap_shrinks_the_cache_at_the_next_write(make_namespace, layout, tmp_path):
    for number in range(6):
        add(make_namespace(), [number], random_rows(1, layout))
    size = segment_files(tmp_path)[0].stat().st_size
    add(make_namespace(cap=3 * size), [6], random_rows(1, layout))
    assert len(segment_files(tmp_path)) == 2


def test_the_disk_keeps_a_margin(make_namespace, layout, monkeypatch):
    namespace = make_namespace()
    assert namespace.room() > 1000
    monkeypatch.setattr(feddtl.models.cache.folder, "FREE_MARGIN", 10**18)
    assert namespace.room() == 0
    with pytest.raises(OSError, match="no space for another"):
        add(namespace, [1], random_rows(1, layout))


def test_a_full_disk_leaves_nothing_half_written(make_namespace, layout, monkeypatch, tmp_path):
    def full(path, keys, parts, layout):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feddtl.models.cache.namespace, "write_segment", full)
    with pytest.raises(OSError, match="No space left"):
        add(make_namespace(), [1], random_rows(1, layout))
    assert segment_files(tmp_path) == []
    assert hidden_files(tmp_path) == []


# --- claims ------------------------------------------------------------------------------------------


def test_a_key_is_claimed_once(tmp_path):
    with claimed(tmp_path, keys_of(1, 2, 3)) as first:
        assert first.keys == tuple(keys_of(1, 2, 3))
        with claimed(tmp_path, keys_of(2, 4)) as second:
            assert second.keys == tuple(keys_of(4))
            with claimed(tmp_path, keys_of(1, 4)) as third:
                assert third.keys == ()
        with claimed(tmp_path, keys_of(4)) as again:
            assert again.keys == tuple(keys_of(4))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_waiting_ends_with_the_claim(tmp_path):
    ended, seen = threading.Event(), []

    def other():
        wait_for_claims(tmp_path, keys_of(2))
        seen.append(ended.is_set())

    with claimed(tmp_path, keys_of(1, 2)):
        wait_for_claims(tmp_path, keys_of(3))
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        assert seen == []
        ended.set()
    thread.join(timeout=30)
    assert seen == [True]


def test_what_a_dead_process_left_is_removed(tmp_path):
    """A claim that nobody locks, and a draft under it; a living claim's draft stays."""
    with claimed(tmp_path, keys_of(1)) as living:
        (tmp_path / ".claim-dead").write_bytes(b"".join(keys_of(2)))
        (tmp_path / ".segment-dead-0.draft").write_bytes(b"half")
        (tmp_path / f".segment-{living.token}-0.draft").write_bytes(b"half")
        with claimed(tmp_path, keys_of(2)) as claim:
            assert claim.keys == tuple(keys_of(2))
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {".lock", f".claim-{living.token}", f".segment-{living.token}-0.draft"}


def test_without_locks_everything_is_claimed_and_old_drafts_go(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, new = tmp_path / ".segment-a-0.draft", tmp_path / ".segment-b-0.draft"
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    with claimed(tmp_path, keys_of(1)) as first, claimed(tmp_path, keys_of(1)) as second:
        assert first.keys == second.keys == tuple(keys_of(1))
        wait_for_claims(tmp_path, keys_of(1))
    assert (old.exists(), new.exists()) == (False, True)


# --- the folder --------------------------------------------------------------------------------------


def test_which_folder_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FEDDTL_CACHE")
    assert cache_folder("") == tmp_path / ".cache" / "feddtl"
    assert cache_folder("~/elsewhere") == tmp_path / "elsewhere"
    assert cache_folder("off") is None
    monkeypatch.setenv("FEDDTL_CACHE", str(tmp_path / "named"))
    assert cache_folder("") == tmp_path / "named"
    assert cache_folder(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.setenv("FEDDTL_CACHE", "off")
    assert cache_folder("") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_only_where_it_was_asked_for(monkeypatch, tmp_path, notes):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written") as error:
        open_cache_folder(str(blocked / "cache"), notes.append)
    assert "compute.cache_folder" in error.value.hint
    monkeypatch.setenv("FEDDTL_CACHE", str(blocked))
    with pytest.raises(ConfigError, match="cannot be written"):
        open_cache_folder("", notes.append)
    assert notes == []
    monkeypatch.delenv("FEDDTL_CACHE")
    monkeypatch.setenv("HOME", str(blocked))
    assert open_cache_folder("", notes.append) is None
    assert "not cached for later runs" in notes[0]


def test_contents_and_clearing(make_namespace, layout, tmp_path):
    add(make_namespace({**IDENTITY, "block": 1}), range(3), random_rows(3, layout))
    os.utime(segment_files(tmp_path)[0], (1000, 1000))
    for number in (0, 4):
        add(make_namespace(), range(number, number + 4), random_rows(4, layout))
    (tmp_path / "kernels.json").write_text("{}")
    newer, older = cache_contents(tmp_path)
    assert (newer.identity, newer.images) == (IDENTITY, 8)
    assert (older.identity["block"], older.images, older.last_used) == (1, 3, 1000)
    total = sum(path.stat().st_size for path in segment_files(tmp_path))
    assert newer.nbytes + older.nbytes == total
    assert clear_cache(tmp_path) == total
    assert cache_contents(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["kernels.json"]
    assert clear_cache(tmp_path / "missing") == 0


def test_clearing_leaves_a_writing_process_alone(make_namespace, layout, tmp_path):
    namespace = make_namespace()
    with namespace.claim(keys_of(1)) as claim:
        clear_cache(tmp_path)
        namespace.add(claim, keys_of(1), [random_rows(1, layout)])
    assert make_namespace().find(keys_of(1))
    assert cache_contents(tmp_path)[0].images == 1
