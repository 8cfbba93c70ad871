"""What RDMA is given that is wrong, or changes under it: refused by name, or done by another path."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import spoke
from spoke import _native, wire
from spoke.core.session import NONCE_BYTES, Session
from spoke.transport.base import TransportFailed
from tests.rdma_kit import MIB, expected, far_actor, gained, mover, none_left, stats, two_nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    with two_nodes():
        yield


@pytest.fixture
def far(nodes: None) -> Iterator[Any]:
    with far_actor() as actor:
        yield actor


def blocks_of(ref: Any) -> list[Any]:
    return [part for part in ref._entry.value if type(part) is not bytes]


def back_to_rdma(far: Any, before: dict[str, int]) -> None:
    deadline = time.monotonic() + 30
    while "rdma_blocks" not in gained(before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        spoke.get(far.make.remote(5, MIB))


@pytest.mark.parametrize("places", [[], [[1, 2], [3, 4]], [[-1, 5]], [["4096", 5]], [[0, 2**32]]])
def test_a_lying_grant_is_refused_before_anything_is_posted(far: Any, places: list[Any]) -> None:
    ref = far.make.remote(1, MIB)
    spoke.wait([ref])
    mover().read(blocks_of(ref), [memoryview(bytearray(MIB))])  # connected
    spoke.get(far.lie.remote(wire.RDMA_GRANT, places))
    before = _native.fake_rdma_requests()
    with pytest.raises(TransportFailed, match="the owner's grant is not one"):
        mover().read(blocks_of(ref), [memoryview(bytearray(MIB))])
    assert _native.fake_rdma_requests() == before
    assert spoke.get(far.leases.remote()) == 0
    assert (spoke.get(ref) == expected(1, MIB)).all()


@pytest.mark.parametrize("place", [[], [1, 2, 3], [-1, 5], ["4096", 5], [0, 2**32]])
def test_a_lying_offer_is_given_back_and_the_block_is_asked_for(far: Any, place: list[Any]) -> None:
    spoke.get(far.make.remote(1, MIB))
    spoke.get(far.lie.remote(wire.RDMA_OFFER, place))
    before = stats()
    assert (spoke.get(far.make.remote(2, MIB)) == expected(2, MIB)).all()
    assert gained(before) == {"rdma_blocks": 1, "rdma_bytes": MIB}
    assert spoke.get(far.leases.remote()) == 0


def test_a_place_that_is_not_the_owners_to_lend_ends_in_an_error_and_another_path(far: Any) -> None:
    """The numbers look right and the key is good for nothing: the owner's device refuses the read."""
    spoke.get(far.make.remote(1, MIB))
    spoke.get(far.lie.remote(wire.RDMA_OFFER, [4096, 12345]))
    before = stats()
    ref = far.make.remote(2, MIB)
    assert (spoke.get(ref) == expected(2, MIB)).all()
    assert "rdma_blocks" not in gained(before)
    assert "remote access error" in spoke.transport_of(ref).why_not_rdma
    none_left(far.leases)


@pytest.mark.parametrize(
    "wrong",
    [{2: 1 << 40}, {3: 1 << 40}, {4: 1 << 40}, {3: -1}, {5: 1}],
    ids=["segment", "offset", "length", "before the segment", "generation"],
)
def test_a_lying_descriptor_gets_no_lease_and_nothing_is_posted(far: Any, wrong: dict[int, int]) -> None:
    ref = far.make.remote(1, MIB)
    spoke.wait([ref])
    (part,) = blocks_of(ref)
    mover().read([part], [memoryview(bytearray(MIB))])  # connected
    for field, value in wrong.items():
        part[field] = value
    before = _native.fake_rdma_requests()
    with pytest.raises(TransportFailed, match=r"belong to no object|stale descriptor|not valid"):
        mover().read([part], [memoryview(bytearray(MIB))])
    assert _native.fake_rdma_requests() == before and spoke.get(far.leases.remote()) == 0


@pytest.mark.parametrize("token", [None, b"another than the cluster's"], ids=["no token", "a wrong one"])
def test_a_peer_that_does_not_prove_the_token_gets_no_queue_pair(far: Any, token: bytes | None) -> None:
    _, _, host, port = spoke.get(far.address.remote())
    before = spoke.get(far.responders.remote())

    def send(connection: socket.socket, *message: Any) -> None:
        meta = wire.encode(*message)
        connection.sendall(struct.pack("<II", len(meta), 0) + meta)

    with socket.create_connection((host, port), timeout=20) as connection:
        if token is not None:
            session = Session("client", token, b"m" * 28, os.urandom(NONCE_BYTES), "peer")
            for message in session.open():
                send(connection, *message)
            length, _ = struct.unpack("<II", connection.recv(8, socket.MSG_WAITALL))
            answer = wire.decode(connection.recv(length, socket.MSG_WAITALL))
            assert session.feed(answer)[0][0] == wire.REFUSED, "it sees that the tokens differ"
            send(connection, wire.PROOF, b"", b"\0" * 32, b"m" * 28)
        send(connection, wire.RDMA_CONNECT, 1, b"\1" * 32)
        while connection.recv(4096):
            pass  # its REFUSED, if any, and the end
    assert spoke.get(far.responders.remote()) == before


def test_a_device_that_may_not_be_opened_is_named(nodes: None) -> None:
    _native.fake_rdma("no_permission", 2)  # of two
    with pytest.raises(OSError, match=r"fake0 cannot be opened: Permission denied; fake1 cannot"):
        _native.RdmaEngine("fake")
    _native.fake_rdma("no_permission", 1)
    first, second = _native.rdma_ports("fake")
    assert first["problem"] == "the device cannot be opened: Permission denied" and not second["problem"]


def test_a_new_address_of_the_port_makes_new_connections(far: Any) -> None:
    spoke.get(far.make.remote(2, MIB))
    numbers = [number for _, number in mover()._readers]
    _native.fake_rdma("gid_change")
    before = stats()
    assert (spoke.get(far.make.remote(3, MIB)) == expected(3, MIB)).all()
    back_to_rdma(far, before)
    assert not {*numbers} & {number for _, number in mover()._readers}
    assert spoke.get(far.leases.remote()) == spoke.get(far.offers.remote()) == 0


def test_an_interrupted_read_leaves_its_destination_alone(far: Any) -> None:
    """The device may write there until the read is at its end: so that is waited for."""
    ref = far.make.remote(4, 8 * MIB)
    spoke.wait([ref])
    parts = blocks_of(ref)
    mover().read(parts, [memoryview(bytearray(8 * MIB))])  # connected
    into = bytearray(8 * MIB)
    was = signal.signal(signal.SIGALRM, signal.default_int_handler)
    _native.fake_rdma("delay", 300_000)  # a look at signals comes once a second
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            mover().read(parts, [memoryview(into)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
        _native.fake_rdma("delay", 0)
    left = bytes(into)
    assert left != expected(4, 8 * MIB).tobytes(), "it was interrupted"
    time.sleep(0.3)
    assert bytes(into) == left, "nothing arrives later"
    none_left(far.leases)
    before = stats()
    assert (spoke.get(ref) == expected(4, 8 * MIB)).all()
    back_to_rdma(far, before)


def test_memory_that_took_the_place_of_registered_memory_is_read_anew(nodes: None) -> None:
    """A registration belongs to the memory it was made for, not to its address."""

    class Holder:
        def make(self, seed: int) -> Any:
            self.memory = mmap.mmap(-1, MIB)  # of the last one the address is free again
            array = numpy.frombuffer(self.memory, dtype=numpy.uint8)
            array[:] = expected(seed, MIB)
            self.address = array.ctypes.data
            self.registration = spoke.register_memory(array)
            return array

        def where(self) -> int:
            return self.address

        def forget(self) -> None:
            self.registration.unregister()
            self.memory = self.registration = None

        def regions(self) -> int:
            return spoke.object_store_stats()["regions"]

    holder = spoke.remote(Holder).options(resources={"far": 1}).remote()
    seen = []
    for seed in range(6):
        before = stats()
        assert (spoke.get(holder.make.remote(seed)) == expected(seed, MIB)).all()
        assert gained(before).get("rdma_blocks") == 1
        seen.append(spoke.get(holder.where.remote()))
        spoke.get(holder.forget.remote())
        none_left(holder.regions)
    assert len({*seen}) < len(seen), "no address was used twice: this shows nothing"
    spoke.kill(holder)
