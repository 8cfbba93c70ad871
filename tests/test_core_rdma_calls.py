"""The machine of call channels: by hand, and two ends with frames in flight: order, each once, glare."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from spoke import wire
from spoke.core import Lost, Received, Send, rdma_calls
from spoke.core.rdma_calls import Calls, Init

A, B = b"a" * 28, b"b" * 28


def test_the_initiators_way() -> None:
    machine = Calls(A)
    assert machine.step(0.0, Init(B)) == [rdma_calls.MakePipe(B, 1)]
    assert machine.step(0.0, rdma_calls.PipeMade(B, 1, b"mine")) == [Send(B, (wire.RDMA_PIPE, 1, b"mine"))]
    assert machine.step(0.0, Received(B, [wire.RDMA_PIPE_ACCEPT, 1, b"theirs", ""])) == [
        rdma_calls.ConnectPipe(B, 1, b"theirs"),
        Send(B, (wire.RDMA_SWITCH, 1)),
        rdma_calls.Divert(B, 1),
    ]
    assert machine.step(0.0, Received(B, [wire.RDMA_SWITCH, 1])) == [
        rdma_calls.ReceiveFrom(B, 1),
        rdma_calls.Settled(B, ""),
    ]
    assert machine.state(B) == rdma_calls.OPEN
    assert machine.step(0.0, Init(B)) == [rdma_calls.Settled(B, "")]
    assert machine.step(0.0, Lost(B))[0] == rdma_calls.DropPipe(B, 1, "the link ended")
    assert machine.state(B) == ""


def test_refusals_say_why() -> None:
    machine = Calls(A)
    machine.step(0.0, Init(B))
    failed = machine.step(0.0, rdma_calls.PipeFailed(B, 1, "no device"))
    assert failed[-1] == rdma_calls.Settled(B, "no device")
    machine.step(0.0, Init(B))
    machine.step(0.0, rdma_calls.PipeMade(B, 2, b"mine"))
    assert machine.step(0.0, Received(B, [wire.RDMA_PIPE_ACCEPT, 2, None, "no device there"])) == [
        rdma_calls.DropPipe(B, 2, "no device there"),
        rdma_calls.Settled(B, "no device there"),
    ]
    other = Calls(B)
    assert other.step(0.0, Received(A, [wire.RDMA_PIPE, 7, b"x"])) == [rdma_calls.MakePipe(A, 7)]
    assert Send(A, (wire.RDMA_PIPE_ACCEPT, 7, None, "no memory")) in other.step(
        0.0, rdma_calls.PipeFailed(A, 7, "no memory")
    )


def test_giving_up_takes_back_what_does_not_carry_frames_yet() -> None:
    machine = Calls(A)
    machine.step(0.0, Init(B))
    machine.step(0.0, rdma_calls.PipeMade(B, 1, b"mine"))
    commands = machine.step(0.0, rdma_calls.GiveUp(B))
    assert commands[0] == rdma_calls.DropPipe(B, 1, "it was not open in time")
    assert commands[1].message[0] == wire.RDMA_PIPE_CLOSE
    assert machine.step(0.0, Received(B, [wire.RDMA_PIPE_ACCEPT, 1, b"late", ""])) == []


class End:
    """One process: its machine, its socket and its pipe to the other end, the frames it received."""

    def __init__(self, my_id: bytes, peer: bytes) -> None:
        self.machine = Calls(my_id)
        self.peer = peer
        self.socket: deque[Any] = deque()  # sent by it
        self.pipes: dict[int, deque[int]] = {}  # sent by it
        self.sends_by: int | None = None
        self.reads_from: int | None = None
        self.sent = 0
        self.received: list[int] = []

    def feed(self, event: Any) -> None:
        pending = [event]
        while pending:
            for command in self.machine.step(0.0, pending.pop(0)):
                if isinstance(command, Send):
                    assert self.sends_by is None, "a control message after the last frame by the socket"
                    self.socket.append(list(command.message))
                elif isinstance(command, rdma_calls.MakePipe):
                    self.pipes[command.number] = deque()
                    pending.append(rdma_calls.PipeMade(self.peer, command.number, b"x"))
                elif isinstance(command, rdma_calls.Divert):
                    self.sends_by = command.number
                elif isinstance(command, rdma_calls.ReceiveFrom):
                    self.reads_from = command.number
                elif isinstance(command, rdma_calls.DropPipe):
                    assert self.sends_by is None
                    self.pipes.pop(command.number, None)

    def call(self) -> None:
        self.sent += 1
        (self.socket if self.sends_by is None else self.pipes[self.sends_by]).append(self.sent)


def test_frames_stay_in_order_across_the_switch() -> None:
    for seed in range(300):
        rand = random.Random(seed)
        ends = {A: End(A, B), B: End(B, A)}
        starters = rand.choice([[A], [B], [A, B]])
        for step in range(400):
            me = ends[rand.choice((A, B))]
            other = ends[me.peer]
            if step == 20 or step == 25:
                if starters:
                    starter = starters.pop()
                    ends[starter].feed(Init(ends[starter].peer))
            elif rand.random() < 0.4:
                me.call()
            elif other.socket and rand.random() < 0.6:
                item = other.socket.popleft()
                if type(item) is int:
                    me.received.append(item)
                else:
                    me.feed(Received(me.peer, item))
            elif me.reads_from is not None and other.pipes.get(me.reads_from):
                me.received.append(other.pipes[me.reads_from].popleft())
        for me in ends.values():
            assert me.received == list(range(1, len(me.received) + 1)), seed
            assert me.machine.state(me.peer) == rdma_calls.OPEN, seed
