"""The encoder among processes: shared work, kills at any step."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

import pytest
import torch
from encoding_processes import EncodingProcesses, random_table

from feddtl.models.cache.namespace import CacheNamespace


def segments(tmp_path):
    return sorted((tmp_path / "cache").glob("*/segment-*"))


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
    # On a busy machine, the first may have encoded some of them when the later one asks.
    said = "".join(note for report in reports for note in report["notes"])
    assert re.search(r"Another process is encoding \d+ of these images", said)


def test_a_killed_process_hands_its_work_over(processes, tmp_path):
    """The second process waits for the first, which is killed: it computes the missing rows."""
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


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_the_next_run_is_right(processes, make_encoder, passes, tmp_path, stride):
    """A process that dies before one of its steps on the disk, each in a new cache, until one gets through."""
    table = random_table(30, seed=1)
    expected = make_encoder(cache_folder="off").encode(table).all()
    fewest = 8
    for step in range(1, 200, stride):
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
    """Threads of one process claim images from each other as processes do."""
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


def test_images_that_another_run_kept_meanwhile_are_not_computed_again(make_encoder, table, exact, passes, monkeypatch):
    """Another encoder fills the cache between the look-up and the claim of the first."""
    claim, others = CacheNamespace.claim, []

    def late(namespace, keys):
        if not others:
            others.append(make_encoder())
            others[0].encode(table)
        return claim(namespace, keys)

    monkeypatch.setattr(CacheNamespace, "claim", late)
    found = make_encoder().encode(table)
    assert torch.equal(found.all(), exact)
    assert sum(passes) == 32  # 30 images in passes of 4, once
