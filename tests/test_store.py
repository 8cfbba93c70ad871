"""The store of one process, with an agent of its own in the same process."""

from __future__ import annotations

import gc
import os
import random
import threading

import pytest

from spoke import lent
from spoke._native import Segment
from spoke.errors import ObjectLostError, ObjectStoreFullError
from spoke.segments import WHOLE, SegmentTable, StoreFull
from spoke.store import WARM_SEGMENTS, Store

MIB = 1 << 20
NODE, ME, PEER = b"n" * 28, b"m" * 28, b"p" * 28


class Bench:
    """A store, and the table that its segments come from."""

    def __init__(self, limit: int = 64 * MIB, segment_bytes: int = 4 * MIB) -> None:
        self.table = SegmentTable(limit, Segment.create)
        self.made = 0
        self.store = Store(NODE, ME, segment_bytes, self._new, self._map, self._give_back)
        self.table.on_drop = self.store.unmap

    def _new(self, size: int) -> tuple[int, int, int]:
        try:
            segment_id, segment = self.table.add(ME, size)
        except StoreFull as error:
            raise ObjectStoreFullError.from_message(str(error)) from None
        self.made += 1
        return segment_id, size, os.dup(segment.fd)

    def _map(self, segment_id: int) -> tuple[int, int, int]:
        entry = self.table.get(segment_id)
        if entry is None:
            raise KeyError(segment_id)
        return segment_id, entry.bytes, os.dup(entry.segment.fd)

    def _give_back(self, segment_id: int) -> None:
        self.table.orphan_free(segment_id, WHOLE, ME)

    def lent(self) -> int:
        counts = [lent.count(self.table.get(key).segment, {}) for key in list(self.store._own)]  # type: ignore[union-attr]
        return sum(count or 0 for count in counts)


class Raw:
    """A buffer as the codec hands it over."""

    def __init__(self, data: object) -> None:
        self.data = data

    def raw(self) -> memoryview:
        return memoryview(self.data)  # type: ignore[arg-type]


def test_MEM_1_blocks_never_overlap_and_the_header_stays_free() -> None:
    bench, rng = Bench(), random.Random(7)
    live = []
    for step in range(600):
        if live and rng.random() < 0.5:
            block, fill = live.pop(rng.randrange(len(live)))
            start = block.offset
            assert bytes(block.segment.memory.view(start, block.length)) == fill * block.length
            bench.store.release(block)
        else:
            block, fill = bench.store.allocate(rng.randrange(1, 200_000)), bytes([step % 251])
            assert block.offset >= lent.HEADER_BYTES
            block.segment.memory.write(block.offset, [fill * block.length])
            live.append((block, fill))
    for block, _ in live:
        bench.store.release(block)
    assert bench.store.stats()["blocks"] == bench.store.stats()["used_bytes"] == 0
    assert bench.lent() == 0


def test_few_empty_segments_stay_warm_and_are_used_again() -> None:
    bench = Bench()
    blocks = [bench.store.allocate(3 * MIB) for _ in range(6)]
    assert bench.store.stats()["segments"] == 6
    for block in blocks:
        bench.store.release(block)
    assert bench.store.stats()["segments"] == WARM_SEGMENTS == len(bench.table)
    made = bench.made
    block = bench.store.allocate(3 * MIB)
    assert bench.made == made
    assert bench.store.trim() and not bench.store.trim()
    assert len(bench.table) == 1
    bench.store.release(block)
    assert bench.store.trim() and bench.table.used == 0


def test_a_full_node_gets_its_empty_segments_back_first() -> None:
    bench = Bench(limit=10 * MIB)
    first = bench.store.allocate(8 * MIB)
    with pytest.raises(ObjectStoreFullError, match=r"of 10485760 bytes in use.*object_store_memory"):
        bench.store.allocate(3 * MIB)
    bench.store.release(first)
    second = bench.store.allocate(9 * MIB)  # does not fit into the warm one, nor beside it
    bench.store.release(second)
    small = [bench.store.allocate(2 * MIB) for _ in range(4)]
    assert len({(block.segment.segment_id, block.offset) for block in small}) == 4


def test_where_memory_is_short_a_segment_just_fits() -> None:
    bench = Bench(limit=3 * MIB, segment_bytes=16 * MIB)  # a comfortable segment would be 4 MiB
    block = bench.store.allocate(2 * MIB)
    assert block.segment.memory.size < 3 * MIB


def test_nothing_is_lost_when_a_write_finds_no_room() -> None:
    bench = Bench(limit=6 * MIB)
    with pytest.raises(ObjectStoreFullError):
        bench.store.write(b"body", [Raw(bytes(3 * MIB)), Raw(bytes(3 * MIB))])
    assert bench.store.stats()["blocks"] == 0
    parts, blocks = bench.store.write(b"body", [Raw(b"x" * MIB)])
    assert parts[0] == b"body" and bytes(bench.store.view(parts[1])) == b"x" * MIB
    bench.store.release(blocks[0])


def test_REF_2_what_peers_hold_is_counted_where_the_agent_can_read_it() -> None:
    bench = Bench()
    parts, blocks = bench.store.write(b"", [Raw(bytes(MIB)), Raw(bytes(MIB))])
    bench.store.lend(PEER, blocks)
    assert bench.lent() == 2
    bench.store.returned(b"q" * 28, parts[1:], False)  # not its word
    assert bench.lent() == 2 and bench.store.stats()["blocks"] == 2
    bench.store.returned(PEER, [parts[1]], False)
    bench.store.returned(PEER, [parts[1]], False)  # a duplicate changes nothing
    assert bench.lent() == 1 and bench.store.stats()["blocks"] == 1
    bench.store.peer_lost(PEER)
    assert bench.lent() == 0 and bench.store.stats()["blocks"] == 0


def test_MEM_2_what_a_lost_peer_held_is_never_written_again() -> None:
    """Its borrowers, whom nobody here knows, may still look at it."""
    bench = Bench(segment_bytes=32 * MIB)
    first, second = (bench.store.allocate(MIB) for _ in range(2))
    segment = first.segment
    segment.memory.write(first.offset, [b"x" * MIB])
    reader = bench.store.view(bench.store.describe(first))
    bench.store.lend(PEER, [first])
    bench.store.peer_lost(PEER)
    other = bench.store.allocate(MIB)
    assert other.segment is not segment
    other.segment.memory.write(other.offset, [b"y" * MIB])
    assert bench.table.get(segment.segment_id) is not None, "another block is in use there"
    bench.store.release(second)
    assert bench.table.get(segment.segment_id) is None, "the memory goes back when nothing is used there"
    assert bytes(memoryview(reader)) == b"x" * MIB


@pytest.mark.parametrize("own", [True, False], ids=["own", "lent"])
def test_MEM_2_what_a_lost_borrower_may_look_at_is_never_written_again(own: bool) -> None:
    """The owner of the object says so when it frees the block, wherever that lies."""
    bench = Bench(segment_bytes=32 * MIB)
    blocks = [bench.store.allocate(MIB) for _ in range(2)]
    parts = [bench.store.describe(block) for block in blocks]
    if own:
        bench.store.release_described(parts[:1], True)
    else:
        bench.store.lend(PEER, blocks[:1])
        bench.store.returned(PEER, parts[:1], True)
    assert bench.store.allocate(MIB).segment is not blocks[0].segment
    bench.store.release(blocks[1])
    assert bench.table.get(parts[0][2]) is None


def test_a_mapping_goes_with_its_segment_and_views_keep_their_bytes() -> None:
    bench = Bench()
    reader = Store(NODE, b"r" * 28, MIB, bench._new, bench._map, bench._give_back)
    parts, blocks = bench.store.write(b"", [Raw(b"z" * MIB)])
    view = reader.view(parts[1])
    bench.store.release(blocks[0])
    bench.table.on_drop = reader.unmap
    bench.store.trim()
    assert reader._mapped == {} and bytes(view) == b"z" * MIB
    with pytest.raises(ObjectLostError, match="gone"):
        reader.view(parts[1])


def test_empty_blocks_are_found_by_any_part_of_them() -> None:
    bench = Bench()
    made = [bench.store.empty(200_000) for _ in range(40)]
    copied = bench.store.copied_bytes
    for block, view in made:
        whole = memoryview(view)
        for start, end in ((0, 200_000), (5, 6), (199_999, 200_000)):
            parts, blocks = bench.store.write(b"", [Raw(whole[start:end])])
            assert blocks == [block] and parts[1][3:5] == [block.offset + start, end - start]
            bench.store.release_described(parts[1:], False)
    assert bench.store.copied_bytes == copied
    del view, whole, made, block, blocks
    gc.collect()
    assert bench.store.stats()["blocks"] == 0


def test_REF_1_finalizers_may_run_while_the_lock_is_held() -> None:
    bench = Bench()
    _, view = bench.store.empty(200_000)
    with bench.store._lock:
        del view  # the finalizer runs here, and must not wait for the lock
    assert bench.store.stats()["blocks"] == 0


def test_threads_share_the_store() -> None:
    bench = Bench(limit=256 * MIB)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(150):
                data = bytes([rng.randrange(256)]) * rng.randrange(110_000, 600_000)
                parts, blocks = bench.store.write(b"", [Raw(data)])
                assert bytes(bench.store.view(parts[1])) == data
                bench.store.release(blocks[0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and bench.store.stats()["blocks"] == 0


def test_MEM_3_a_stale_descriptor_is_refused_by_name() -> None:
    """Freed, and then another's: both ways of reading on the node, and the grant of a read from another."""
    bench = Bench()
    parts, blocks = bench.store.write(b"", [Raw(memoryview(b"a" * 300_000))])
    old = parts[1]
    assert bytes(bench.store.view(old))[:1] == b"a"
    ((pinned, _),) = bench.store.pin([[*old[2:6]]])
    bench.store.release(pinned)
    bench.store.release(blocks[0])
    again, _ = bench.store.write(b"", [Raw(memoryview(b"b" * 300_000))])
    assert again[1][2:5] == old[2:5] and again[1][5] != old[5]  # the same bytes, another block
    with pytest.raises(ObjectLostError, match="stale descriptor"):
        bench.store.view(old)
    with pytest.raises(ObjectLostError, match="stale descriptor"):
        bench.store.pin([[*old[2:6]]])
    bench.store.release_described([old], False)  # frees nothing of the new one
    bench.store.returned(b"p" * 28, [old], False)
    assert bytes(bench.store.view(again[1]))[:1] == b"b"
