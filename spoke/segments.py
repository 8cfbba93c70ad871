"""The shared-memory segments of one node: who made each, how much there may be, what outlives its owner.

The agent creates every segment and keeps a descriptor, so that blocks outlive the process that wrote
them.  Accounting is by whole segments: `used` never passes `limit` (bytes).  A segment leaves the table

- when its living owner gives it back (`orphan_free` with `WHOLE`),
- when its owner is dead and nothing in it belongs to others (`spoke.lent`), at once or as soon as they
  have freed all of it (`orphan_free`),
- when its owner is dead and every driver is gone (`drop_orphans`).

No timer frees memory (REF-3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spoke import lent

WHOLE: Final = -1  # as what is returned: all of the segment


class StoreFull(Exception):
    """The node's limit of shared memory is reached; the text says how to raise it."""


class Entry:
    """One segment: the process that allocates in it, and the mapping."""

    __slots__ = ("bytes", "orphan", "owner", "returned", "segment")

    def __init__(self, owner: bytes, segment: Any, size: int) -> None:
        self.owner = owner
        self.segment = segment
        self.bytes = size
        self.orphan = False
        self.returned: dict[int, int] = {}  # what peers gave back in all, where they told the agent


class SegmentTable:
    """All segments of this node.

    Args:
        limit: bytes of all segments together.
        make: creates a mapping from a name and a size (`_native.Segment.create`).
        first_id: of its segments; an agent before this one gave out lower ones.
    """

    def __init__(self, limit: int, make: Callable[[str, int], Any], first_id: int = 1) -> None:
        self.limit = limit
        self.used = 0
        self._make = make
        self.on_drop: Callable[[int], None] = lambda segment_id: None
        self._entries: dict[int, Entry] = {}
        self._by_owner: dict[bytes, list[int]] = {}
        self._next_id = first_id

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

    def adopt(self, owner: bytes, segment_id: int, segment: Any) -> None:
        """A segment of the agent before this one, whose `owner` lives on; ignored if its id is known."""
        if segment_id not in self._entries:
            self._entries[segment_id] = Entry(owner, segment, segment.size)
            self._by_owner.setdefault(owner, []).append(segment_id)
            self.used += segment.size

    def get(self, segment_id: int) -> Entry | None:
        """The segment, None if there is none (any more) of this id."""
        return self._entries.get(segment_id)

    def owner_died(self, owner: bytes) -> int:
        """The process is gone: what others use of it stays.  Returns how many segments do."""
        left = 0
        for segment_id in self._by_owner.pop(owner, []):
            entry = self._entries[segment_id]
            entry.orphan = True
            if lent.count(entry.segment, entry.returned) == 0:
                self._drop(segment_id)
            else:
                left += 1
        return left

    def orphan_free(self, segment_id: int, returned: int, sender: bytes) -> None:
        """`sender` has given back so many uses of the segment's blocks in all.

        It says so when its link to the owner is gone, perhaps before this agent has seen the owner's
        death.  With `WHOLE`, the owner gives back all of the segment.  Unknown ids are ignored: the
        segment is gone already.
        """
        entry = self._entries.get(segment_id)
        if entry is None:
            return
        if returned == WHOLE:
            if entry.owner == sender:
                self._drop(segment_id)
            return
        key = lent.key_of(sender)
        entry.returned[key] = max(returned, entry.returned.get(key, 0))
        if entry.orphan and lent.count(entry.segment, entry.returned) == 0:
            self._drop(segment_id)

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

    def owners(self) -> list[bytes]:
        """The living processes that have segments here."""
        return list(self._by_owner)

    def _drop(self, segment_id: int) -> None:
        entry = self._entries.pop(segment_id)
        self.on_drop(segment_id)
        self.used -= entry.bytes
        ids = self._by_owner.get(entry.owner)
        if ids and segment_id in ids:
            ids.remove(segment_id)
            if not ids:
                del self._by_owner[entry.owner]
