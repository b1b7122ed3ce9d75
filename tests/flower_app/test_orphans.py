"""A part of a run whose parent is killed ends, whatever its main thread waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from feddtl.flower_app.orphans import end_with_parent

# Waits for a lock that nobody releases, as a main thread in C code does.
APP = f"""#!{sys.executable}
import os, threading
from feddtl.flower_app import orphans
orphans.SECONDS_BETWEEN_CHECKS = orphans.SECONDS_TO_END_BY_ITSELF = 0.1
orphans.end_with_parent()
print(os.getpid(), flush=True)
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""
PARENT = "import os, subprocess, sys; subprocess.run([sys.argv[1], '--parent-pid', str(os.getpid())])"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for a process in /proc")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@LINUX
@pytest.mark.parametrize("name", ["flwr-clientapp", "flwr-serverapp"])
def test_an_app_that_waits_for_ever_ends_with_its_parent(tmp_path, name):
    script = tmp_path / name
    script.write_text(APP)
    script.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", PARENT, script], stdout=subprocess.PIPE, text=True) as parent:
        app = int(parent.stdout.readline())
        time.sleep(0.5)
        assert is_running(app)
        parent.kill()
    limit = time.monotonic() + 20
    try:
        while is_running(app):
            assert time.monotonic() < limit, "the app outlives its parent"
            time.sleep(0.05)
    finally:
        if is_running(app):
            os.kill(app, signal.SIGKILL)


@pytest.mark.parametrize(
    "words",
    [
        ["pytest", "--parent-pid", str(os.getppid())],
        ["flwr-clientapp"],
        ["flwr-clientapp", "--parent-pid"],
        ["flwr-clientapp", "--parent-pid", str(os.getpid())],
    ],
)
def test_other_processes_are_left_alone(monkeypatch, words):
    """Also an app that something else than its parent looks after."""
    monkeypatch.setattr(sys, "argv", words)
    before = threading.active_count()
    end_with_parent()
    assert threading.active_count() == before
