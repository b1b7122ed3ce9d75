"""What a run says about the machine that it runs on."""

from __future__ import annotations

import os

import pytest
import torch

from feddtl.environment import busy_note


@pytest.mark.parametrize(("load", "threads", "said"), [(9.0, 2, True), (9.0, 1, False), (4.0, 2, False)])
def test_a_busy_machine_is_said_where_threads_wait(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int, said: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    note = busy_note()
    assert ("load of this machine is 9.0 on 4 cores" in note and "OMP_NUM_THREADS=1" in note) == said
    assert bool(note) == said
