"""Reading ahead: work on images in threads, results in order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int = 1
) -> Iterator[Result]:
    """Results of `work` in the order of the items; threads work ahead while the caller uses earlier results.

    Pillow and hashing release Python's global lock while they decode, resize and hash, so threads use all cores.

    Args:
        work: Called in the threads; an exception is raised in place of its result.
        items: The items to process.
        threads: Number of threads; it does not change the results.
        ahead: Number of finished results that may wait, in addition to those in progress.
    """
    upcoming = iter(items)
    pool = ThreadPoolExecutor(threads)
    waiting = deque(pool.submit(work, item) for item in islice(upcoming, threads + ahead))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(upcoming, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def thread_count(wanted: int) -> int:
    """The requested number of threads; 0 means one per core available to this process."""
    if wanted:
        return wanted
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
