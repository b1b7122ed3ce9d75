"""Ends an app whose Flower process has ended, so that no process of a run is left behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

PROGRAMS = ("flwr-clientapp", "flwr-serverapp")
PARENT_FLAG = "--parent-pid"
SECONDS_BETWEEN_CHECKS = 1.0
SECONDS_TO_END_BY_ITSELF = 10.0  # Flower's own shutdown, which reports the end, takes at most half of that


def end_with_parent() -> None:
    """End this process soon after its parent has ended, if Flower started it for an app.

    Flower raises SIGINT in a thread of such a process. A main thread that waits for a lock, a file or a socket does not
    notice it and would wait forever. In any other process, for example one of Ray's, this does nothing.
    """
    if Path(sys.argv[0]).name not in PROGRAMS or PARENT_FLAG not in sys.argv[:-1]:
        return
    parent = sys.argv[sys.argv.index(PARENT_FLAG) + 1]
    if parent == str(os.getppid()):
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_CHECKS)
    time.sleep(SECONDS_TO_END_BY_ITSELF)
    os._exit(1)
