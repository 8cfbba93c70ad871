"""Spoke's queue pairs against a verbs program that knows nothing of Spoke (`verbs_peer.py`, on pyverbs)."""

from __future__ import annotations

import hashlib
import ipaddress
import random
import struct
from typing import Any

import pytest

from spoke import _native

ADDRESS = struct.Struct("<BBBBHHII16s")  # of a queue pair, as csrc/verbs_qp.h describes it
RING = struct.Struct("<QIII")  # behind it, of a pipe: address, key, slots, bytes of a slot
RING_SHAPE = (64, 8192)
REMOTE_ACCESS_ERROR = 10  # IBV_WC_REM_ACCESS_ERR
REMOTE_INVALID_REQUEST = 9  # IBV_WC_REM_INV_REQ_ERR
MTU_1024 = 3
SIZE = 1 << 20


def _packed(where: dict[str, Any]) -> bytes:
    gid = ipaddress.IPv6Address(where["gid"]).packed
    return ADDRESS.pack(1, MTU_1024, 1, 0, 0, 0, where["qpn"], where["psn"], gid)


def _unpacked(address: bytes) -> dict[str, Any]:
    _, _, _, _, _, _, qpn, psn, gid = ADDRESS.unpack(address)
    return {"qpn": qpn, "psn": psn, "gid": ipaddress.IPv6Address(gid).exploded}


class Granted:
    """A segment of Spoke's that the other program may read."""

    def __init__(self, verbs: Any) -> None:
        engine = _native.RdmaEngine("system")
        created = _native.Segment.create("granted", SIZE)
        self.segment = _native.Segment.map(created.fd, SIZE, True)
        self.data = random.Random(7).randbytes(SIZE)
        self.segment.write(0, [self.data])
        self.region = engine.register_segment(self.segment)
        self.responder = _native.RdmaResponder(engine)
        where = verbs.ask(do="open", bytes=SIZE)
        self.responder.connect(_packed(where))
        verbs.ask(do="connect", **_unpacked(self.responder.address))


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (4097, 100_001), (0, SIZE)])
def test_it_reads_a_granted_block(far_verbs: Any, offset: int, length: int) -> None:
    granted = Granted(far_verbs)
    answer = far_verbs.ask(
        do="read", addr=granted.region.address + offset, rkey=granted.region.rkey, length=length
    )
    want = hashlib.sha256(granted.data[offset : offset + length]).hexdigest()
    assert answer == {"status": 0, "sha256": want}


@pytest.mark.parametrize("wrong", ["a wrong key", "past the end", "before the beginning", "a write"])
def test_it_is_refused_what_was_not_granted(far_verbs: Any, wrong: str) -> None:
    granted = Granted(far_verbs)
    shift = {"past the end": 1, "before the beginning": -1}.get(wrong, 0)
    rkey = granted.region.rkey ^ (0x100 if wrong == "a wrong key" else 0)
    answer = far_verbs.ask(
        do="write" if wrong == "a write" else "read",
        addr=granted.region.address + shift, rkey=rkey, length=SIZE,
    )  # fmt: skip
    # A write is refused by the queue pair itself, as a request that it does not take: its flags allow reads
    # only, so the key is not even looked at.
    assert answer["status"] == (REMOTE_INVALID_REQUEST if wrong == "a write" else REMOTE_ACCESS_ERROR)
    assert bytes(granted.segment.view(0, SIZE)) == granted.data, "not a byte was written"


def test_a_write_into_an_object_is_a_remote_access_error(far_verbs: Any) -> None:
    """By a queue pair that takes writes, a call channel's: its own ring it may write, and nothing else."""
    engine = _native.RdmaEngine("system")
    created = _native.Segment.create("granted", SIZE)
    segment = _native.Segment.map(created.fd, SIZE, True)
    segment.write(0, [b"x" * SIZE])
    region = engine.register_segment(segment)
    pipe, another = _native.RdmaPipe(engine), _native.RdmaPipe(engine)

    def connected() -> None:
        nonlocal pipe
        pipe = _native.RdmaPipe(engine)
        where = far_verbs.ask(do="open", bytes=SIZE)
        pipe.connect(_packed(where) + RING.pack(where["addr"], where["rkey"], *RING_SHAPE))
        far_verbs.ask(do="connect", **_unpacked(pipe.address[: ADDRESS.size]))

    connected()
    ring, key, *_ = RING.unpack(pipe.address[ADDRESS.size :])
    assert far_verbs.ask(do="write", addr=ring, rkey=key, length=4096)["status"] == 0
    ring, key, *_ = RING.unpack(another.address[ADDRESS.size :])  # of another protection domain
    for address, wrong in ((region.address, region.rkey), (ring, key)):
        connected()
        answer = far_verbs.ask(do="write", addr=address, rkey=wrong, length=4096)
        assert answer["status"] == REMOTE_ACCESS_ERROR
    assert bytes(segment.view(0, SIZE)) == b"x" * SIZE, "not a byte was written"


def test_after_the_lease_it_reads_nothing(far_verbs: Any) -> None:
    granted = Granted(far_verbs)
    request = {"addr": granted.region.address, "rkey": granted.region.rkey, "length": 4096}
    assert far_verbs.ask(do="read", **request)["status"] == 0
    granted.responder.close()
    assert far_verbs.ask(do="read", wait_s=5, **request)["status"] != 0


def test_spoke_reads_its_memory(far_verbs: Any) -> None:
    far = far_verbs.ask(do="open", bytes=SIZE)
    engine = _native.RdmaEngine("system")
    created = _native.Segment.create("landing", SIZE)
    landing = _native.Segment.map(created.fd, SIZE, True)
    region = engine.register_segment(landing)
    reader = _native.RdmaReader(engine)
    reader.connect(_packed(far))
    far_verbs.ask(do="connect", **_unpacked(reader.address))
    want = far_verbs.ask(do="fill", seed=3)["sha256"]
    half = SIZE // 2
    operation = reader.read([
        (region, region.address, far["addr"], far["rkey"], half),
        (region, region.address + half, far["addr"] + half, far["rkey"], half),
    ])  # fmt: skip
    assert operation.wait(120) and operation.error == ""
    assert hashlib.sha256(bytes(landing.view(0, SIZE))).hexdigest() == want
    reader.close("the test is over")
