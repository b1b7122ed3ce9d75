"""Processes of a federation on this machine: servers, clients and runs as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SECONDS_TO_STOP = 60


def feddtl(*words: object) -> list[str]:
    """A command line of feddtl."""
    return [sys.executable, "-m", "feddtl", *map(str, words)]


@contextmanager
def background(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block; what it says goes to a file."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(moment: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Fail if a moment does not come."""
    limit = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < limit, what
        time.sleep(0.2)


def says(log: Path, words: str) -> Callable[[], bool]:
    """Whether a log has these words."""
    return lambda: words in log.read_text(errors="replace")
