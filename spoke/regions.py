"""Memory that belongs to the user and that peers may read where it lies: ``register_memory``.

A region stands beside the segments of its process, under a negative id, as one block that is always
open: a value that carries a buffer inside it names the region instead of copying the buffer.  Nobody can
map it, so readers ask for the bytes: over RDMA without any hand of this process, else by READ_BLOCK, which
the owner of the region answers itself.  Its bytes are what they are when they are read.

The region, and with it the user's object, stays until nobody who was told of it is left, also when it was
unregistered meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any, Final

from spoke import _native

LOOK_BACK: Final = 16  # regions that may overlap before one that contains a range


class RegionMemory:
    """The part of `_native.Segment` that readers of a region use."""

    __slots__ = ("address", "buffer", "size")

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer.toreadonly()
        self.address = _native.buffer_address(buffer)
        self.size = buffer.nbytes

    def view(self, offset: int, length: int) -> memoryview:
        """Read-only bytes; ValueError outside the region."""
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(
                f"bytes {offset} to {offset + length} are not inside registered memory of {self.size}"
            )
        return self.buffer[offset : offset + length]


class _Uncounted:
    """Uses by peers need no count that outlives this process: the memory does not either."""

    def lent(self, peer: bytes) -> None: ...

    def returned(self, peer: bytes) -> None: ...


class Region:
    """One registered range; where the store expects a segment, it is one.

    Args:
        memory: a `RegionMemory`, or what reads like one.
        block_type: `spoke.store.Block`, which counts the uses.
        keep: what keeps the memory alive.
    """

    __slots__ = ("block", "keep", "lent", "memory", "retired", "segment_id")

    def __init__(self, segment_id: int, memory: Any, keep: Any, block_type: Any) -> None:
        self.segment_id = segment_id
        self.memory = memory
        self.keep = keep
        self.lent = _Uncounted()
        self.retired = False
        self.block = block_type(self, 0, self.memory.size)

    def block_at(self, offset: int) -> Any:
        """The one block, which contains every offset."""
        return self.block if 0 <= offset < self.memory.size else None


class Regions:
    """The regions of one process; its store's lock guards it."""

    def __init__(self) -> None:
        self._by_id: dict[int, Region] = {}
        self._starts: list[tuple[int, int]] = []  # (address, id), sorted
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, memory: Any, keep: Any, block_type: Any) -> Region:
        """A new region over `memory`, with one use."""
        self._last_id -= 1
        region = Region(self._last_id, memory, keep, block_type)
        self._by_id[region.segment_id] = region
        insort(self._starts, (region.memory.address, region.segment_id))
        return region

    def get(self, segment_id: int) -> Region | None:
        return self._by_id.get(segment_id)

    def find(self, address: int, length: int) -> Region | None:
        """A region that contains this range."""
        return next(self.around(address, length), None)

    def around(self, address: int, length: int) -> Iterator[Region]:
        """All regions that contain this range, those that begin last first."""
        index = bisect_right(self._starts, (address, 1))
        for start, segment_id in reversed(self._starts[max(0, index - LOOK_BACK) : index]):
            region = self._by_id[segment_id]
            if address + length <= start + region.memory.size:
                yield region

    def drop(self, region: Region) -> None:
        """Nobody uses it any more: the user's memory is the user's again."""
        del self._by_id[region.segment_id]
        self._starts.remove((region.memory.address, region.segment_id))
        del region.block  # they hold each other: the memory would wait for the cycle collector
