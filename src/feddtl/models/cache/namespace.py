"""One namespace of the cache: activations of one model, preprocessing, block and precision, by image content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from feddtl.models.cache.claims import Claim, claimed, locked
from feddtl.models.cache.folder import META, SEGMENT, Note, free_bytes, make_room, segments_in
from feddtl.models.cache.packed import Packed, RowLayout
from feddtl.models.cache.segments import (
    KEY_BYTES,
    SEGMENT_SUFFIX,
    DamagedSegmentError,
    Segment,
    write_segment,
)
from feddtl.storage import DRAFT, flush, json_text

# A killed process loses at most this much work. A larger cap means larger segments, to limit the number of open files.
SEGMENT_BYTES = 64_000_000
MOST_SEGMENTS = 256
# A row's key and checksum; a segment's header.
_EXTRA_BYTES = KEY_BYTES + 8
HEADER_BYTES = 1024

Location = tuple[Segment, int]


class CacheNamespace:
    """The activations of one namespace, which a run reads and adds to.

    Args:
        folder: Of the whole cache; must exist.
        identity: What determines the activations, as JSON; its 'name' is for readers only.
        layout: Of the rows.
        cap: Maximum bytes of all namespaces together.
        note: Called with notes for the user.

    Attributes:
        home: Folder of this namespace.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], layout: RowLayout, cap: int, note: Note) -> None:
        self.folder = folder
        self.layout = layout
        self.cap = cap
        self._identity = identity
        self._note = note
        self._row_bytes = layout.nbytes + _EXTRA_BYTES
        self._needed: set[Path] = set()
        decisive = {key: value for key, value in identity.items() if key != "name"}
        text = json.dumps(decisive, sort_keys=True)
        self.home = folder / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def segment_rows(self) -> int:
        """Number of rows to write into one segment."""
        return max(1, max(SEGMENT_BYTES, self.cap // MOST_SEGMENTS) // self._row_bytes)

    def find(self, keys: Collection[bytes]) -> dict[bytes, Location]:
        """Segment and number in it of the stored rows among these keys. Their segments count as used now."""
        wanted, found = set(keys), dict[bytes, Location]()
        for path in segments_in(self.home) if wanted else []:
            if (segment := self._open(path)) is None:
                continue
            hits = {key: (segment, row) for row, key in enumerate(segment.keys) if key in wanted}
            if hits:
                found |= hits
                wanted -= hits.keys()
                self._needed.add(path)
                with suppress(OSError):
                    os.utime(path)
        return found

    def drop(self, path: Path, reason: object) -> None:
        """Remove a damaged segment and note it."""
        self._note(f"A damaged file of the cache was removed; its images are encoded again ({path}: {reason}).")
        self._needed.discard(path)
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def claim(self, keys: Collection[bytes]) -> AbstractContextManager[Claim]:
        """Claim the keys that no other process is computing; see `claims.claimed`. Raises OSError."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.home / META).exists():
            # Written as a draft: another process may be reading.
            draft = self.home / f".{secrets.token_hex(8)}{DRAFT}"
            draft.write_text(json_text(self._identity), encoding="utf-8")
            draft.replace(self.home / META)
        return claimed(self.home, keys)

    def room(self) -> int:
        """Number of rows that can be added, also by removing segments that this run does not use."""
        free = free_bytes(self.folder, self.cap, self._needed)
        headers = HEADER_BYTES * (1 + free // (self.segment_rows * self._row_bytes))
        return max(0, free - headers) // self._row_bytes

    def add(self, claim: Claim, keys: Sequence[bytes], parts: Sequence[Packed]) -> Segment:
        """Write rows into a new segment.

        Args:
            claim: That of the rows.
            keys: Of all rows, in order.
            parts: The rows, contiguous and on the CPU.

        Raises:
            OSError: They do not fit on the disk or below the cap.
        """
        draft = self.home / f".{SEGMENT}{claim.token}-{secrets.token_hex(4)}{DRAFT}"
        path = self.home / f"{SEGMENT}{len(keys)}-{secrets.token_hex(8)}{SEGMENT_SUFFIX}"
        try:
            with locked(self.folder):
                make_room(self.folder, len(keys) * self._row_bytes + HEADER_BYTES, self.cap, self._needed)
                write_segment(draft, keys, parts, self.layout)
                segment = Segment(draft, self.layout)
                segment.path = draft.rename(path)
                self._needed.add(path)
            flush(self.home)
            return segment
        except DamagedSegmentError as error:
            raise OSError(errno.EIO, f"{path} does not read as it was written ({error})") from None
        finally:
            draft.unlink(missing_ok=True)

    def _open(self, path: Path) -> Segment | None:
        try:
            return Segment(path, self.layout)
        except FileNotFoundError:
            return None
        except DamagedSegmentError as error:
            self.drop(path, error)
        except OSError as error:
            self._note(f"A file of the cache cannot be read; its images are encoded again ({path}: {error.strerror}).")
        return None
