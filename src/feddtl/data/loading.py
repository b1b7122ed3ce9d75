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
    """Results of `work` in the order of the items; the threads work while the caller uses what came before.

    Pillow and hashing leave Python's lock alone while they decode, resize and hash, so threads use all cores.

    Args:
        work: Called in the threads; an exception is raised where its result is due.
        items: What to work on.
        threads: How many; their number does not change the results.
        ahead: Results that may wait beside those being worked on.
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
    """Threads for a wanted number; 0 is one for each core that this process may use."""
    if wanted:
        return wanted
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
