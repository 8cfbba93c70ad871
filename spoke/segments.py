"""The shared-memory segments of one node: who made each, how much there may be, what outlives its owner.

The agent creates every segment and keeps a descriptor, so that blocks outlive the process that wrote
them.  Accounting is by whole segments: `used` never passes `limit` (bytes).  A segment leaves the table

- when its living owner gives it back,
- when its owner is dead and every job that could read it has ended (`drop_orphans`),
- when its owner is dead and a reader that knows says that nothing in it is needed (`orphan_free`).

No timer frees memory (REF-3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

WHOLE: Final = -1  # as an offset: all of the segment


class StoreFull(Exception):
    """The node's limit of shared memory is reached; the text says how to raise it."""


class Entry:
    """One segment: the process that allocates in it, and the mapping."""

    __slots__ = ("bytes", "freed", "orphan", "owner", "segment")

    def __init__(self, owner: bytes, segment: Any, size: int) -> None:
        self.owner = owner
        self.segment = segment
        self.bytes = size
        self.orphan = False
        self.freed: set[int] = set()  # offsets of an orphan's blocks known to be free


class SegmentTable:
    """All segments of this node.

    Args:
        limit: bytes of all segments together.
        make: creates a mapping from a name and a size (`_native.Segment.create`).
    """

    def __init__(self, limit: int, make: Callable[[str, int], Any]) -> None:
        self.limit = limit
        self.used = 0
        self._make = make
        self._entries: dict[int, Entry] = {}
        self._by_owner: dict[bytes, list[int]] = {}
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, owner: bytes, size: int) -> tuple[int, Any]:
        """A new segment of `size` bytes for `owner`; returns its id and mapping.

        Raises:
            StoreFull: it would pass the limit, or the machine has no memory left.
            ValueError: the size is not positive.
        """
        if size <= 0:
            raise ValueError(f"a segment has a positive size, not {size}")
        if self.used + size > self.limit:
            raise StoreFull(
                f"the object store of this node is full: {size} bytes asked for, {self.used} of "
                f"{self.limit} bytes in use. Drop references to large objects, or start with a larger "
                "object_store_memory (init(object_store_memory=...), spoke start --object-store-memory, "
                "SPOKE_OBJECT_STORE_MEMORY)."
            )
        try:
            segment = self._make(f"spoke-segment-{self._next_id}", size)
        except OSError as error:
            raise StoreFull(f"the machine has no shared memory left for {size} bytes: {error}") from None
        segment_id = self._next_id
        self._next_id += 1
        self._entries[segment_id] = Entry(owner, segment, size)
        self._by_owner.setdefault(owner, []).append(segment_id)
        self.used += size
        return segment_id, segment

    def get(self, segment_id: int) -> Entry | None:
        """The segment, None if there is none (any more) of this id."""
        return self._entries.get(segment_id)

    def owner_died(self, owner: bytes) -> int:
        """The process is gone: its segments stay, as orphans.  Returns how many there are."""
        segment_ids = self._by_owner.pop(owner, [])
        for segment_id in segment_ids:
            self._entries[segment_id].orphan = True
        return len(segment_ids)

    def orphan_free(self, segment_id: int, offset: int, sender: bytes) -> None:
        """A block, or with `WHOLE` all of a segment, is not needed any more.

        Only its owner gives back a segment that has one; of an orphan, any reader that knows.
        Unknown ids are ignored: the segment is gone already.
        """
        entry = self._entries.get(segment_id)
        if entry is None or not (entry.orphan or entry.owner == sender):
            return
        if offset == WHOLE:
            self._drop(segment_id)
        elif entry.orphan:
            entry.freed.add(offset)

    def drop_orphans(self) -> int:
        """Nobody is left who could read what dead processes wrote.  Returns the bytes released."""
        before = self.used
        for segment_id in [key for key, entry in self._entries.items() if entry.orphan]:
            self._drop(segment_id)
        return before - self.used

    def clear(self) -> None:
        """Release everything."""
        self._entries.clear()
        self._by_owner.clear()
        self.used = 0

    def _drop(self, segment_id: int) -> None:
        entry = self._entries.pop(segment_id)
        self.used -= entry.bytes
        ids = self._by_owner.get(entry.owner)
        if ids and segment_id in ids:
            ids.remove(segment_id)
            if not ids:
                del self._by_owner[entry.owner]
