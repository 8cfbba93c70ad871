"""Blocks in shared memory: writing the large parts of a value once, mapping them without a copy.

A process allocates only in segments that its agent made for it (MEM-1) and knows who uses each of
its blocks: the entry of an object it owns, a peer that owns an object which lies here (the result of
a call), or a tensor of `spoke.empty`.  A block is reused when no use is left.  Segments that became
empty are kept warm, a few of them, since memory used for the first time costs ten times a copy; the
others, and all when the node is short of memory, go back to the agent.

What a peer held is given up when it is lost, though processes that it passed the object on to may still
look at the block: nobody is left who knows them.  So a segment with such a block is *retired*: nothing is
written into it any more, and it goes back as soon as it is empty.  Readers keep their mapping (MEM-2).

A block part on the wire is ``[node_id, process_id, segment_id, offset, length, generation, place]``; the
last two say which stamp the block has and where (`stamps.py`), process_id is the
allocator, the only process that may free it.

The lock is never held while user code or a finalizer can run into it: what finalizers release goes
through a queue that is emptied by whoever can take the lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from spoke import _native, stamps
from spoke.errors import ObjectLostError, ObjectStoreFullError
from spoke.lent import HEADER_BYTES, LentCount
from spoke.regions import Region, RegionMemory, Regions

INLINE_BYTES_MAX: Final = 100 * 1024  # a value up to here travels inside the message
BLOCK_ALIGN: Final = 64
PAGE_BYTES: Final = 4096
WARM_SEGMENTS: Final = 2  # empty ones that are kept
GROWTH: Final = 4  # the first segment is this part of `segment_bytes`, so that small users stay small

Part = Any  # bytes, or a block descriptor as above


class Block:
    """A range of one of this process's segments; counted."""

    __slots__ = ("generation", "length", "offers", "offset", "place", "segment", "uses")

    def __init__(self, segment: Any, offset: int, length: int, generation: int = 0, place: int = 0) -> None:
        self.segment = segment  # an OwnSegment, or a `regions.Region`
        self.offset = offset
        self.length = length
        self.generation, self.place = generation, place  # 0 for a region, whose id is never used again
        self.uses = 1
        self.offers: frozenset[tuple[bytes, int]] = frozenset()  # of the uses those that nobody asked for


class OwnSegment:
    """A segment that this process allocates in."""

    __slots__ = ("arena", "blocks", "lent", "memory", "open", "open_starts", "retired", "segment_id")

    def __init__(self, segment_id: int, memory: _native.Segment) -> None:
        self.segment_id = segment_id
        self.memory = memory
        self.arena = _native.Arena(memory.size)
        self.arena.alloc(HEADER_BYTES)  # at 0
        self.lent = LentCount(memory)
        self.blocks: dict[int, Block] = {}
        self.open: dict[int, Block] = {}  # those of `empty`, which the user's code writes itself
        self.open_starts: list[int] = []  # their offsets, sorted
        self.retired = False

    def block_at(self, offset: int) -> Block | None:
        """The block that begins at `offset`, or the one of `empty` that contains it."""
        block = self.blocks.get(offset)
        return self.open_around(offset, 1) if block is None else block

    def open_around(self, offset: int, length: int) -> Block | None:
        """The block of `empty` that contains this range."""
        index = bisect_right(self.open_starts, offset) - 1
        if index < 0:
            return None
        block = self.open[self.open_starts[index]]
        return block if offset + length <= block.offset + block.length else None


class Store:
    """The blocks of one process, and its mappings of others' segments.

    `request_segment(bytes)` and `map_segment(segment_id)` ask the agent and return
    ``(segment_id, size, descriptor)``; they raise `ObjectStoreFullError` and KeyError.
    `give_back(segment_id)` tells it that an empty segment is needed no more; it must not block.
    """

    def __init__(
        self,
        node_id: bytes,
        process_id: bytes,
        segment_bytes: int,
        request_segment: Callable[[int], tuple[int, int, int]],
        map_segment: Callable[[int], tuple[int, int, int]],
        give_back: Callable[[int], None],
    ) -> None:
        self.node_id = node_id
        self.process_id = process_id
        self.segment_bytes = segment_bytes
        self._request_segment = request_segment
        self._map_segment = map_segment
        self._give_back = give_back
        self._own: dict[int, OwnSegment] = {}  # small ones first
        self._empty: list[OwnSegment] = []  # in the order in which they became empty
        self._mapped: dict[int, _native.Segment] = {}
        self._peers: dict[bytes, dict[tuple[int, int], int]] = {}  # uses by peers, for their death
        self._lock = threading.Lock()
        self._released: deque[Block] = deque()  # by finalizers
        self._dropped: deque[Region] = deque()  # what they keep is the user's, and ends without the lock
        self._open_blocks = 0
        self.regions = Regions()
        # Told of each segment or region that is about to go; the lock is held.
        self.on_gone: Callable[[int], None] = lambda segment_id: None
        # Blocks that nothing but offers keeps in use, and who is told of them where nobody looks anyway.
        self.idle: deque[Block] = deque()
        self.on_idle: Callable[[], None] = lambda: None
        self._claims: dict[Block, int] = {}
        self.copied_bytes = 0  # written into blocks by this process: the counter behind "zero copy"
        self.mapped_bytes = 0

    # -- allocation

    def allocate(self, length: int) -> Block:
        """A new block with one use.

        Raises:
            ObjectStoreFullError: the node has no shared memory left for it.
        """
        align = PAGE_BYTES if length >= INLINE_BYTES_MAX else BLOCK_ALIGN
        self._drain()
        with self._lock:
            for segment in self._own.values():
                block = self._allocate_in(segment, length, align)
                if block is not None:
                    return block
        memory, segment_id = self._grow(length + 2 * PAGE_BYTES)
        segment = OwnSegment(segment_id, memory)
        with self._lock:
            block = self._allocate_in(segment, length, align)
            own = [*self._own.values(), segment]
            self._own = {one.segment_id: one for one in sorted(own, key=lambda one: one.memory.size)}
        assert block is not None
        self._drain()
        return block

    def _allocate_in(self, segment: OwnSegment, length: int, align: int) -> Block | None:
        room = stamps.place_of(0, length) + stamps.STAMP_BYTES
        offset = -1 if segment.retired else segment.arena.alloc(room, align)
        if offset < 0:
            return None
        if not segment.blocks and segment in self._empty:
            self._empty.remove(segment)
        place = stamps.place_of(offset, length)
        block = Block(segment, offset, length, stamps.write(segment.memory, place), place)
        segment.blocks[offset] = block
        return block

    def _grow(self, need: int) -> tuple[_native.Segment, int]:
        """A new segment: a comfortable one, or where the node is short of memory one that just does."""
        need = (need + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
        with self._lock:
            have = sum(segment.memory.size for segment in self._own.values())
        comfortable = min(self.segment_bytes, max(self.segment_bytes // GROWTH, have))
        try:
            segment_id, size, descriptor = self._request_segment(max(comfortable, need))
        except ObjectStoreFullError:
            if not self.trim() and need >= comfortable:
                raise
            segment_id, size, descriptor = self._request_segment(need)
        try:
            return _native.Segment.map(descriptor, size, True), segment_id
        except OSError as error:
            self._give_back(segment_id)
            raise ObjectStoreFullError.from_message(
                f"{size} bytes of shared memory cannot be mapped into this process: {error}"
            ) from None
        finally:
            os.close(descriptor)

    def trim(self) -> bool:
        """Give all empty segments back to the agent; whether there were any."""
        self._drain()
        with self._lock:
            return self._shrink(0)

    def _shrink(self, keep: int) -> bool:
        gone = self._empty[: max(0, len(self._empty) - keep)]
        for segment in gone:
            self._empty.remove(segment)
            self._forget(segment)
        return bool(gone)

    def _forget(self, segment: OwnSegment) -> None:
        del self._own[segment.segment_id]
        self.on_gone(segment.segment_id)
        self._give_back(segment.segment_id)

    def release(self, block: Block) -> None:
        """One use less; the memory is reused at zero.  Safe at any instruction of any thread."""
        self._released.append(block)
        self._drain()
        if self.idle:
            self.on_idle()

    def end_offer(self, block: Block, offer: tuple[bytes, int]) -> None:
        """Give up a use that `pin` counted as an offer."""
        with self._lock:
            block.offers -= {offer}
            self._release(block)
        self._drain()

    def _drain(self) -> None:
        """Release what is queued, unless somebody holds the lock: he or the next one does it."""
        while self._released and self._lock.acquire(False):
            try:
                self._release(self._released.popleft())
            except IndexError:
                pass  # another thread was faster
            finally:
                self._lock.release()
        if self._dropped and not self._lock.locked():
            self._dropped.clear()

    def abandon(self) -> None:
        """In a forked child: the blocks are the parent's, and nothing here may be freed."""
        self._lock = threading.Lock()
        self._lock.acquire()
        self._released.clear()

    def _release(self, block: Block) -> None:
        block.uses -= 1
        if block.uses:
            if block.uses == len(block.offers):
                self.idle.append(block)
            return
        segment = block.segment
        if isinstance(segment, Region):
            self._open_blocks -= 1
            self.on_gone(segment.segment_id)
            self.regions.drop(segment)
            self._dropped.append(segment)
            return
        del segment.blocks[block.offset]
        if not segment.retired:
            stamps.wipe(segment.memory, block.place)
        if segment.open.pop(block.offset, None) is not None:
            segment.open_starts.remove(block.offset)
            self._open_blocks -= 1
        segment.arena.free(block.offset)
        if segment.blocks:
            return
        if segment.retired:
            self._forget(segment)
        else:
            self._empty.append(segment)
            self._shrink(WARM_SEGMENTS)

    def describe(self, block: Block) -> list[Any]:
        """The wire form of a block."""
        return self._part(block, block.offset, block.length)

    def _part(self, block: Block, offset: int, length: int) -> list[Any]:
        segment_id = block.segment.segment_id
        return [self.node_id, self.process_id, segment_id, offset, length, block.generation, block.place]

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
            found = self._find(view) if view.nbytes else None
            if found is not None:
                blocks.append(found[0])
                parts.append(found[1])
            else:
                copies.append((len(parts), view))
                parts.append(None)
        if sum(view.nbytes for _, view in copies) <= INLINE_BYTES_MAX:
            for index, view in copies:
                parts[index] = bytes(view)
            return parts, blocks
        try:
            for index, view in copies:
                if view.nbytes <= PAGE_BYTES:
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

    def _find(self, view: memoryview) -> tuple[Block, Part] | None:
        """The block of this process that a buffer lies in, with one more use, and the buffer's part."""
        if not self._open_blocks:
            return None
        address = _native.buffer_address(view)
        found = None
        with self._lock:
            region = self.regions.find(address, view.nbytes) if self.regions else None
            if region is not None:
                region.block.uses += 1
                offset = address - region.memory.address
                return region.block, self._part(region.block, offset, view.nbytes)
            for segment in self._own.values():
                offset = address - segment.memory.address
                if 0 <= offset < segment.memory.size:
                    block = segment.open_around(offset, view.nbytes)
                    if block is not None:
                        block.uses += 1
                        found = (block, self._part(block, offset, view.nbytes))
                    break
        self._drain()
        return found

    # -- uses by peers

    def lend(self, peer: bytes, blocks: list[Block]) -> None:
        """Each of these uses now belongs to `peer`, which frees it by descriptor or by dying."""
        with self._lock:
            held = self._peers.setdefault(peer, {})
            for block in blocks:
                key = (block.segment.segment_id, block.offset)
                held[key] = held.get(key, 0) + 1
                block.segment.lent.lent(peer)
        self._drain()

    def returned(self, peer: bytes, descriptors: list[list[Any]], retire: bool) -> None:
        """`peer` needs these blocks no longer; `retire`: whom it lost may still look at them."""
        with self._lock:
            held = self._peers.get(peer, {})
            for _, _, segment_id, offset, _, generation, _ in descriptors:
                block = self._block_at(segment_id, offset, generation)
                key = (segment_id, block.offset) if block else None
                if block is not None and key is not None and held.get(key, 0) > 0:
                    held[key] -= 1
                    if not held[key]:
                        del held[key]
                    block.segment.lent.returned(peer)
                    block.segment.retired |= retire
                    self._release(block)
            if not held:
                self._peers.pop(peer, None)
        self._drain()

    def _block_at(self, segment_id: int, offset: int, generation: int | None = None) -> Block | None:
        segment = self._own.get(segment_id) if segment_id > 0 else self.regions.get(segment_id)
        block = None if segment is None else segment.block_at(offset)
        return None if block is None or generation not in (None, block.generation) else block

    def pin(self, ranges: list[list[int]], offer: tuple[bytes, int] | None = None) -> list[tuple[Block, int]]:
        """One use more of the block around each range, and its address.

        Args:
            ranges: ``[segment_id, offset, length, generation]`` each.
            offer: peer and number of a lease that nobody asked for: the block goes to `idle` when only such
                uses are left.

        Raises:
            ObjectLostError: one is not inside a block of this process, or in another than the one that was
                described; then nothing was counted.
        """
        found: list[tuple[Block, int]] = []
        with self._lock:
            for segment_id, offset, length, generation in ranges:
                block = self._block_at(segment_id, offset)
                if block is not None and block.generation != generation:
                    raise stamps.stale(segment_id, offset, length, generation)
                if block is None or offset + length > block.offset + block.length:
                    raise ObjectLostError.from_message(
                        f"bytes {offset} to {offset + length} of segment {segment_id} belong to no object"
                    )
                found.append((block, block.segment.memory.address + offset))
            for block, _ in found:
                block.uses += 1
                if offer is not None:
                    block.offers |= {offer}
        self._drain()
        return found

    def release_described(self, descriptors: list[list[Any]], retire: bool) -> None:
        """Give up uses of own blocks by their descriptors; `retire`: a lost peer may still look at them."""
        with self._lock:
            for _, _, segment_id, offset, _, generation, _ in descriptors:
                block = self._block_at(segment_id, offset, generation)
                if block is not None:
                    block.segment.retired |= retire
                    self._release(block)
        self._drain()

    def peer_lost(self, peer: bytes) -> None:
        """REF-2: the death of a peer returns what it held here; MEM-2: it is not written again."""
        with self._lock:
            for (segment_id, offset), uses in self._peers.pop(peer, {}).items():
                block = self._block_at(segment_id, offset)
                if block is None:
                    continue
                block.segment.retired = True
                for _ in range(uses):
                    block.segment.lent.returned(peer)
                    self._release(block)
        self._drain()

    # -- reading

    def view(self, descriptor: list[Any]) -> Any:
        """A read-only view of a block of this node; the mapping is made once per segment.

        Raises:
            ObjectLostError: the segment is gone, or the block was freed (a stale descriptor).
        """
        _, _, segment_id, offset, length, _, _ = descriptor
        if segment_id < 0:
            return self._region_view(segment_id, offset, length)
        memory = self.memory_of(segment_id)
        if memory is None:
            memory = self._map(segment_id)
        stamps.check(memory, memory.size, descriptor[2:])
        self.mapped_bytes += length
        return memory.view(offset, length)

    def _region_view(self, segment_id: int, offset: int, length: int) -> Any:
        region = self.regions.get(segment_id)
        if region is None:
            raise ObjectLostError.from_message("the registered memory of the object is gone")
        self.mapped_bytes += length
        return region.memory.view(offset, length)

    def _map(self, segment_id: int) -> _native.Segment:
        try:
            _, size, descriptor = self._map_segment(segment_id)
        except KeyError:
            raise ObjectLostError.from_message(
                f"the shared memory segment {segment_id} of the object is gone"
            ) from None
        try:
            memory = _native.Segment.map(descriptor, size, False)
        finally:
            os.close(descriptor)
        return self._mapped.setdefault(segment_id, memory)

    def memory_of(self, segment_id: int) -> _native.Segment | None:
        """The mapping of a segment, None where this process has none."""
        own = self._own.get(segment_id)
        return self._mapped.get(segment_id) if own is None else own.memory

    def register(self, buffer: memoryview, keep: Any) -> Block:
        """Let peers read `buffer` where it lies, as long as the block has uses; it comes with one.

        Memory that lies in a block of `empty`, or in a region, is that block's with one use more.
        """
        found = self._find(buffer)
        if found is not None:
            return found[0]
        return self.register_memory(RegionMemory(buffer), keep)

    def claim(self, block: Block, change: int) -> None:
        """So many more uses of the block are the user's own (`register`), not objects'."""
        with self._lock:
            self._claims[block] = self._claims.get(block, 0) + change
            if not self._claims[block]:
                del self._claims[block]
        self._drain()

    def objects_at(self, address: int, length: int) -> int:
        """Uses by objects of the memory in this range that lies in a region or a block of `empty`."""
        self._drain()
        with self._lock:
            found = 0
            for region in self.regions.around(address, length):
                found += region.block.uses - self._claims.get(region.block, 0)
            for segment in self._own.values():
                offset = address - segment.memory.address
                block = segment.open_around(offset, length) if 0 <= offset < segment.memory.size else None
                if block is not None:
                    found += block.uses - 1 - self._claims.get(block, 0)  # one is the tensor's own
        return found

    def register_memory(self, memory: Any, keep: Any) -> Block:
        """A region over memory that reads like `regions.RegionMemory`; its block comes with one use."""
        with self._lock:
            self._open_blocks += 1
            block: Block = self.regions.add(memory, keep, Block).block
        self._drain()
        return block

    def adopt(self, segment_id: int, size: int, descriptor: int) -> bool:
        """Map a segment ahead of its first use; whether that was needed.  Raises OSError."""
        if segment_id in self._mapped or segment_id in self._own:
            return False
        self._mapped.setdefault(segment_id, _native.Segment.map(descriptor, size, False))
        return True

    def unmap(self, segment_id: int) -> None:
        """The agent has let go of a segment of another process; views of it keep their memory."""
        self._mapped.pop(segment_id, None)

    def own_segments(self) -> list[tuple[int, int, int]]:
        """Id, size and descriptor of every segment that this process allocates in."""
        with self._lock:
            own = list(self._own.values())
        return [(one.segment_id, one.memory.size, one.memory.fd) for one in own]

    def empty(self, length: int) -> tuple[Block, _native.SegmentView]:
        """A writable block that lives as long as the view or any object that carries it."""
        block = self.allocate(length)
        segment = block.segment
        with self._lock:
            segment.open[block.offset] = block
            insort(segment.open_starts, block.offset)
            self._open_blocks += 1
        view = segment.memory.view(block.offset, length, True)
        weakref.finalize(view, self.release, block).atexit = False
        self._drain()
        return block, view

    def stats(self) -> dict[str, int]:
        """Bytes and blocks in use in this process's segments, and what it copied and read so far."""
        self._drain()
        with self._lock:
            own = list(self._own.values())
            return {
                "segments": len(own),
                "segment_bytes": sum(segment.memory.size for segment in own),
                "regions": len(self.regions),
                "blocks": sum(len(segment.blocks) for segment in own),
                "used_bytes": sum(segment.arena.used - HEADER_BYTES for segment in own),
                "copied_bytes": self.copied_bytes,
                "mapped_bytes": self.mapped_bytes,
            }
