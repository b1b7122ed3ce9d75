"""Images through the frozen blocks, once: (N, S, d) activations that every later step starts from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from feddtl.data.table import ImageTable
from feddtl.models.clip import ImageTower

PREFIX_BATCH = 128

# (images done, images in all)
FeatureProgress = Callable[[int, int], None]


@torch.no_grad()
def frozen_activations(
    tower: ImageTower,
    table: ImageTable,
    first_block: int,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int = 1,
    progress: FeatureProgress = lambda done, total: None,
) -> Tensor:
    """Input of `first_block` for every image, on the CPU.

    Args:
        tower: The frozen image tower.
        table: Images to encode.
        first_block: First block that changes; the blocks before it run here and never again.
        dtype: Storage precision; the arithmetic is float32.
        threads: Threads that read and resize; their number does not change the result.
        progress: Told of images done.

    Returns:
        (N, S, d).

    Raises:
        DataError: An image cannot be read.
    """
    result: Tensor | None = None
    done = 0
    for pixels in _pixel_batches(tower, table, threads):
        hidden = tower.stack.run(tower.embed(pixels.to(tower.device)), 0, stop=first_block)
        if result is None:
            result = torch.empty(len(table), *hidden.shape[1:], dtype=dtype)
        result[done : done + len(hidden)] = hidden.to(dtype).cpu()
        done += len(hidden)
        progress(done, len(table))
    if result is None:
        return torch.empty(0, 0, 0, dtype=dtype)
    return result


def _pixel_batches(tower: ImageTower, table: ImageTable, threads: int) -> Iterator[Tensor]:
    """(B, 3, H, W) batches in order; reading and resizing run ahead of the model."""
    batches = [range(start, min(start + PREFIX_BATCH, len(table))) for start in range(0, len(table), PREFIX_BATCH)]

    def load(batch: range) -> Tensor:
        return tower.preprocess([table.read(index) for index in batch])

    pool = ThreadPoolExecutor(threads)
    waiting = deque(pool.submit(load, batch) for batch in batches[: threads + 1])
    upcoming = iter(batches[threads + 1 :])
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(load, batch) for batch in islice(upcoming, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
