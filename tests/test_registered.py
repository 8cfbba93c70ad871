"""Memory of the user's own that peers read in place, and classes that pack themselves."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch

import spoke
from spoke import orphans
from spoke.cluster_utils import Cluster
from spoke.errors import ActorDiedError, ObjectLostError
from spoke.regions import LOOK_BACK, RegionMemory, Regions
from spoke.store import Block

MIB = 1 << 20


class Holder:
    """Owns registered memory."""

    def __init__(self, count: int) -> None:
        self.tensor = torch.arange(count, dtype=torch.int64)
        self.registration = spoke.register_memory(self.tensor)

    def whole(self) -> Any:
        return self.tensor

    def rows(self, start: int, end: int) -> Any:
        return {"rows": self.tensor[start:end]}

    def add(self, number: int) -> None:
        self.tensor += number

    def unregister(self) -> None:
        self.registration.unregister()

    def stats(self) -> dict[str, int]:
        return spoke.object_store_stats()

    def pid(self) -> int:
        return os.getpid()


class Reader:
    def read(self, value: Any) -> tuple[int, dict[str, int]]:
        tensor = value["rows"] if isinstance(value, dict) else value
        return int(tensor.sum()), spoke.object_store_stats()


def _two_nodes(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "one node":
        spoke.init(num_cpus=4)
        yield {}
        spoke.shutdown()
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, resources={"far": 10})
    spoke.init(address=cluster.address)
    yield {"resources": {"far": 1}}
    spoke.shutdown()
    cluster.shutdown()


place = pytest.fixture(_two_nodes, params=["one node", "two nodes"])


def _end(*actors: Any) -> None:
    for actor in actors:
        spoke.kill(actor)


def test_registered_memory_is_read_where_it_lies(place: dict[str, Any]) -> None:
    count = 3 * MIB  # of 8 bytes
    holder = spoke.remote(Holder).options(**place).remote(count)
    into = torch.empty(count, dtype=torch.int64)
    spoke.get(holder.whole.remote(), into=into)
    assert torch.equal(into, torch.arange(count))
    value = spoke.get(holder.rows.remote(5, 200_000))["rows"]
    assert torch.equal(value, torch.arange(5, 200_000))
    stats = spoke.get(holder.stats.remote())
    assert stats["regions"] == 1 and stats["copied_bytes"] == 0, "the owner copies nothing"
    _end(holder)


def test_a_third_process_reads_from_the_owner(place: dict[str, Any]) -> None:
    holder = spoke.remote(Holder).options(**place).remote(MIB)
    reader = spoke.remote(Reader).remote()
    ref = holder.rows.remote(0, 500_000)
    total, stats = spoke.get(reader.read.remote(ref))
    assert total == 500_000 * 499_999 // 2
    assert stats["tcp_bytes"] + stats.get("rdma_bytes", 0) == 4_000_000
    assert spoke.get(holder.stats.remote())["copied_bytes"] == 0
    _end(holder, reader)


def test_a_reader_sees_the_bytes_of_the_moment(place: dict[str, Any]) -> None:
    holder = spoke.remote(Holder).options(**place).remote(MIB)
    ref = holder.whole.remote()
    assert spoke.get(ref)[7] == 7
    spoke.get(holder.add.remote(1000))
    assert spoke.get(ref)[7] == 1007
    _end(holder)


def test_the_memory_stays_until_nobody_was_told_of_it(place: dict[str, Any]) -> None:
    holder = spoke.remote(Holder).options(**place).remote(MIB)
    ref = holder.whole.remote()
    spoke.wait([ref])
    spoke.get(holder.unregister.remote())
    assert spoke.get(holder.stats.remote())["regions"] == 1
    assert spoke.get(ref)[MIB - 1] == MIB - 1
    del ref
    gc.collect()
    deadline = time.monotonic() + 30
    while spoke.get(holder.stats.remote())["regions"] and time.monotonic() < deadline:
        time.sleep(0.05)
    stats = spoke.get(holder.stats.remote())
    assert stats["regions"] == 0 and stats["copied_bytes"] == 0
    assert spoke.get(holder.whole.remote())[3] == 3
    assert spoke.get(holder.stats.remote())["copied_bytes"] == 8 * MIB, "unregistered memory is copied again"
    _end(holder)


def test_the_owners_death_is_a_lost_object(place: dict[str, Any]) -> None:
    holder = spoke.remote(Holder).options(**place).remote(MIB)
    ref = holder.whole.remote()
    pid = spoke.get(holder.pid.remote())
    spoke.wait([ref])
    spoke.kill(holder)
    with pytest.raises(ActorDiedError):
        while True:
            spoke.get(holder.stats.remote())
    while orphans.is_running(pid):  # calls are refused before the process has ended
        time.sleep(0.01)
    with pytest.raises(ObjectLostError):
        spoke.get(ref)


@pytest.fixture
def driver() -> Iterator[None]:
    spoke.init(num_cpus=2)
    yield
    spoke.shutdown()


def test_the_driver_registers_and_tasks_read(driver: None) -> None:
    array = numpy.arange(MIB, dtype=numpy.float64)
    with spoke.register_memory(array) as registration:
        assert "registered" in repr(registration) and registration.nbytes == 8 * MIB
        again = spoke.register_memory(array[10:20])
        assert spoke.object_store_stats()["regions"] == 1, "it lies in a region already"
        again.unregister()
        again.unregister()
        ref = spoke.put({"a": array, "b": array[100:200]})
        before = spoke.object_store_stats()["copied_bytes"]
        total = spoke.remote(lambda value: float(value["a"].sum() + value["b"][0]))
        assert spoke.get(total.remote(ref)) == array.sum() + 100
        mine = spoke.get(ref)
        assert numpy.array_equal(mine["a"], array)
        assert spoke.object_store_stats()["copied_bytes"] == before
    assert "unregistered" in repr(registration)
    del ref, mine
    gc.collect()
    assert spoke.object_store_stats()["regions"] == 0


def test_memory_of_empty_is_registered_already(driver: None) -> None:
    tensor = spoke.empty((100, 100))
    with spoke.register_memory(tensor[3:]):
        stats = spoke.object_store_stats()
        assert stats["regions"] == 0 and stats["blocks"] == 1


def _freed() -> torch.Tensor:
    tensor = torch.rand(1000)
    tensor.untyped_storage().resize_(0)
    return tensor


def _closed() -> Any:
    view = memoryview(bytearray(10))
    view.release()
    return view


WRONG = [
    (lambda: 5, TypeError, "not int"),
    (lambda: b"read-only", ValueError, "read-only"),
    (lambda: torch.rand(4, 4).t(), ValueError, r"not contiguous: register tensor\.contiguous"),
    (lambda: numpy.zeros((4, 4))[:, 1], ValueError, "not contiguous"),
    (lambda: numpy.frombuffer(b"12345678"), ValueError, "read-only"),
    (lambda: numpy.array([object()]), ValueError, "Python objects"),
    (lambda: torch.empty(0), ValueError, "empty"),
    (lambda: bytearray(), ValueError, "empty"),
    (_freed, ValueError, "freed"),
    (_closed, ValueError, "released"),
    (lambda: torch.empty(10, device="meta"), ValueError, "is on meta"),
    (lambda: torch.eye(3).to_sparse(), ValueError, "dense"),
]


@pytest.mark.parametrize(("given", "error", "text"), WRONG)
def test_what_cannot_be_registered_says_why(driver: None, given: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        spoke.register_memory(given())
    assert spoke.object_store_stats()["regions"] == 0


def test_any_writable_buffer(driver: None) -> None:
    buffer = mmap.mmap(-1, 300_000)
    buffer[:5] = b"hello"
    with spoke.register_memory(buffer):
        array = numpy.frombuffer(buffer, numpy.uint8)
        ref = spoke.put(array)
        assert spoke.get(spoke.remote(lambda a: bytes(a[:5])).remote(ref)) == b"hello"
        assert spoke.object_store_stats()["copied_bytes"] == 0


def test_registered_memory_is_free_when_nobody_uses_it(driver: None) -> None:
    """At once, without the cycle collector: it may be most of what there is."""
    array = numpy.zeros(200_000, dtype=numpy.uint8)
    gone = weakref.ref(array)
    gc.disable()
    try:
        registration = spoke.register_memory(array)
        ref = spoke.put(array)
        del array
        registration.unregister()
        del registration
        assert gone() is not None
        del ref
        assert gone() is None
    finally:
        gc.enable()


def test_regions_are_found_by_any_range_inside() -> None:
    regions, memory = Regions(), memoryview(bytearray(10_000))
    whole = regions.add(RegionMemory(memory[1000:9000]), None, Block)
    inner = [
        regions.add(RegionMemory(memory[2000 + 10 * k : 2005 + 10 * k]), None, Block)
        for k in range(LOOK_BACK - 1)
    ]
    base = whole.memory.address - 1000
    assert regions.find(base + 2000, 5) is inner[0]
    assert regions.find(base + 2003, 5) is whole
    assert regions.find(base + 999, 5) is None and regions.find(base + 8999, 2) is None
    assert regions.find(base + 8999, 1) is whole
    regions.drop(whole)
    assert regions.find(base + 2003, 5) is None and len(regions) == LOOK_BACK - 1
    with pytest.raises(ValueError, match="not inside registered memory"):
        whole.memory.view(7999, 2)


# -- register_serializer


class Frame:
    """Packs itself: a header and its samples."""

    def __init__(self, name: str, samples: Any) -> None:
        self.name, self.samples = name, samples


def _size(frame: Frame) -> int:
    return 16 + frame.samples.nbytes


def _pack(frame: Frame, view: memoryview) -> None:
    struct.pack_into("16s", view, 0, frame.name.encode())
    view[16:] = memoryview(frame.samples).cast("B")


def _unpack(view: memoryview) -> Frame:
    assert view.readonly
    name = bytes(view[:16]).rstrip(b"\0").decode()
    return Frame(name, numpy.frombuffer(view[16:], numpy.float32))


def _echo(frame: Any) -> Any:
    """Registers nothing: what unpacks travels along, what packs must be here."""
    spoke.register_serializer(type(frame), size=_size, pack_into=_pack, unpack_from=_unpack)
    before = spoke.object_store_stats()["copied_bytes"]
    assert before == 0
    return type(frame)(frame.name + "!", frame.samples * 2)


@pytest.mark.parametrize("count", [0, 10, 500_000])
def test_a_class_packs_itself_into_the_segment(place: dict[str, Any], count: int) -> None:
    spoke.register_serializer(Frame, size=_size, pack_into=_pack, unpack_from=_unpack)
    try:
        before = spoke.object_store_stats()["copied_bytes"]
        samples = numpy.arange(count, dtype=numpy.float32)
        back = spoke.get(spoke.remote(_echo).options(**place).remote(Frame("one", samples)))
        assert back.name == "one!" and numpy.array_equal(back.samples, samples * 2)
        assert spoke.object_store_stats()["copied_bytes"] == before
        del back
        inside = spoke.get(spoke.put({"frames": [Frame("a", samples), Frame("b", samples)]}))
        assert [frame.name for frame in inside["frames"]] == ["a", "b"]
        del inside
        gc.collect()
        deadline = time.monotonic() + 30
        while spoke.object_store_stats()["blocks"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert spoke.object_store_stats()["blocks"] == 0
    finally:
        spoke.deregister_serializer(Frame)


def test_a_serializer_that_is_wrong_says_so(driver: None) -> None:
    with pytest.raises(TypeError, match="takes a class"):
        spoke.register_serializer(Frame("x", None), size=_size, pack_into=_pack, unpack_from=_unpack)
    with pytest.raises(TypeError, match="pack_into must be callable"):
        spoke.register_serializer(Frame, size=_size, pack_into=None, unpack_from=_unpack)
    for size, text in ((lambda frame: "9", "number of bytes, not '9'"), (lambda frame: -1, "not -1")):
        spoke.register_serializer(Frame, size=size, pack_into=_pack, unpack_from=_unpack)
        with pytest.raises(TypeError, match=text):
            spoke.put(Frame("x", numpy.zeros(3)))
    spoke.register_serializer(Frame, size=lambda frame: 20, pack_into=_pack, unpack_from=_unpack)
    with pytest.raises(TypeError, match="Frame"):
        spoke.put(Frame("x", numpy.zeros(3)))
    spoke.deregister_serializer(Frame)
    assert spoke.get(spoke.put(Frame("x", 3))).samples == 3
