"""`feddtl` in processes of their own that can be killed, forked from one that has imported everything.

As a script it is that process: an order a line on standard input, an answer a line on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any


class KillableRuns:
    """Starts `feddtl` commands; see `start`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> KillableRuns:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def start(self, words: Sequence[object], *, die_before: int = 0, slow: float = 0.0) -> int:
        """Process id of a new `feddtl` process.

        Args:
            words: The command.
            die_before: It kills itself just before its n-th storage operation, from 1; 0: never.
            slow: Seconds that every flush to the disk takes, so that a moment can be met from outside.
        """
        return self._order(words=[str(word) for word in words], die_before=die_before, slow=slow, log=str(self._log))

    def wait(self, process: int) -> int:
        """Exit code of a process; -9 if it was killed."""
        return self._order(wait=process)

    def run(self, words: Sequence[object], **faults: Any) -> int:
        """Start and wait."""
        return self.wait(self.start(words, **faults))

    def kill_when(self, words: Sequence[object], moment: Callable[[], bool], *, slow: float = 0.0) -> bool:
        """Kill a process from outside at a moment; whether it was still running then."""
        process = self.start(words, slow=slow)
        limit = time.monotonic() + 60
        while not moment() and _is_running(process):
            assert time.monotonic() < limit, "the moment never came"
            time.sleep(0.001)
        os.kill(process, signal.SIGKILL)
        return self.wait(process) == -signal.SIGKILL

    def _order(self, **order: Any) -> int:
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


def _is_running(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for is a zombie ('Z')."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def serve() -> None:
    """Answer orders until the input ends."""
    from feddtl.backbones.clip import load_clip
    from feddtl.backbones.source import EMBEDDED

    # Import, once, what every run needs.
    for name in ("feddtl.cli.progress", "feddtl.cli.run_result", "feddtl.experiment", "feddtl.trackers"):
        import_module(name)
    load_clip(EMBEDDED)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become_feddtl(order)
        print(answer, flush=True)


def _become_feddtl(order: dict[str, Any]) -> None:
    from feddtl.cli import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _slow_disk(order["slow"])
    _die_before(order["die_before"])
    code = main(order["words"])
    sys.stdout.flush()
    os._exit(code)


def _slow_disk(seconds: float) -> None:
    """A killed process leaves what it wrote, flushed or not, so that the disk itself need not be waited for."""
    os.fsync = lambda handle: time.sleep(seconds)


def _die_before(number: int) -> None:
    """Count everything that changes a folder, and end before the n-th as `kill -9` does."""
    import shutil
    import tempfile

    import feddtl.checkpoints

    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for place, name in (
        (os, "fsync"),
        (os, "replace"),
        (tempfile, "mkstemp"),
        (tempfile, "mkdtemp"),
        (shutil, "rmtree"),
        (feddtl.checkpoints, "save_file"),
        (Path, "write_text"),
        (Path, "mkdir"),
        (Path, "chmod"),
    ):
        setattr(place, name, counted(getattr(place, name)))


if __name__ == "__main__":
    serve()
