"""Runs images through the frozen blocks once; every later step starts from these activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from feddtl.config import ComputeConfig
from feddtl.data.loading import thread_count
from feddtl.data.table import ImageTable
from feddtl.encoding import ImageViews, PrefixPipeline
from feddtl.models.activations import Activations
from feddtl.models.cache.assembly import Assembly
from feddtl.models.cache.claims import Claim, wait_for_claims
from feddtl.models.cache.folder import Note, cache_folder, open_cache_folder
from feddtl.models.cache.namespace import CacheNamespace
from feddtl.models.cache.packed import RowLayout, StoredPrecision, concatenated
from feddtl.models.cache.segment_writer import SegmentWriter
from feddtl.models.digests import joint_digest
from feddtl.models.image_tower import ImageTower
from feddtl.timing import Stopwatch

# Raised when anything else changes the stored rows: how images are decoded, views drawn, rows rounded, files laid out.
CACHE_FORMAT = 1

# (images done, images in all)
FeatureProgress = Callable[[int, int], None]


def prefix_identity(tower: ImageTower, stop: int, stored: StoredPrecision) -> dict[str, Any]:
    """Everything that determines the stored output of `tower.prefix(·, stop)`, as JSON; 'name' is for readers only.

    The device changes only the last digits, but a result must not depend on which run filled the cache.
    """
    return {
        "name": tower.name,
        "format": CACHE_FORMAT,
        "weights": joint_digest(tower.prefix_digests(stop)),
        "architecture": tower.architecture,
        "preprocessing": dict(tower.preprocessing.identity),
        "block": stop,
        "blocks": len(tower.stack),
        "stored": stored,
        "precision": str(tower.precision).removeprefix("torch."),
        "device": tower.device.type,
    }


def row_layout(tower: ImageTower, first_block: int, compute: ComputeConfig) -> RowLayout:
    """Layout of the stored activations: by default in the precision of the arithmetic; final features, which are small,
    in float32."""
    if first_block == len(tower.stack):
        return RowLayout((tower.feature_width,), "float32")
    automatic: StoredPrecision = "bfloat16" if tower.precision == torch.bfloat16 else "float32"
    precision = automatic if compute.activations == "auto" else compute.activations
    return RowLayout((tower.tokens, tower.width), precision)


class ImageEncoder:
    """Runs tables of images through the frozen blocks of one tower, or reads activations cached by an earlier run.

    Args:
        tower: The frozen image tower.
        first_block: First block that changes; the number of blocks if none does, for final features.
        compute: Precision, cache and threads.
        note: Called with notes for the user.
        stopwatch: Counts 'load', 'decode' and 'prefix'.

    Attributes:
        threads: Threads that read images.

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
        self.threads = thread_count(compute.loading_threads)
        self._pipeline = PrefixPipeline(tower, first_block, self._layout.precision, self.threads, self._stopwatch)
        self._memory_left = int(compute.cache_memory_gb * 1e9)
        self._contents: list[tuple[ImageTable, list[bytes]]] = []
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
        keys = [number.to_bytes(8) for number in range(len(images))]
        if self._cache is not None:
            keys = self._keys(images)
        assembly = Assembly(images.load, keys, self._layout, self._memory_left, progress)
        self._memory_left -= assembly.nbytes
        if self._cache is None:
            self._compute_rows(assembly, assembly.missing(), 0, None)
        else:
            self._fill(assembly, self._cache)
        return assembly.finish(lambda keys: self._recomputed(assembly, keys))

    def contents(self, table: ImageTable) -> list[bytes]:
        """16 bytes for each image, equal for images of equal content; known without reading if it was encoded."""
        known = next((found for encoded, found in self._contents if encoded is table), None)
        return self._keys(ImageViews(table, 1, self._preprocessing)) if known is None else known

    def _keys(self, images: ImageViews) -> list[bytes]:
        """The key of each view; remembers the content of each image."""
        with self._stopwatch.measure("decode"):
            keys = images.keys(self.threads)
        self._contents.append((images.table, keys[:: images.views]))
        return keys

    def _fill(self, assembly: Assembly, cache: CacheNamespace) -> None:
        """Read cached rows, compute those that no other process computes, and wait for the rest."""
        self._take(assembly, cache)
        while missing := assembly.missing():
            with ExitStack() as stack:
                try:
                    claim = stack.enter_context(cache.claim(missing))
                except OSError as error:
                    self._note(f"The cache {cache.folder} cannot be written: {error.strerror or error}.")
                    self._compute_rows(assembly, missing, 0, None)
                    return
                # Another process may have stored them since the lookup.
                self._take(assembly, cache)
                if claimed := [key for key in claim.keys if not assembly.has(key)]:
                    self._compute_and_store(assembly, claimed, cache, claim)
            if not claim.keys:
                self._note(f"Another process is encoding {len(missing)} of these images; waiting for it.")
                wait_for_claims(cache.home, missing)
            self._take(assembly, cache)

    def _take(self, assembly: Assembly, cache: CacheNamespace) -> None:
        """Read missing rows that are in the cache."""
        with self._stopwatch.measure("load"):
            found = cache.find(assembly.missing())
            assembly.take(found, lambda segment, error: cache.drop(segment.path, error))
        assembly.report([key for key in found if assembly.has(key)])

    def _compute_and_store(self, assembly: Assembly, keys: list[bytes], cache: CacheNamespace, claim: Claim) -> None:
        room = min(cache.room(), len(keys))
        with SegmentWriter(cache, claim, room, assembly.stored, self._note) as writer:
            self._compute_rows(assembly, keys, room, writer)
        assembly.give_up([key for key in keys if not assembly.has(key)])

    def _compute_rows(self, assembly: Assembly, keys: list[bytes], room: int, writer: SegmentWriter | None) -> None:
        """Compute rows into memory and, if there is space, to disk; give up rows that fit in neither."""
        # Rows that do not fit in memory get disk space first.
        inside = [key for key in keys if assembly.fits_in_memory(key)]
        beyond = [key for key in keys if not assembly.fits_in_memory(key)]
        self._explain(room, len(beyond), len(inside))
        assembly.give_up(beyond[room:])

        def wanted() -> Iterator[bytes]:
            yield from (key for key in beyond[:room] if writer is not None and not writer.failed)
            yield from inside

        for done, packed in self._pipeline.run(assembly.load, wanted()):
            assembly.add(done, packed)
            if writer is not None:
                writer.add(done, packed)
            assembly.report(done)

    def _explain(self, room: int, beyond: int, inside: int) -> None:
        """Report rows that fit nowhere, and rows that the next run must compute again."""
        if self._cache is not None:
            free = f"compute.cache_disk_gb = {self._compute.cache_disk_gb:g}, or the disk's free space"
            reason = f"the cache {self._cache.folder} is too small ({free})"
        elif cache_folder(self._compute.cache_folder) is None:
            reason = "there is no cache"
        else:
            reason = "the cache folder cannot be written"
        if beyond > room:
            hint = "" if self._layout.precision == "int8" else "; less with compute.activations = 'int8'"
            self._note(
                f"{beyond - room} images go through the frozen blocks each time they are used: memory is too small "
                f"(compute.cache_memory_gb = {self._compute.cache_memory_gb:g}) and {reason}. They need "
                f"{(beyond - room) * self._layout.nbytes / 1e9:.3g} GB{hint}."
            )
        elif self._cache is not None and room < beyond + inside:
            left = beyond + inside - room
            self._note(f"{left} images are cached only for this run: {reason}. The next run encodes them again.")

    def _recomputed(self, assembly: Assembly, keys: list[bytes]) -> Tensor:
        """Rows that were given up, with the same values as if they had been stored."""
        parts = [packed for _, packed in self._pipeline.run(assembly.load, keys)]
        return concatenated(parts or [self._layout.empty(0)]).floats()
