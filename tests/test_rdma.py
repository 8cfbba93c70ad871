"""Objects between nodes by RDMA READ, over the software device: bytes, leases, faults, forced paths."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import spoke
from spoke import _native, current, wire
from spoke.errors import ActorDiedError, ObjectLostError, RayDirectTransportError
from spoke.transport.base import TransportFailed
from spoke.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests import rdma_kit as kit
from tests.rdma_kit import MIB, Far, Spy, expected, gained, mover, none_left, stats


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    with kit.two_nodes():
        yield


@pytest.fixture
def far(nodes: None) -> Iterator[Any]:
    with kit.far_actor() as actor:
        yield actor


def test_forced_rdma_without_a_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOKE_RDMA_LIBRARY", "none")
    monkeypatch.setenv("SPOKE_TRANSPORT", "rdma")
    cluster = kit.start()
    try:
        actor = spoke.remote(Far).options(resources={"far": 1}).remote()
        with pytest.raises(RayDirectTransportError, match="SPOKE_RDMA_LIBRARY=none"):
            spoke.get(actor.make.remote(1, MIB))
    finally:
        spoke.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize("size", [100 * 1024 + 1, MIB - 1, MIB, 5 * MIB + 3])
def test_results_come_by_one_sided_reads(far: Any, size: int) -> None:
    before = stats()
    assert (spoke.get(far.make.remote(size, size)) == expected(size, size)).all()
    change = gained(before)
    assert change["rdma_blocks"] == 1 and change["rdma_bytes"] == size
    assert "rdma_copies" not in change and "tcp_blocks" not in change
    assert spoke.get(far.leases.remote()) == 0


def test_arguments_are_read_by_the_callee(far: Any) -> None:
    array = expected(3, 2 * MIB)
    wanted = (int(array.astype(numpy.int64).sum()), array.nbytes)
    assert spoke.get(far.digest.remote(array)) == wanted
    assert spoke.get(far.digest.remote(spoke.put(array))) == wanted
    found = spoke.get(far.stats.remote())
    assert found["rdma_blocks"] == 2 and found["tcp_blocks"] == 0 and found["rdma_copies"] == 0


def test_into_a_buffer_nothing_is_copied(far: Any) -> None:
    into = numpy.zeros(3 * MIB, dtype=numpy.uint8)
    before = stats()
    spoke.get(far.make.remote(9, into.nbytes), into=into)
    assert (into == expected(9, into.nbytes)).all()
    change = gained(before)
    assert change == {"rdma_blocks": 1, "rdma_bytes": into.nbytes}
    assert spoke.get(far.stats.remote())["copied_bytes"] == into.nbytes  # into its segment, once


def test_what_is_lent_ahead_of_a_message_is_read_without_a_question(far: Any) -> None:
    spoke.get([far.make.remote(1, MIB), far.digest.remote(expected(1, MIB))])  # connected, both ways
    here = Spy(mover()._control)
    spoke.get(far.sent.remote())
    before = stats()
    for seed in range(2, 5):
        assert (spoke.get(far.make.remote(seed, MIB)) == expected(seed, MIB)).all()
        array, held = expected(seed, 300_000), spoke.put(expected(seed, 200_000))
        assert spoke.get(far.digest.remote(array)) == (int(array.astype(numpy.int64).sum()), array.nbytes)
        assert spoke.get(far.digest.remote(held))[1] == 200_000
        into = numpy.zeros(MIB, dtype=numpy.uint8)
        spoke.get([far.make.remote(seed, MIB)], into=[into])
        assert (into == expected(seed, MIB)).all()
    assert gained(before)["rdma_blocks"] == 6 and "tcp_blocks" not in gained(before)
    there = spoke.get(far.said.remote())
    assert here.kinds.count(wire.RDMA_OFFER) == there.count(wire.RDMA_OFFER) == 6
    assert here.kinds.count(wire.RDMA_DONE) == there.count(wire.RDMA_DONE) == 6
    assert not {wire.RDMA_ASK, wire.RDMA_GRANT, wire.RDMA_WITHDRAW} & {*here.kinds, *there}
    assert spoke.get(far.leases.remote()) == 0 and not mover()._leases
    spoke.get(far.make_many.remote(30, 5000))
    assert wire.RDMA_ASK in here.kinds, "one question for many blocks"


def test_through_a_ring_an_offer_takes_no_slot_of_its_own(far: Any) -> None:
    spoke.get(far.make.remote(1, MIB))
    assert far.init_rdma(timeout=30.0)
    spoke.get(far.sent.remote())
    written = spoke.get(far.pipe_messages.remote())
    for seed in range(5):
        assert (spoke.get(far.make.remote(seed, MIB)) == expected(seed, MIB)).all()
    assert spoke.get(far.pipe_messages.remote()) == written + 6  # one for the question
    assert spoke.get(far.said.remote()).count(wire.RDMA_OFFER) == 5


def test_an_offer_that_nobody_reads_keeps_nothing(far: Any) -> None:
    assert spoke.get(far.make.remote(1, MIB)).nbytes == MIB  # connected
    none_left(far.blocks)
    refs = [far.make.remote(seed, MIB) for seed in range(5)]
    spoke.wait(refs, num_returns=5)
    assert spoke.get(far.offers.remote()) == 5 and spoke.get(far.blocks.remote()) == 5
    spoke.get(refs.pop())
    del refs
    none_left(far.blocks)
    assert spoke.get(far.leases.remote()) == 0
    ref = far.make.remote(6, MIB)
    spoke.wait([ref])
    assert spoke.get(far.offers.remote()) == 0, "a reader that did not read is not offered more"
    spoke.get(ref)
    ref = far.filled.remote()
    spoke.wait([ref])
    assert spoke.get(far.offers.remote()) == 1, "until it asks"
    del ref
    spoke.get(far.forget.remote())  # the tensor's own use is the last
    none_left(far.blocks)
    assert spoke.get(far.leases.remote()) == 0


def test_an_offer_that_is_read_by_another_path_is_given_back(far: Any) -> None:
    spoke.get(far.make.remote(1, MIB))
    ref = far.make.remote(2, MIB)
    spoke.wait([ref])
    assert spoke.get(far.offers.remote()) == 1
    _native.fake_rdma("fail", 12)
    before = stats()
    assert (spoke.get(ref) == expected(2, MIB)).all()
    assert gained(before).get("tcp_blocks") == 1
    assert spoke.get(far.leases.remote()) == 0, "with the queue pair that it was for"


def test_MEM_3_no_grant_for_a_stale_descriptor(far: Any) -> None:
    """Freed and used again at its owner: refused by name, by RDMA and over TCP."""
    ref = far.make.remote(1, 2 * MIB)
    spoke.wait([ref])
    old = next(part for part in ref._entry.value if type(part) is not bytes)
    router = current.client.router  # type: ignore[union-attr]
    assert bytes(router.fetch([old])[0]) == expected(1, 2 * MIB).tobytes()
    del ref
    refs = [far.make.remote(seed, 2 * MIB) for seed in range(2, 6)]
    spoke.wait(refs, num_returns=len(refs))
    assert any(part[2:5] == old[2:5] for ref in refs for part in ref._entry.value if type(part) is not bytes)
    before = stats()
    with pytest.raises(TransportFailed, match="stale descriptor"):
        mover().read([old], [memoryview(bytearray(2 * MIB))])
    with pytest.raises(ObjectLostError, match="stale descriptor"):
        router.tcp.fetch([old])
    with pytest.raises(ObjectLostError, match="stale descriptor"):
        router.fetch([old])
    assert not gained(before) and spoke.get(far.leases.remote()) == spoke.get(far.offers.remote())


def test_a_thousand_parameters_are_one_lease(far: Any) -> None:
    before = stats()
    many = spoke.get(far.make_many.remote(1000, 5000))
    for index in (0, 1, 250, 251, 999):
        assert many[index].nbytes == 5000 + index and (many[index] == index % 251).all()
    assert 1000 <= gained(before)["rdma_blocks"] <= 1001  # and the pickle that holds them together
    assert spoke.get(far.leases.remote()) == 0


def test_a_state_dict_moves_into_place(far: Any) -> None:
    import torch

    state = spoke.get(far.state.remote())
    source = kit.model_state()
    assert all(torch.equal(state[name], source[name]) for name in source)
    mine = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    spoke.get(far.state.remote(), into=mine)
    assert all(torch.equal(mine[name], source[name]) for name in source)


def test_many_at_once_in_both_directions(far: Any) -> None:
    arrays = [expected(seed, 300_000 + seed) for seed in range(16)]
    up = [far.digest.remote(array) for array in arrays]
    down = [far.make.remote(seed, 300_000 + seed) for seed in range(16)]
    for seed, value in enumerate(spoke.get(down)):
        assert (value == arrays[seed]).all()
    assert [nbytes for _, nbytes in spoke.get(up)] == [array.nbytes for array in arrays]


def test_a_dead_owner_is_named(far: Any) -> None:
    ref = far.make.remote(1, 2 * MIB)
    spoke.wait([ref])
    spoke.get(far.make.remote(2, MIB))  # connected
    spoke.kill(far)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            spoke.get(far.node.remote(), timeout=10)
        except ActorDiedError:
            break
    # Its segment is its agent's: the result is still there, by the other path.
    before = stats()
    assert (spoke.get(ref) == expected(1, 2 * MIB)).all()
    assert gained(before).get("rdma_blocks", 0) == 0


def test_a_failed_read_takes_another_path_and_comes_back(far: Any) -> None:
    spoke.get(far.make.remote(2, MIB))
    before = stats()
    _native.fake_rdma("fail", 12)
    assert (spoke.get(far.make.remote(4, MIB)) == expected(4, MIB)).all()
    change = gained(before)
    assert change["tcp_blocks"] == 1 and "rdma_blocks" not in change
    path = current.client.router.path(bytes.fromhex(spoke.get(far.node.remote())))  # type: ignore[union-attr]
    assert path.name == "tcp" and "retry counter exceeded" in path.why_not_rdma
    deadline = time.monotonic() + 30
    while "rdma_blocks" not in gained(before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        spoke.get(far.make.remote(5, MIB))


def test_the_port_goes_down_and_up(far: Any) -> None:
    spoke.get(far.make.remote(2, MIB))
    _native.fake_rdma("port", 0)
    before = stats()
    assert (spoke.get(far.make.remote(6, MIB)) == expected(6, MIB)).all()
    assert gained(before).get("tcp_blocks") == 1
    _native.fake_rdma("port", 1)
    deadline = time.monotonic() + 30
    while "rdma_blocks" not in gained(before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        spoke.get(far.make.remote(5, MIB))


@pytest.mark.parametrize(("side", "fault"), [("reader", "fatal"), ("owner", "fatal"), ("reader", "overrun")])
def test_a_lost_device_voids_leases_and_comes_back(far: Any, side: str, fault: str) -> None:
    spoke.get(far.make.remote(2, MIB))
    if side == "reader":
        _native.fake_rdma(fault)
    else:
        spoke.get(far.fault.remote(fault))
    before = stats()
    assert (spoke.get(far.make.remote(7, MIB)) == expected(7, MIB)).all()
    assert spoke.get(far.leases.remote()) == 0
    deadline = time.monotonic() + 30
    while "rdma_blocks" not in gained(before):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        spoke.get(far.make.remote(5, MIB))


def test_memory_that_cannot_be_locked_takes_the_other_path(far: Any) -> None:
    spoke.get(far.make.remote(2, MIB))
    _native.fake_rdma("no_memory", 1)
    before = stats()
    assert (spoke.get(far.make.remote(8, MIB)) == expected(8, MIB)).all()
    assert gained(before)["tcp_blocks"] == 1


def test_registered_memory_is_read_where_it_lies(nodes: None) -> None:
    class Holder:
        def __init__(self) -> None:
            self.array = numpy.arange(MIB, dtype=numpy.int32)
            self.registration = spoke.register_memory(self.array)

        def whole(self) -> Any:
            return self.array

        def stats(self) -> dict[str, int]:
            return spoke.object_store_stats()

    holder = spoke.remote(Holder).options(resources={"far": 1}).remote()
    into = numpy.empty(MIB, dtype=numpy.int32)
    before = stats()
    spoke.get(holder.whole.remote(), into=into)
    assert (into == numpy.arange(MIB, dtype=numpy.int32)).all()
    assert gained(before) == {"rdma_blocks": 1, "rdma_bytes": into.nbytes}
    assert spoke.get(holder.stats.remote())["copied_bytes"] == 0
    spoke.kill(holder)


def test_readers_killed_at_random_points_free_what_they_held(nodes: None) -> None:
    owner = spoke.remote(Far).options(resources={"far": 1}).remote()
    for delay in (0.0, 0.01, 0.03):
        reader = spoke.remote(Far).options(num_cpus=0).remote()
        digest = reader.digest.remote(owner.make.remote(1, 4 * MIB))
        time.sleep(delay)
        spoke.kill(reader)
        with pytest.raises(ActorDiedError):
            spoke.get(digest, timeout=60)
            raise ActorDiedError
    deadline = time.monotonic() + 30
    while spoke.get(owner.leases.remote()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (spoke.get(owner.make.remote(1, MIB)) == expected(1, MIB)).all()
    spoke.kill(owner)


def test_calls_go_through_rings_and_so_do_their_answers(far: Any) -> None:
    assert far._transport == ("socket", "init_rdma was not called")
    refs = [far.echo.remote(index) for index in range(50)]
    assert far.init_rdma(timeout=30.0) is True
    assert far.init_rdma() is True
    assert far._transport == ("rdma", "")
    refs += [far.echo.remote(index) for index in range(50, 300)]
    assert spoke.get(refs) == list(range(300))
    assert spoke.get(far.seen.remote()) == list(range(300))  # in order, across the switch (CALL-2)
    pipes = current.client.rdma.pipes  # type: ignore[union-attr]
    written, answered = pipes.messages(), spoke.get(far.pipe_messages.remote())
    assert written > 10 and answered > 10  # several calls share a slot
    for size in (0, 1, 8000, 8192, 8193, 90_000):
        assert spoke.get(far.echo.remote(b"x" * size)) == b"x" * size
    with pytest.raises(ZeroDivisionError):
        spoke.get(far.divide.remote())
    assert (spoke.get(far.make.remote(3, MIB)) == expected(3, MIB)).all()
    assert pipes.messages() > written
    stream = far.count.options(num_returns="streaming").remote(20)
    assert [spoke.get(ref) for ref in stream] == list(range(20))


@pytest.mark.parametrize("fault", ["caller's request", "callee's answer", "caller's card", "callee's card"])
def test_calls_of_a_channel_that_breaks_go_on_over_the_socket(far: Any, fault: str) -> None:
    assert far.init_rdma(timeout=30.0)
    assert spoke.get(far.echo.remote(-1)) == -1
    command = ("fatal", 0) if "card" in fault else ("fail", 12)
    refs = []
    for index in range(300):
        if index == 100:
            if "caller" in fault:
                _native.fake_rdma(*command)
            else:
                refs.append(far.fault.remote(*command))
        refs.append(far.echo.remote(index if index % 7 else bytes([index % 256]) * 30_000))
    spoke.get(refs, timeout=60)  # each has its answer: no error, none lost
    seen = [value if isinstance(value, int) else value[0] for value in spoke.get(far.seen.remote())]
    assert seen == [-1, *(index if index % 7 else index % 256 for index in range(300))]  # CALL-2, each once
    path, why = far._transport
    assert path == "socket" and "the RDMA channel failed" in why
    deadline = time.monotonic() + 30
    while not far.init_rdma(timeout=30.0):  # a lost device is opened again after a pause
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert far._transport == ("rdma", "")
    assert spoke.get(far.echo.remote(2)) == 2


def test_the_death_of_the_callee_is_named_over_a_ring_too(far: Any) -> None:
    assert far.init_rdma(timeout=30.0)
    ref = far.die.remote()
    with pytest.raises(ActorDiedError):
        spoke.get(ref, timeout=60)
    assert far.init_rdma(timeout=1.0) is False


def test_no_channel_on_one_node(nodes: None) -> None:
    """Its link may go through shared memory, which a channel must not take the frames from."""
    here = NodeAffinitySchedulingStrategy(spoke.get_runtime_context().get_node_id(), soft=False)
    near = spoke.remote(Far).options(num_cpus=0, scheduling_strategy=here).remote()
    refs = [near.echo.remote(index) for index in range(500)]
    assert near.init_rdma(timeout=30.0) is False
    assert near._transport[0] == "socket" and "on this node" in near._transport[1]
    refs += [near.echo.remote(index) for index in range(500, 1000)]
    assert spoke.get(refs) == list(range(1000))
    spoke.kill(near)


def test_no_channel_without_a_device(far: Any) -> None:
    _native.fake_rdma("port", 0)
    try:
        assert far.init_rdma(timeout=10.0) is False
        assert "port is down" in far._transport[1]
        assert spoke.get(far.echo.remote(1)) == 1
    finally:
        _native.fake_rdma("port", 1)
