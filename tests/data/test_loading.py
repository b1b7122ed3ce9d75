"""Reading ahead in threads: results in order, a bounded number of them waiting, errors in their place."""

from __future__ import annotations

import threading
import time

import pytest

from feddtl.data.loading import read_ahead
from feddtl.errors import DataError


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_the_order_of_the_items(threads):
    """Early items are made the slowest, so that four threads finish them out of order."""
    finished = []

    def work(item):
        time.sleep(0.01 if item < 3 else 0)
        finished.append(item)
        return item**2

    assert list(read_ahead(work, range(25), threads=threads)) == [item**2 for item in range(25)]
    assert sorted(finished) == list(range(25))
    assert (finished == sorted(finished)) == (threads == 1)


def test_work_is_done_in_its_threads_and_only_a_little_ahead():
    """With two threads and one that may wait, three items are begun before the first result is taken."""
    begun, threads = [], set()

    def work(item):
        threads.add(threading.get_ident())
        begun.append(item)
        time.sleep(0.001)

    results = read_ahead(work, range(25), threads=2)
    next(results)
    time.sleep(0.1)
    assert len(begun) == 3
    assert len(list(results)) == 24
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_takes_the_place_of_its_result(threads):
    def work(item):
        if item == 13:
            raise DataError("Cannot read the image cat/13.png.")
        return item

    results = read_ahead(work, range(25), threads=threads)
    assert [next(results) for _ in range(13)] == list(range(13))
    with pytest.raises(DataError, match=r"cat/13\.png"):
        next(results)
