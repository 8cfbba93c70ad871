"""Blocks of other nodes that were brought here, for as long as this process refers to their object.

A long block lands in memory of its own that is shared with nobody, is read-only for its readers, and
can be mapped once more copy-on-write: so an array is a view of what arrived, a torch tensor a private
mapping of it, and neither copies.  A second ``get`` of the same object finds it here.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from spoke._native import Segment
from spoke.core.refs import Entry
from spoke.transport.base import Part
from spoke.transport.router import Router

PAGE_BYTES: Final = 4096
LONG_BYTES: Final = 1 << 20  # a shorter block costs less to copy than to map


class Copies:
    """What one process has brought here.

    Args:
        router: brings blocks.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        # Which blocks they were, as an object that was lost and made again has others, and the buffers.
        self._kept: WeakKeyDictionary[Entry, tuple[list[Part], list[Any]]] = WeakKeyDictionary()

    def has(self, entry: Entry, parts: list[Part]) -> bool:
        """Whether these blocks of the object are here."""
        kept = self._kept.get(entry)
        return kept is not None and kept[0] == parts

    def forget(self, entry: Entry) -> None:
        """The object will have other blocks."""
        self._kept.pop(entry, None)

    def bring(self, parts: list[Part], entry: Entry | None) -> list[Any]:
        """Blocks as read-only buffers, in order; kept while `entry`, the object they belong to, lives.

        Raises:
            what `Router.fetch` raises, MemoryError where there is no memory for a long block.
        """
        if any(part[2] < 0 for part in parts):
            entry = None  # registered memory is read anew each time: it may have changed
        if entry is not None:
            kept = self._kept.get(entry)
            if kept is not None and kept[0] == parts:
                return kept[1]
        buffers: list[Any] = [None] * len(parts)
        long = [index for index, part in enumerate(parts) if part[4] >= LONG_BYTES]
        if long:
            self._land([parts[index] for index in long], long, buffers)
        short = [index for index, part in enumerate(parts) if part[4] < LONG_BYTES]
        if short:
            found = self._router.fetch([parts[index] for index in short])
            for index, data in zip(short, found, strict=True):
                buffers[index] = data
        if entry is not None:
            self._kept[entry] = (parts, buffers)
        return buffers

    def _land(self, parts: list[Part], indices: list[int], buffers: list[Any]) -> None:
        """All in one segment: a thousand parameters take one descriptor."""
        offsets = []
        end = 0
        for part in parts:
            offsets.append(end)
            end += -(-part[4] // PAGE_BYTES) * PAGE_BYTES
        try:
            segment = Segment.create("spoke-copy", end)
        except OSError as error:
            raise MemoryError(f"no memory for {end} bytes of another node: {error}") from None
        spans = [(offset, part[4]) for offset, part in zip(offsets, parts, strict=True)]
        self._router.read(parts, [memoryview(segment.view(*span, True)) for span in spans])
        for index, span in zip(indices, spans, strict=True):
            buffers[index] = segment.view(*span)
