"""Runs images through the frozen blocks once; every later step starts from these activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from feddtl.config import ComputeConfig
from feddtl.data.loading import read_ahead, thread_count
from feddtl.data.table import ImageTable
from feddtl.encoding import ImageViews, PrefixPipeline
from feddtl.models.activations import Activations
from feddtl.models.cache.assembly import Assembly
from feddtl.models.cache.claims import Claim
from feddtl.models.cache.folder import Note, cache_folder, open_cache_folder
from feddtl.models.cache.identity import prefix_identity
from feddtl.models.cache.namespace import CacheNamespace
from feddtl.models.cache.packed import RowLayout, StoredPrecision, joined
from feddtl.models.cache.segment_writer import SegmentWriter
from feddtl.models.image_tower import ImageTower
from feddtl.timing import Stopwatch

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
    """Output of the frozen blocks for every image, on the CPU, without a cache.

    Args:
        tower: The frozen image tower.
        table: Images to encode.
        first_block: First block that changes; the blocks before it run here.
        dtype: Storage precision; the arithmetic is the tower's.
        threads: Threads that read and resize; their number does not change the result.
        progress: Called with the number of finished images.

    Returns:
        (N, S, d) input of `first_block`; (N, e) final features if `first_block` is the number of blocks.

    Raises:
        DataError: An image cannot be read.
    """
    starts = range(0, len(table), PREFIX_BATCH)

    def load(start: int) -> Tensor:
        stop = min(start + PREFIX_BATCH, len(table))
        return tower.preprocess([table.read(index) for index in range(start, stop)])

    parts: list[Tensor] = []
    for pixels in read_ahead(load, starts, threads=threads):
        parts.append(tower.prefix(pixels.to(tower.device), first_block).to(dtype).cpu())
        progress(sum(map(len, parts)), len(table))
    return torch.cat(parts) if parts else torch.empty(0, 0, 0, dtype=dtype)


def row_layout(tower: ImageTower, first_block: int, compute: ComputeConfig) -> RowLayout:
    """Layout of the stored activations: 16 bits by default; final features, which are small, in float32."""
    if first_block == len(tower.stack):
        return RowLayout((tower.feature_width,), "float32")
    automatic: StoredPrecision = "bfloat16" if tower.precision == torch.bfloat16 else "float16"
    precision = automatic if compute.activations == "auto" else compute.activations
    return RowLayout((tower.tokens, tower.width), precision)


class _Job:
    """One table being encoded.

    Attributes:
        views: Views of its images, N positions.
        keys: (R,) key of each distinct row; empty without a cache.
        index: (N,) row of each position.
        assembly: The rows.
        given_up: Rows that fit neither in memory nor on disk.
    """

    def __init__(
        self, views: ImageViews, keys: Sequence[bytes], layout: RowLayout, budget: int, progress: FeatureProgress
    ) -> None:
        self.views = views
        # An image with two names is one row; without keys, every position is a separate row.
        names: Sequence[bytes | int] = keys or range(len(views))
        rows = {name: row for row, name in enumerate(dict.fromkeys(names))}
        self.index = torch.tensor([rows[name] for name in names], dtype=torch.long)
        self.keys = list(dict.fromkeys(keys))
        self.assembly = Assembly(layout, len(rows), budget)
        self.given_up: set[int] = set()
        self._positions = {rows[name]: position for position, name in enumerate(names)}
        self._copies = self.index.bincount(minlength=len(rows))
        self._done = 0
        self._progress = progress

    def load(self, row: int) -> Tensor:
        """Pixels of a row. Raises DataError."""
        return self.views.load(self._positions[row])

    def missing(self) -> list[int]:
        """Rows that are still missing."""
        return [row for row in self.assembly.missing() if row not in self.given_up]

    def give_up(self, rows: Sequence[int]) -> None:
        """Mark rows as computed at each use."""
        self.given_up.update(rows)
        self.report(rows)

    def report(self, rows: Sequence[int]) -> None:
        """Mark rows as finished; each counts once."""
        if len(rows):
            at = torch.tensor(rows)
            self._done += int(self._copies[at].sum())
            self._copies[at] = 0
            self._progress(self._done, len(self.views))


class ImageEncoder:
    """Runs tables of images through the frozen blocks of one tower, or reads activations cached by an earlier run.

    Args:
        tower: The frozen image tower.
        first_block: First block that changes; the number of blocks if none does, for final features.
        compute: Precision, cache and threads.
        note: Called with notes for the user.
        stopwatch: Counts 'load', 'decode' and 'prefix'.

    Raises:
        ConfigError: The requested cache folder cannot be written.
    """

    def __init__(
        self,
        tower: ImageTower,
        first_block: int,
        compute: ComputeConfig,
        *,
        note: Note = lambda text: None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._preprocessing = tower.preprocessing
        self._compute = compute
        self._note = note
        self._stopwatch = stopwatch or Stopwatch()
        self._layout = row_layout(tower, first_block, compute)
        self._threads = thread_count(compute.loading_threads)
        self._pipeline = PrefixPipeline(tower, first_block, self._layout.precision, self._threads, self._stopwatch)
        self._memory_left = int(compute.cache_memory_gb * 1e9)
        self._cache: CacheNamespace | None = None
        folder = open_cache_folder(compute.cache_folder, note)
        if folder is not None:
            identity = prefix_identity(tower, first_block, self._layout.precision)
            self._cache = CacheNamespace(folder, identity, self._layout, int(compute.cache_disk_gb * 1e9), note)

    def encode(
        self, table: ImageTable, progress: FeatureProgress = lambda done, total: None, views: int = 1
    ) -> Activations:
        """Activations of every view of every image; row p · views + v is view v of the image at position p.

        They are in memory up to `compute.cache_memory_gb`, counted over all calls; beyond that on disk; and
        recomputed at each use if the disk is also too small. The values are the same in every case.

        Args:
            table: N images.
            progress: Called with the number of finished views, including those of earlier runs.
            views: Views of each image; see `Preprocessing.view`.

        Returns:
            N · views rows.

        Raises:
            DataError: An image cannot be read.
            ModelError: An activation is too large for the storage precision.
        """
        images = ImageViews(table, views, self._preprocessing)
        with self._stopwatch.measure("decode"):
            keys = [] if self._cache is None else images.keys(self._threads)
        job = _Job(images, keys, self._layout, self._memory_left, progress)
        self._memory_left -= job.assembly.nbytes
        if self._cache is None:
            self._compute_rows(job, job.missing(), 0, None)
        else:
            self._fill(job, self._cache)
        return job.assembly.finish(lambda rows: self._computed(job, rows), job.index)

    def _fill(self, job: _Job, cache: CacheNamespace) -> None:
        """Read cached rows, compute those that no other process computes, and wait for the rest."""
        self._take(job, cache)
        while rows := {job.keys[row]: row for row in job.missing()}:
            with ExitStack() as stack:
                try:
                    claim = stack.enter_context(cache.claim(rows))
                except OSError as error:
                    self._note(f"The cache {cache.folder} cannot be written: {error.strerror or error}.")
                    self._compute_rows(job, list(rows.values()), 0, None)
                    return
                # Another process may have stored them since the lookup.
                self._take(job, cache)
                left = set(job.missing())
                if mine := [rows[key] for key in claim.keys if rows[key] in left]:
                    self._compute_and_keep(job, mine, cache, claim)
            if not claim.keys:
                self._note(f"Another process is encoding {len(rows)} of these images; waiting for it.")
                cache.wait_for_others(rows)
            self._take(job, cache)

    def _take(self, job: _Job, cache: CacheNamespace) -> None:
        """Read missing rows that are in the cache."""
        with self._stopwatch.measure("load"):
            missing = job.missing()
            found = cache.find({job.keys[row] for row in missing})
            places = {row: found[job.keys[row]] for row in missing if job.keys[row] in found}
            job.assembly.take(places, lambda segment, error: cache.drop(segment.path, error))
        job.report([row for row in places if job.assembly.has(row)])

    def _compute_and_keep(self, job: _Job, rows: list[int], cache: CacheNamespace, claim: Claim) -> None:
        room = min(cache.room(), len(rows))
        with SegmentWriter(cache, claim, room, job.assembly.stored, self._note) as writer:
            self._compute_rows(job, rows, room, writer)
        job.give_up([row for row in rows if not job.assembly.has(row)])

    def _compute_rows(self, job: _Job, rows: list[int], room: int, writer: SegmentWriter | None) -> None:
        """Compute rows into memory and, if there is space, to disk; give up rows that fit in neither."""
        held = job.assembly.held
        # Rows that do not fit in memory get disk space first.
        beyond, inside = [row for row in rows if row >= held], [row for row in rows if row < held]
        self._explain(room, beyond, inside)
        job.give_up(beyond[room:])

        def wanted() -> Iterator[int]:
            yield from (row for row in beyond[:room] if writer is not None and not writer.failed)
            yield from inside

        for done, packed in self._pipeline.run(job.load, wanted()):
            job.assembly.hold(done, packed)
            if writer is not None:
                writer.add(done, [job.keys[row] for row in done], packed)
            job.report(done)

    def _explain(self, room: int, beyond: Sequence[int], inside: Sequence[int]) -> None:
        """Report rows that fit nowhere, and rows that the next run must compute again."""
        off = cache_folder(self._compute.cache_folder) is None
        place = "the cache is 'off'" if off else "the cache folder cannot be written"
        if self._cache is not None:
            free = f"compute.cache_disk_gb = {self._compute.cache_disk_gb:g}, or the disk's free space"
            place = f"the cache {self._cache.folder} is too small ({free})"
        if lost := len(beyond[room:]):
            hint = "" if self._layout.precision == "int8" else "; less with compute.activations = 'int8'"
            self._note(
                f"{lost} images go through the frozen blocks each time they are used: memory is too small "
                f"(compute.cache_memory_gb = {self._compute.cache_memory_gb:g}) and {place}. They need "
                f"{lost * self._layout.nbytes / 1e9:.3g} GB{hint}."
            )
        elif self._cache is not None and room < len(beyond) + len(inside):
            left = len(beyond) + len(inside) - room
            self._note(f"{left} images are cached only for this run: {place}. The next run encodes them again.")

    def _computed(self, job: _Job, rows: Tensor) -> Tensor:
        """Given-up rows (B,), computed now with the same values as if they had been stored."""
        parts = [packed for _, packed in self._pipeline.run(job.load, rows.tolist())]
        return joined(parts or [self._layout.empty(0)]).floats()
