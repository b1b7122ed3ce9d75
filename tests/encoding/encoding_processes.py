"""Processes that encode images, forked from one that has imported everything, and may be killed meanwhile.

As a script it is that process: an order a line on standard input, an answer a line on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class EncodingProcesses:
    """Starts processes that encode `random_table(count, seed)` at block 2; see `start`."""

    def __init__(self, model: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, cache: Path, report: Path, *, count: int, seed: int, die_before: int = 0, slow: float = 0.0) -> int:
        """Process id of a new process.

        Args:
            cache: Cache folder.
            report: Where it writes, as JSON, the images it sent through the model, and its notes.
            count: Images.
            seed: Of the images.
            die_before: It kills itself just before its n-th step on the disk, from 1; 0: never.
            slow: Seconds that each pass through the model takes longer.
        """
        order = {"cache": str(cache), "report": str(report), "count": count, "seed": seed}
        return self._order(order | {"die_before": die_before, "slow": slow})

    def wait(self, process: int) -> int:
        """Exit code of a process; -9 if it was killed."""
        return self._order({"wait": process})

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _order(self, order: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


def random_table(count: int, seed: int) -> Any:
    """Noise, the same for equal seeds; seeds do not overlap."""
    import numpy as np

    from feddtl.data.shapes import ArrayReader
    from feddtl.data.table import ImageTable

    pixels = np.random.default_rng(seed).integers(0, 256, (count, 20, 18, 3), dtype=np.uint8)
    rows = np.arange(count)
    return ImageTable(ArrayReader(pixels), rows, np.zeros_like(rows), np.zeros_like(rows))


def small_passes() -> None:
    """Passes of 4 images and segments of 8, so that 30 images are several of either."""
    import feddtl.encoding
    import feddtl.models.cache.namespace

    feddtl.encoding.MOST_TOGETHER = 4
    feddtl.models.cache.namespace.SEGMENT_BYTES = 8 * (5 * 32 * 4 + 24)
    feddtl.models.cache.namespace.MOST_SEGMENTS = 10**12


def serve() -> None:
    """Answer orders until the input ends."""
    from feddtl.backbones.clip import load_clip

    tower = load_clip(sys.argv[1]).image
    small_passes()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _encode(tower, order)
        print(answer, flush=True)


def _encode(tower: Any, order: dict[str, Any]) -> None:
    from feddtl.config import ComputeConfig
    from feddtl.features import ImageEncoder

    passed, notes = [], []
    prefix = tower.prefix

    def counted(pixels: Any, stop: int) -> Any:
        passed.append(len(pixels))
        time.sleep(order["slow"])
        return prefix(pixels, stop)

    tower.prefix = counted
    _die_before(order["die_before"])
    compute = ComputeConfig(cache_folder=order["cache"], activations="float32", cache_disk_gb=1.0)
    ImageEncoder(tower, 2, compute, note=notes.append).encode(random_table(order["count"], order["seed"]))
    Path(order["report"]).write_text(json.dumps({"passes": len(passed), "notes": notes}))
    os._exit(0)


def _die_before(number: int) -> None:
    """Count everything that changes the cache folder, and end before the n-th as `kill -9` does."""
    import fcntl

    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for owner, name in (
        (os, "open"),
        (os, "write"),
        (os, "fsync"),
        (fcntl, "flock"),
        (Path, "mkdir"),
        (Path, "touch"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "write_text"),
    ):
        setattr(owner, name, counted(getattr(owner, name)))


if __name__ == "__main__":
    serve()
