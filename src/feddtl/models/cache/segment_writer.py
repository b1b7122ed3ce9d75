"""Writes rows into segments of the cache while the next rows are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from feddtl.models.cache.claims import Claim
from feddtl.models.cache.folder import Note
from feddtl.models.cache.namespace import CacheNamespace
from feddtl.models.cache.packed import Packed
from feddtl.models.cache.segments import Segment


class SegmentWriter:
    """Collects rows until they fill a segment. The rest is written when the `with` block ends, also after an error.

    Args:
        namespace: To which segments are added.
        claim: That of the rows.
        room: Number of rows to store; later ones are ignored.
        stored: Called with each segment that is on disk.
        note: Called if the disk cannot store more.
    """

    def __init__(
        self, namespace: CacheNamespace, claim: Claim, room: int, stored: Callable[[Segment], None], note: Note
    ) -> None:
        self._namespace = namespace
        self._claim = claim
        self._room = room
        self._stored = stored
        self._note = note
        self._keys: list[bytes] = []
        self._parts: list[Packed] = []
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[Segment] | None = None
        self.failed = False

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._begin_writing()
        self._end_writing()
        self._thread.shutdown()

    def add(self, keys: Sequence[bytes], packed: Packed) -> None:
        """Store as many of these rows as there is room for."""
        count = 0 if self.failed else min(len(keys), self._room)
        if not count:
            return
        self._room -= count
        self._keys += keys[:count]
        self._parts.append(packed.pick(slice(count)))
        if len(self._keys) >= self._namespace.segment_rows:
            self._begin_writing()

    def _begin_writing(self) -> None:
        self._end_writing()
        if self._keys and not self.failed:
            self._writing = self._thread.submit(self._namespace.add, self._claim, self._keys, self._parts)
        self._keys, self._parts = [], []

    def _end_writing(self) -> None:
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                self._stored(writing.result())
        except OSError as error:
            self.failed = True
            self._note(f"The cache {self._namespace.folder} cannot store more activations: {error.strerror or error}.")
