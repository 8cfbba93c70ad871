"""Blocks in shared memory: writing the large parts of a value once, mapping them without a copy.

A process allocates only in segments that its agent made for it (MEM-1) and knows who uses each of
its blocks: the entry of an object it owns, a peer that owns an object which lies here (the result of
a call), or a tensor of `spoke.empty`.  A block is reused when no use is left.

A block part on the wire is ``[node_id, process_id, segment_id, offset, length]``; process_id is the
allocator, the only process that may free it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from spoke import _native
from spoke.errors import ObjectLostError

INLINE_BYTES_MAX: Final = 100 * 1024  # a value up to here travels inside the message
BLOCK_ALIGN: Final = 64
PAGE_BYTES: Final = 4096

Part = Any  # bytes, or a block descriptor as above


class Block:
    """A range of one of this process's segments; counted."""

    __slots__ = ("length", "offset", "segment", "uses")

    def __init__(self, segment: OwnSegment, offset: int, length: int) -> None:
        self.segment = segment
        self.offset = offset
        self.length = length
        self.uses = 1


class OwnSegment:
    """A segment that this process allocates in."""

    __slots__ = ("arena", "blocks", "memory", "open", "segment_id")

    def __init__(self, segment_id: int, memory: _native.Segment) -> None:
        self.segment_id = segment_id
        self.memory = memory
        self.arena = _native.Arena(memory.size)
        self.blocks: dict[int, Block] = {}
        self.open: dict[int, Block] = {}  # those of `empty`, which the user's code writes itself


class Store:
    """The blocks of one process, and its mappings of others' segments.

    `request_segment(bytes)` and `map_segment(segment_id)` ask the agent and return
    ``(segment_id, size, descriptor)``; they raise `ObjectStoreFullError`.
    """

    def __init__(
        self,
        node_id: bytes,
        process_id: bytes,
        segment_bytes: int,
        request_segment: Callable[[int], tuple[int, int, int]],
        map_segment: Callable[[int], tuple[int, int, int]],
    ) -> None:
        self.node_id = node_id
        self.process_id = process_id
        self.segment_bytes = segment_bytes
        self._request_segment = request_segment
        self._map_segment = map_segment
        self._own: dict[int, OwnSegment] = {}
        self._mapped: dict[int, _native.Segment] = {}
        self._peers: dict[bytes, dict[tuple[int, int], int]] = {}  # uses by peers, for their death
        self._lock = threading.Lock()
        self._open_blocks = 0
        self.copied_bytes = 0  # written into blocks by this process: the counter behind "zero copy"
        self.mapped_bytes = 0

    # -- allocation

    def allocate(self, length: int) -> Block:
        """A new block with one use.

        Raises:
            ObjectStoreFullError: the node has no shared memory left for it.
        """
        align = PAGE_BYTES if length >= INLINE_BYTES_MAX else BLOCK_ALIGN
        with self._lock:
            block = self._allocate_here(length, align)
        if block is not None:
            return block
        want = max(self.segment_bytes, (length + 2 * PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES)
        segment_id, size, descriptor = self._request_segment(want)
        segment = OwnSegment(segment_id, _native.Segment.map(descriptor, size, True))
        _close(descriptor)
        with self._lock:
            self._own[segment_id] = segment
            block = self._allocate_here(length, align)
        assert block is not None
        return block

    def _allocate_here(self, length: int, align: int) -> Block | None:
        for segment in self._own.values():
            offset = segment.arena.alloc(max(length, 1), align)
            if offset >= 0:
                block = Block(segment, offset, length)
                segment.blocks[offset] = block
                return block
        return None

    def release(self, block: Block) -> None:
        """One use less; the memory is reused at zero."""
        with self._lock:
            self._release(block)

    def _release(self, block: Block) -> None:
        block.uses -= 1
        if block.uses == 0:
            del block.segment.blocks[block.offset]
            if block.segment.open.pop(block.offset, None) is not None:
                self._open_blocks -= 1
            block.segment.arena.free(block.offset)

    def describe(self, block: Block) -> list[Any]:
        """The wire form of a block."""
        return [self.node_id, self.process_id, block.segment.segment_id, block.offset, block.length]

    # -- writing values

    def write(self, body: bytes, buffers: list[Any]) -> tuple[list[Part], list[Block]]:
        """Parts of a value, large ones in blocks; the blocks come with one use each.

        A buffer that already lies in a block of this process (`empty`) is not copied: its block
        gets one more use.
        """
        if not buffers:
            if len(body) <= INLINE_BYTES_MAX:
                return [body], []
            return self._write_large(body, [])
        raw = [buffer.raw() for buffer in buffers]
        total = len(body) + sum(view.nbytes for view in raw)
        if total <= INLINE_BYTES_MAX and not self._open_blocks:
            return [body, *(bytes(view) for view in raw)], []
        return self._write_large(body, raw)

    def _write_large(self, body: bytes, raw: list[memoryview]) -> tuple[list[Part], list[Block]]:
        parts: list[Part] = []
        blocks: list[Block] = []
        copies: list[Any] = []
        for view in [memoryview(body), *raw]:
            block = self._find(view) if view is not None and view.nbytes else None
            parts.append(None)
            if block is not None:
                blocks.append(block)
                offset = _native.buffer_address(view) - block.segment.memory.address
                parts[-1] = [self.node_id, self.process_id, block.segment.segment_id, offset, view.nbytes]
            else:
                copies.append((len(parts) - 1, view))
        if sum(view.nbytes for _, view in copies) <= INLINE_BYTES_MAX:
            for index, view in copies:
                parts[index] = bytes(view)
            return parts, blocks
        try:
            for index, view in copies:
                if view.nbytes <= 4096:
                    parts[index] = bytes(view)
                    continue
                block = self.allocate(view.nbytes)
                blocks.append(block)
                block.segment.memory.write(block.offset, [view])
                self.copied_bytes += view.nbytes
                parts[index] = self.describe(block)
        except BaseException:
            for block in blocks:
                self.release(block)
            raise
        return parts, blocks

    def _find(self, view: memoryview) -> Block | None:
        """The block of this process that a buffer lies in, with one more use."""
        if not self._open_blocks:
            return None
        address = _native.buffer_address(view)
        with self._lock:
            for segment in self._own.values():
                offset = address - segment.memory.address
                if 0 <= offset < segment.memory.size:
                    for block in segment.open.values():
                        if block.offset <= offset and offset + view.nbytes <= block.offset + block.length:
                            block.uses += 1
                            return block
        return None

    # -- uses by peers

    def lend(self, peer: bytes, blocks: list[Block]) -> None:
        """Each of these uses now belongs to `peer`, which frees it by descriptor or by dying."""
        with self._lock:
            held = self._peers.setdefault(peer, {})
            for block in blocks:
                key = (block.segment.segment_id, block.offset)
                held[key] = held.get(key, 0) + 1

    def returned(self, peer: bytes, descriptors: list[list[Any]]) -> None:
        """`peer` needs these blocks no longer."""
        with self._lock:
            held = self._peers.get(peer, {})
            for _, _, segment_id, offset, _ in descriptors:
                block = self._block_at(segment_id, offset)
                key = (segment_id, block.offset) if block else None
                if block is not None and key is not None and held.get(key, 0) > 0:
                    held[key] -= 1
                    if not held[key]:
                        del held[key]
                    self._release(block)

    def _block_at(self, segment_id: int, offset: int) -> Block | None:
        segment = self._own.get(segment_id)
        if segment is None:
            return None
        block = segment.blocks.get(offset)
        if block is None:  # a part inside a block of `empty`
            for candidate in segment.blocks.values():
                if candidate.offset <= offset < candidate.offset + candidate.length:
                    return candidate
        return block

    def release_described(self, descriptors: list[list[Any]]) -> None:
        """Give up uses of own blocks by their descriptors."""
        with self._lock:
            for _, _, segment_id, offset, _ in descriptors:
                block = self._block_at(segment_id, offset)
                if block is not None:
                    self._release(block)

    def peer_lost(self, peer: bytes) -> None:
        """REF-2: the death of a peer returns what it held here."""
        with self._lock:
            for (segment_id, offset), uses in self._peers.pop(peer, {}).items():
                block = self._block_at(segment_id, offset)
                for _ in range(uses if block is not None else 0):
                    assert block is not None
                    self._release(block)

    # -- reading

    def view(self, descriptor: list[Any]) -> _native.SegmentView:
        """A read-only view of a block of this node; the mapping is made once per segment.

        Raises:
            ObjectLostError: the segment is gone.
        """
        _, _, segment_id, offset, length = descriptor
        own = self._own.get(segment_id)
        memory = own.memory if own is not None else self._mapped.get(segment_id)
        if memory is None:
            try:
                _, size, fd = self._map_segment(segment_id)
            except KeyError:
                raise ObjectLostError.from_message(
                    f"the shared memory segment {segment_id} of the object is gone"
                ) from None
            memory = _native.Segment.map(fd, size, False)
            _close(fd)
            memory = self._mapped.setdefault(segment_id, memory)
        self.mapped_bytes += length
        return memory.view(offset, length)

    def empty(self, length: int) -> tuple[Block, _native.SegmentView]:
        """A writable block that lives as long as the view or any object that carries it."""
        block = self.allocate(length)
        with self._lock:
            block.segment.open[block.offset] = block
            self._open_blocks += 1
        view = block.segment.memory.view(block.offset, length, True)
        weakref.finalize(view, self.release, block)
        return block, view

    def stats(self) -> dict[str, int]:
        """Bytes and blocks in use in this process's segments."""
        with self._lock:
            return {
                "segments": len(self._own),
                "segment_bytes": sum(segment.memory.size for segment in self._own.values()),
                "blocks": sum(len(segment.blocks) for segment in self._own.values()),
                "used_bytes": sum(segment.arena.used for segment in self._own.values()),
                "copied_bytes": self.copied_bytes,
                "mapped_bytes": self.mapped_bytes,
            }


def _close(descriptor: int) -> None:
    import os

    os.close(descriptor)
