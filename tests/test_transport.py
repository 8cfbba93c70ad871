"""The choice among paths, the TCP path's pieces, and whole reads with a forced path."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest

import spoke
from spoke import current
from spoke.cluster_utils import Cluster
from spoke.errors import ObjectLostError, RayDirectTransportError, RaySystemError
from spoke.transport import tcp
from spoke.transport.base import Transport, TransportFailed
from spoke.transport.router import Router

HERE, THERE = b"h" * 28, b"t" * 28
MIB = 1 << 20


class Memory(Transport):
    """A path over a dict of segments."""

    def __init__(self, name: str, segments: dict[int, bytes]) -> None:
        super().__init__()
        self.name = name
        self.segments = segments
        self.why: str | None = None
        self.fails: str | None = None
        self.batches: list[int] = []

    def unable(self, node_id: bytes) -> str | None:
        return self.why

    def read(self, parts: list[Any], into: list[memoryview]) -> None:
        self.batches.append(len(parts))
        if self.fails is not None:
            raise TransportFailed(self.fails)
        for (_, _, segment_id, offset, length, _, _), target in zip(parts, into, strict=True):
            target[:] = self.segments[segment_id][offset : offset + length]
        self.count(parts, 0)


def _router(mode: str, rdma: bool = False) -> Router:
    segments = {1: bytes(range(256)) * 64}
    router = Router(HERE, mode, Memory("shm", segments), Memory("tcp", segments))
    if rdma:
        router.rdma = Memory("rdma", segments)
    return router


def _part(node_id: bytes, offset: int, length: int) -> list[Any]:
    return [node_id, b"p" * 28, 1, offset, length, 7, 8]


# -- the choice


@pytest.mark.parametrize(
    ("mode", "rdma", "here", "there"),
    [
        ("auto", False, "shm", "tcp"),
        ("auto", True, "shm", "rdma"),
        ("tcp", True, "tcp", "tcp"),
        ("rdma", True, "shm", "rdma"),
    ],
)
def test_the_mode_chooses_the_path(mode: str, rdma: bool, here: str, there: str) -> None:
    router = _router(mode, rdma)
    assert (router.path(HERE).name, router.path(THERE).name) == (here, there)
    got = router.fetch([_part(THERE, 5, 10), _part(HERE, 7, 3), _part(THERE, 0, 4)])
    assert [bytes(one) for one in got] == [bytes(range(5, 15)), bytes(range(7, 10)), bytes(range(4))]
    counts = router.stats()
    assert counts[f"{there}_blocks"] >= 2 and counts[f"{here}_bytes"] >= 3
    assert all(memoryview(one).readonly for one in got)


def test_one_batch_per_node() -> None:
    router = _router("auto", rdma=True)
    into = [bytearray(8) for _ in range(1000)]
    router.read([_part(THERE, index, 8) for index in range(1000)], [memoryview(one) for one in into])
    assert router.rdma.batches == [1000]  # type: ignore[union-attr]
    assert bytes(into[999]) == bytes((999 + k) % 256 for k in range(8))


def test_the_path_says_why_it_is_not_rdma() -> None:
    assert _router("auto").path(THERE).why_not_rdma == "no RDMA device on this node"
    assert _router("tcp", rdma=True).path(THERE).why_not_rdma == "SPOKE_TRANSPORT=tcp"
    router = _router("auto", rdma=True)
    router.rdma.why = "the other node has no device"  # type: ignore[union-attr]
    assert router.path(THERE) == ("tcp", "the other node has no device")
    assert router.path(HERE) == ("shm", "")


def test_rdma_that_fails_falls_to_tcp_and_keeps_the_reason() -> None:
    router = _router("auto", rdma=True)
    rdma = router.rdma
    assert isinstance(rdma, Memory)
    rdma.fails = "the port went down"
    assert bytes(router.fetch([_part(THERE, 1, 2)])[0]) == b"\x01\x02"
    assert router.tcp.blocks == 1
    assert router.path(THERE) == ("tcp", "the port went down"), "what was taken, though RDMA is tried again"
    rdma.why = "being rebuilt"
    assert router.path(THERE) == ("tcp", "the port went down")
    rdma.fails = rdma.why = None
    assert bytes(router.fetch([_part(THERE, 1, 2)])[0]) == b"\x01\x02"
    assert router.path(THERE) == ("rdma", "") and router.tcp.blocks == 1


@pytest.mark.parametrize("why", ["unable", "fails", "no device"])
def test_forced_rdma_never_takes_another_path(why: str) -> None:
    router = _router("rdma", rdma=why != "no device")
    if router.rdma is not None:
        setattr(router.rdma, "why" if why == "unable" else "fails", "the cable is out")
    with pytest.raises(
        RayDirectTransportError, match="no RDMA device" if why == "no device" else "cable is out"
    ):
        router.fetch([_part(THERE, 0, 8)])
    assert router.tcp.blocks == 0


def test_forced_shm_refuses_other_nodes() -> None:
    router = _router("shm")
    assert bytes(router.fetch([_part(HERE, 3, 1)])[0]) == b"\x03"
    with pytest.raises(RayDirectTransportError, match="set it to auto"):
        router.read([_part(THERE, 0, 1)], [memoryview(bytearray(1))])


def test_an_unknown_mode_warns_and_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    from spoke import config

    monkeypatch.setenv("SPOKE_TRANSPORT", "pigeon")
    with pytest.warns(UserWarning, match="none of auto, shm, tcp, rdma"):
        assert config.get("transport") == "auto"


# -- pieces


class Agent:
    """Answers pieces in order, and checks how much is asked ahead."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ahead = self.most_ahead = self.most_pieces = self.pieces = 0
        self.open: dict[int, int] = {}
        self.short = False
        self.lost_after: int | None = None

    def block_link(self, part: list[Any]) -> Any:
        return part[0]

    def ask_piece(self, link: Any, part: list[Any], start: int, length: int) -> Any:
        offset = part[3] + start
        self.pieces += 1
        if self.lost_after is not None and self.pieces > self.lost_after:
            raise RaySystemError("the connection to the node was lost")
        self.ahead += length
        self.open[self.pieces] = length
        self.most_ahead = max(self.most_ahead, self.ahead)
        self.most_pieces = max(self.most_pieces, len(self.open))
        return self.pieces, offset, length

    def receive_piece(self, question: Any, length: int) -> Any:
        key, offset, size = question
        self.ahead -= self.open.pop(key)
        return self.data[offset : offset + size - self.short]

    def forget_piece(self, question: Any) -> None:
        self.open.pop(question[0])


def test_pieces_arrive_in_place_and_the_window_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PIECE_BYTES", 1000)
    monkeypatch.setattr(tcp, "AHEAD_BYTES", 4000)
    monkeypatch.setattr(tcp, "AHEAD_PIECES", 7)
    rng = random.Random(4)
    agent = Agent(rng.randbytes(50_000))
    path = tcp.Tcp(agent)
    spans = [(rng.randrange(40_000), rng.choice([0, 1, 3, 999, 1000, 1001, 9999])) for _ in range(200)]
    parts = [_part(THERE, *span) for span in spans]
    into = [bytearray(length) for _, length in spans]
    path.read(parts, [memoryview(one) for one in into])
    want = [agent.data[offset : offset + length] for offset, length in spans]
    assert [bytes(one) for one in into] == want
    assert [bytes(one) for one in path.fetch(parts)] == want
    assert agent.most_ahead <= 4000 and 4 <= agent.most_pieces <= 7 and not agent.open
    assert path.copies == 200 + sum(1 for _, length in spans if length > 1000)


def test_a_lost_link_or_a_short_answer_is_a_lost_object() -> None:
    agent = Agent(bytes(1000))
    agent.lost_after = 5
    with pytest.raises(ObjectLostError, match="connection to the node was lost"):
        tcp.Tcp(agent).fetch([_part(THERE, 0, 10)] * 20)
    assert not agent.open, "what was asked for is forgotten"
    agent = Agent(bytes(1000))
    agent.short = True
    with pytest.raises(ObjectLostError, match="another length"):
        tcp.Tcp(agent).fetch([_part(THERE, 0, 10)])


# -- whole reads


def _produce(count: int) -> Any:
    return numpy.arange(count, dtype=numpy.int64)


@pytest.mark.parametrize("mode", ["auto", "tcp", "shm", "rdma"])
def test_a_forced_path_gives_equal_values_on_a_node(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOKE_TRANSPORT", mode)
    spoke.init(num_cpus=2)
    try:
        produce = spoke.remote(_produce)
        size = 3 * MIB + 17  # of 8 bytes: more than one piece
        assert numpy.array_equal(spoke.get(produce.remote(size)), _produce(size))
        total = spoke.remote(lambda array: (int(array.sum()), spoke.object_store_stats()))
        there, stats = spoke.get(total.remote(spoke.put(_produce(size))))
        assert there == size * (size - 1) // 2
        if mode == "tcp":
            assert stats["tcp_bytes"] == size * 8 and stats["mapped_bytes"] == 0
            assert spoke.object_store_stats()["tcp_copies"] == 1
        else:
            assert stats["tcp_bytes"] == 0 and stats["mapped_bytes"] == size * 8
    finally:
        spoke.shutdown()


def test_between_nodes_blocks_come_over_tcp_with_the_reason() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1})
        spoke.init(address=cluster.address)
        produce = spoke.remote(_produce).options(resources={"far": 1})
        ref = produce.remote(2 * MIB)
        assert numpy.array_equal(spoke.get(ref), _produce(2 * MIB))
        stats = spoke.object_store_stats()
        assert stats["tcp_bytes"] == 16 * MIB and stats["tcp_blocks"] == 1
        far = ref._entry.value[0][0] if type(ref._entry.value[0]) is list else ref._entry.value[1][0]
        path = current.client.router.path(far)
        assert path.name in ("tcp", "rdma") and bool(path.why_not_rdma) == (path.name == "tcp")
    finally:
        spoke.shutdown()
        cluster.shutdown()
