"""Prepare, commit, abort: slots are agreed with their nodes, and their ports are really held."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import pytest

from spoke import wire
from spoke.core.prepare import ANSWER_S, AVOID_S, HOLD_S
from spoke.loop import Loop
from spoke.slots import HeldSlots
from tests.hub_harness import Harness

GROUP = b"g" * 18
BUNDLE = {"CPU": 1.0, "GPU": 1.0}


def waiting_hub(*nodes: str) -> tuple[Harness, list[bytes], bytes]:
    """A hub whose nodes do not answer PREPARE by themselves."""
    hub = Harness()
    hub.auto_prepare = False
    found = [hub.node(label, CPU=2.0, GPU=2.0) for label in nodes]
    return hub, found, hub.driver("driver")


def asked(hub: Harness, node: bytes) -> list[Any]:
    return hub.take(node, wire.PREPARE)


def agree(hub: Harness, node: bytes, message: list[Any]) -> None:
    ports = [[index, 20_000 + index] for index, _, _ in message[3]]
    hub.say(node, wire.PREPARED, message[1], message[2], ports, "")


def test_a_gang_is_there_when_all_its_nodes_have_agreed() -> None:
    hub, (a, b), driver = waiting_hub("a", "b")
    group = hub.group(driver, "g", [BUNDLE] * 4, "STRICT_SPREAD", gang={}, per_node=2)
    (first,), (second,) = asked(hub, a), asked(hub, b)
    assert [slot[0] for slot in first[3]] == [0, 1] and first[3][0][1] == [0]
    agree(hub, a, first)
    assert hub.ask(driver, "group", id=group)["state"] == "PENDING"
    assert not hub.take(a, wire.COMMIT) and not hub.take(driver, wire.GROUP_STATE)
    agree(hub, a, first)  # said twice
    agree(hub, b, second)
    row = hub.ask(driver, "group", id=group)
    assert row["state"] == "CREATED" and row["ports"] == [20_000, 20_001, 20_002, 20_003]
    assert len(hub.take(a, wire.COMMIT)) == len(hub.take(b, wire.COMMIT)) == 1
    agree(hub, a, first)  # the COMMIT may be lost: it is said again
    assert len(hub.take(a, wire.COMMIT)) == 1
    hub.say(driver, wire.REMOVE_GROUP, group)
    assert [one[1:] for one in hub.take(b, wire.RELEASE_SLOTS)] == [[group, -1]]


def test_a_node_that_refuses_is_left_out_for_a_moment() -> None:
    hub, (a, b), driver = waiting_hub("a", "b")
    group = hub.group(driver, "g", [BUNDLE] * 2, "STRICT_PACK", gang={})
    (request,) = asked(hub, a)
    hub.say(a, wire.PREPARED, group, request[2], [], "it is draining")
    assert [one[1:] for one in hub.take(a, wire.RELEASE_SLOTS)] == [[group, request[2]]]
    assert hub.free(a, "GPU") == 2.0
    (second,) = asked(hub, b)
    assert second[2] == request[2] + 1
    hub.say(a, wire.PREPARED, group, request[2], [[0, 1], [1, 2]], "")  # late, of an attempt that is over
    assert hub.ask(driver, "group", id=group)["state"] == "PENDING"
    agree(hub, b, second)
    assert hub.ask(driver, "group", id=group)["nodes"] == [b, b]


def test_nothing_is_half_launched_where_one_of_two_nodes_refuses() -> None:
    hub, (a, b), driver = waiting_hub("a", "b")
    group = hub.group(driver, "g", [BUNDLE] * 4, "STRICT_SPREAD", gang={}, per_node=2)
    (first,), (second,) = asked(hub, a), asked(hub, b)
    agree(hub, a, first)
    hub.say(b, wire.PREPARED, group, second[2], [], "it has no GPU 1")
    assert hub.free(a, "GPU") == hub.free(b, "GPU") == 2.0
    assert len(hub.take(a, wire.RELEASE_SLOTS)) == 1
    assert "it has no GPU 1" in hub.ask(driver, "group", id=group)["reason"]
    hub.pass_time(AVOID_S + 0.5, a, b)
    (again,), (too,) = asked(hub, a), asked(hub, b)
    agree(hub, a, again)
    agree(hub, b, too)
    assert hub.ask(driver, "group", id=group)["state"] == "CREATED"


def test_silence_is_a_refusal() -> None:
    hub, (a, b), driver = waiting_hub("a", "b")
    group = hub.group(driver, "g", [BUNDLE] * 2, "STRICT_PACK", gang={})
    assert asked(hub, a)
    hub.pass_time(ANSWER_S + 0.5, a, b)
    assert "no answer" in hub.ask(driver, "group", id=group)["reason"]
    agree(hub, b, asked(hub, b)[0])
    assert hub.ask(driver, "group", id=group)["state"] == "CREATED"


def test_a_node_that_dies_between_prepare_and_commit_reserves_nothing() -> None:
    """Row S2-12."""
    hub, (a, b), driver = waiting_hub("a", "b")
    group = hub.group(driver, "g", [BUNDLE] * 4, "STRICT_SPREAD", gang={}, per_node=2)
    agree(hub, a, asked(hub, a)[0])
    hub.lose(b)
    row = hub.ask(driver, "group", id=group)
    assert row["state"] == "PENDING" and not any(row["nodes"]) and hub.free(a, "GPU") == 2.0
    c = hub.node("c", CPU=2.0, GPU=2.0)
    agree(hub, a, asked(hub, a)[-1])
    agree(hub, c, asked(hub, c)[0])
    assert hub.ask(driver, "group", id=group)["nodes"] == [a, a, c, c]


def test_released_while_it_is_prepared() -> None:
    hub, (a,), driver = waiting_hub("a")
    group = hub.group(driver, "g", [BUNDLE] * 2, "STRICT_PACK", gang={})
    (request,) = asked(hub, a)
    hub.say(driver, wire.REMOVE_GROUP, group)
    hub.say(driver, wire.REMOVE_GROUP, group)
    assert hub.free(a, "GPU") == 2.0 and hub.take(a, wire.RELEASE_SLOTS)
    agree(hub, a, request)
    assert hub.ask(driver, "group", id=group)["state"] == "REMOVED" and not hub.take(a, wire.COMMIT)
    assert hub.take(a, wire.RELEASE_SLOTS), "an agent that agreed too late lets go"


def test_a_node_that_let_go_ends_the_gang() -> None:
    """The COMMIT came after the node had given up: the gang is not what it was promised to be."""
    hub, (a,), driver = waiting_hub("a")
    group = hub.group(driver, "g", [BUNDLE] * 2, "STRICT_PACK", gang={})
    (request,) = asked(hub, a)
    agree(hub, a, request)
    hub.say(a, wire.PREPARED, group, request[2], [], "its slots were let go")
    row = hub.ask(driver, "group", id=group)
    assert row["state"] == "REMOVED" and "let go" in row["reason"] and hub.free(a, "GPU") == 2.0


# -- the agent's side


class Slots:
    """`HeldSlots` with what it says."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.loop = Loop(lambda what, error: None)
        self.slots = HeldSlots(self.loop, self.said.append, gpus=2)

    def prepare(self, attempt: int = 1, gpu: int = 0, port: int = 0) -> tuple[list[Any], str]:
        self.slots.prepare(GROUP, attempt, [[0, [gpu], port], [1, [1], 0]])
        kind, group_id, number, ports, refusal = self.said[-1]
        assert (kind, group_id, number) == (wire.PREPARED, GROUP, attempt)
        return [one[1] for one in ports], refusal


@pytest.fixture
def node() -> Any:
    found = Slots()
    yield found
    found.slots.close()
    found.loop.reactor.close_all()
    del found.loop, found.slots  # and with them their descriptors


def bind(port: int, reuse: bool) -> socket.socket:
    found = socket.socket()
    if reuse:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("", port))
        found.listen()
    except OSError:
        found.close()
        raise
    return found


def test_a_held_port_is_nobodys_until_the_launch_and_its_members_after(node: Slots) -> None:
    (port, other), refusal = node.prepare()
    assert not refusal and port != other and port >= 15_000
    assert node.prepare()[0] == [port, other], "asked twice, answered alike"
    node.slots.commit(GROUP, 1)
    for reuse in (False, True):
        with pytest.raises(OSError) as caught:
            bind(port, reuse)
        assert caught.value.errno == errno.EADDRINUSE
    node.slots.launching(GROUP.hex(), "0")
    with pytest.raises(OSError):
        bind(port, reuse=False)  # of a process that takes any free port
    with bind(port, reuse=True), pytest.raises(OSError):
        bind(other, reuse=True)  # rank 1 was not launched
    node.slots.launching("no gang of ours", "x")
    node.slots.release(GROUP, -1)
    node.slots.release(GROUP, -1)
    with bind(port, reuse=False), bind(other, reuse=False):
        pass


def test_a_refusal_holds_nothing(node: Slots) -> None:
    ports, refusal = node.prepare(gpu=7)
    assert not ports and refusal == "it has no GPU 7" and not node.slots._held
    with bind(0, reuse=False) as taken:
        ports, refusal = node.prepare(port=taken.getsockname()[1])
        assert not ports and "in use" in refusal and not node.slots._held
    node.slots.closing = True
    assert "shuts down" in node.prepare(attempt=2)[1]


def test_the_next_attempt_takes_the_place_of_the_one_before(node: Slots) -> None:
    before = node.prepare()[0]
    node.slots.commit(GROUP, 1)
    after = node.prepare(attempt=2)[0]
    assert not set(before) & set(after)
    assert node.slots.held() == [[GROUP, 1]]
    node.slots.commit(GROUP, 2)
    node.slots.commit(GROUP, 2)
    assert node.slots.held() == [[GROUP, 2]]
    with bind(before[0], reuse=False):
        pass
    node.slots.release(GROUP, 1)
    assert node.slots.held() == [[GROUP, 2]]


def test_what_is_not_committed_is_let_go(node: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ANSWER_S < HOLD_S
    monkeypatch.setattr("spoke.slots.HOLD_S", 0.05)
    node.prepare()
    deadline = time.monotonic() + 20
    while node.slots._held:
        assert time.monotonic() < deadline
        node.loop.turn(0.05)
    node.slots.commit(GROUP, 1)
    assert node.said[-1][3] == [] and "let go" in node.said[-1][4]
