"""The machine of one-sided reads: by hand, and whole worlds of owners and readers from a seed.

The world's memory is reused as soon as its last use is gone, reads take several steps, messages are late,
links end at one side first, devices are lost.  A read that succeeds must have seen one object only.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from spoke import wire
from spoke.core import Lost, Received, Send, rdma

A, B = b"a" * 28, b"b" * 28


def connect(machine: rdma.Reads, read_id: int = 1, peer: bytes = B) -> None:
    """Bring a reader of `peer` to its first question."""
    assert machine.step(0.0, rdma.Want(read_id, peer, [[1, 0, 10, 3]])) == [rdma.MakeReader(peer, 1)]
    sent = machine.step(0.0, rdma.Made(peer, 1, True, b"mine"))
    assert sent == [Send(peer, (wire.RDMA_CONNECT, 1, b"mine"))]
    assert machine.step(0.0, Received(peer, [wire.RDMA_ACCEPT, 1, b"theirs", ""])) == [
        rdma.ConnectReader(peer, 1, b"theirs"),
        Send(peer, (wire.RDMA_ASK, read_id, 1, [[1, 0, 10, 3]])),
    ]


def serve(machine: rdma.Reads, peer: bytes = A) -> None:
    """Bring an owner to its first lease."""
    assert machine.step(0.0, Received(peer, [wire.RDMA_CONNECT, 1, b"theirs"])) == [
        rdma.MakeResponder(peer, 1, b"theirs")
    ]
    assert machine.step(0.0, rdma.Made(peer, 1, False, b"mine")) == [
        Send(peer, (wire.RDMA_ACCEPT, 1, b"mine", ""))
    ]
    assert machine.step(0.0, Received(peer, [wire.RDMA_ASK, 7, 1, [[1, 0, 10, 3]]])) == [
        rdma.Lend(peer, 7, [[1, 0, 10, 3]])
    ]
    granted = machine.step(0.0, rdma.Lent(peer, 7, [[4096, 5]], ""))
    assert granted == [Send(peer, (wire.RDMA_GRANT, 7, [[4096, 5]], ""))]
    assert machine.leases(peer) == 1


def test_a_read_from_its_wish_to_its_end() -> None:
    machine = rdma.Reads()
    connect(machine)
    assert machine.step(0.0, Received(B, [wire.RDMA_GRANT, 1, [[4096, 5]], ""])) == [
        rdma.Start(1, B, 1, [[4096, 5]])
    ]
    assert machine.step(0.0, rdma.Finished(1, "")) == [Send(B, (wire.RDMA_DONE, [1]))]
    # The connection stays: the next read asks at once.
    assert machine.step(0.0, rdma.Want(2, B, [[1, 0, 10, 3]])) == [
        Send(B, (wire.RDMA_ASK, 2, 1, [[1, 0, 10, 3]]))
    ]


def test_what_was_lent_is_given_up_after_the_queue_pair_only() -> None:
    for end in (Lost(A), Received(A, [wire.RDMA_CLOSE, 1, ""]), Received(A, [wire.RDMA_CONNECT, 2, b"new"])):
        machine = rdma.Reads()
        serve(machine)
        commands = machine.step(0.0, end)
        assert commands[:2] == [rdma.DestroyResponder(A, 1), rdma.EndLease(A, 7)]
        assert machine.leases(A) == 0
    machine = rdma.Reads()
    serve(machine)
    commands = machine.step(0.0, rdma.DeviceLost("fatal"))
    assert commands[:2] == [rdma.DestroyResponder(A, 1), rdma.EndLease(A, 7)]
    assert commands[2:] == [Send(A, (wire.RDMA_ACCEPT, 1, None, "fatal"))]


def test_a_lease_is_granted_on_a_living_queue_pair_only() -> None:
    machine = rdma.Reads()
    serve(machine)
    for number in (0, 2):
        refused = machine.step(0.0, Received(A, [wire.RDMA_ASK, 8, number, [[1, 0, 10, 3]]]))
        assert refused == [
            Send(A, (wire.RDMA_GRANT, 8, None, "the connection that the lease was asked for is gone"))
        ]
    machine.step(0.0, Lost(A))
    (refused,) = machine.step(0.0, Received(A, [wire.RDMA_ASK, 9, 1, [[1, 0, 10, 3]]]))
    assert refused.message[2] is None


@pytest.mark.parametrize(
    "ranges",
    [[[1, 0, 5]], [[1, -1, 5, 3]], [[1, 0, -5, 3]], [[0, 0, 5, 3]], [["1", 0, 5, 3]], [[1, 0, 5.0, 3]], [7]],
)
def test_a_lying_question_is_refused(ranges: list[Any]) -> None:
    machine = rdma.Reads()
    serve(machine)
    (refused,) = machine.step(0.0, Received(A, [wire.RDMA_ASK, 8, 1, ranges]))
    assert refused.message[2] is None and "not valid" in refused.message[3]


@pytest.mark.parametrize(
    "places",
    [
        *([], [[1, 2], [3, 4]], [[4096]], [[4096, 5, 6]], [["4096", 5]]),
        *([[4096, -1]], [[2**64, 5]], [[0, 2**32]], [5]),
    ],
)
def test_a_truncated_or_lying_grant_is_refused_before_anything_is_posted(places: list[Any]) -> None:
    machine = rdma.Reads()
    connect(machine)
    commands = machine.step(0.0, Received(B, [wire.RDMA_GRANT, 1, places, ""]))
    assert commands == [
        rdma.Refuse(1, "the owner's grant is not one"),
        Send(B, (wire.RDMA_DONE, [1])),
    ]


def test_a_grant_that_nobody_waits_for_is_given_back() -> None:
    machine = rdma.Reads()
    assert machine.step(0.0, Received(B, [wire.RDMA_GRANT, 5, [[1, 2]], ""])) == [
        Send(B, (wire.RDMA_DONE, [5]))
    ]


def test_failures_pause_and_come_back() -> None:
    machine = rdma.Reads()
    connect(machine)
    commands = machine.step(10.0, rdma.Failed(B, 1, True, "retry counter exceeded"))
    assert commands == [
        rdma.DropReader(B, 1, "retry counter exceeded"),
        Send(B, (wire.RDMA_CLOSE, 1, "retry counter exceeded")),
        rdma.Refuse(1, "retry counter exceeded"),
    ]
    assert machine.why_not(10.1, B) == "retry counter exceeded"
    assert machine.step(10.1, rdma.Want(2, B, [[1, 0, 1]])) == [rdma.Refuse(2, "retry counter exceeded")]
    later = 10.0 + rdma.PAUSE_S
    assert machine.why_not(later, B) == ""
    assert machine.step(later, rdma.Want(3, B, [[1, 0, 1]])) == [rdma.MakeReader(B, 2)]
    # Twice as long the second time.
    machine.step(later, rdma.Made(B, 2, True, b"x"))
    machine.step(later, Received(B, [wire.RDMA_ACCEPT, 2, None, "no RDMA device"]))
    assert machine.why_not(later + 1.9 * rdma.PAUSE_S, B) == "no RDMA device"
    assert machine.why_not(later + 2.0 * rdma.PAUSE_S, B) == ""


def test_one_peer_cannot_hold_leases_without_end() -> None:
    machine = rdma.Reads()
    serve(machine)
    for lease_id in range(100, 100 + rdma.MAX_LEASES + 5):
        (command,) = machine.step(0.0, Received(A, [wire.RDMA_ASK, lease_id, 1, [[1, 0, 10, 3]]]))
        if isinstance(command, Send):
            break
    assert isinstance(command, Send) and "too many leases" in command.message[3]
    assert machine.leases(A) == rdma.MAX_LEASES


# -- offers

RANGE, PLACE = [2, 64, 100, 5], [8192, 6]


def offered(machine: rdma.Reads, peer: bytes = A) -> int:
    """Have an owner that serves a peer offer it a block; the number of the lease."""
    (lend,) = machine.step(0.0, rdma.Offer(peer, RANGE))
    assert lend == rdma.Lend(peer, lend.lease_id, [RANGE]) and lend.lease_id < 0
    sent = machine.step(0.0, rdma.Lent(peer, lend.lease_id, [PLACE], ""))
    assert sent == [Send(peer, (wire.RDMA_OFFER, lend.lease_id, 1, RANGE, PLACE))]
    return int(lend.lease_id)


def reader_with_offer(lease_id: int = -1) -> rdma.Reads:
    machine = rdma.Reads()
    connect(machine)
    assert machine.step(0.0, Received(B, [wire.RDMA_OFFER, lease_id, 1, RANGE, PLACE])) == []
    return machine


def done(*lease_ids: int) -> list[Send]:
    return [Send(B, (wire.RDMA_DONE, [*lease_ids]))]


def test_what_was_offered_is_read_without_a_question() -> None:
    machine = reader_with_offer()
    second = [2, 64, 50, 5]
    assert machine.step(0.0, Received(B, [wire.RDMA_OFFER, -2, 1, second, [9000, 6]])) == []
    assert machine.step(0.0, rdma.Want(2, B, [second, RANGE])) == [rdma.Start(2, B, 1, [[9000, 6], PLACE])]
    assert machine.step(0.0, Received(B, [wire.RDMA_GRANT, 2, [PLACE, PLACE], ""])) == done(2)  # not asked
    assert machine.step(0.0, rdma.Finished(2, "")) == done(-2, -1)
    (asked,) = machine.step(0.0, rdma.Want(3, B, [RANGE]))  # an offer is for one read
    assert asked.message[0] == wire.RDMA_ASK


def test_only_what_was_offered_whole_is_read_so() -> None:
    machine = reader_with_offer()
    for ranges in ([[2, 64, 99, 5]], [[2, 64, 100, 6]], [RANGE, [3, 0, 10, 1]]):
        (asked,) = machine.step(0.0, rdma.Want(2, B, ranges))
        assert asked.message[0] == wire.RDMA_ASK and asked.message[3] == ranges
        machine.step(0.0, rdma.Finished(2, "interrupted"))
    assert machine.step(0.0, rdma.Want(3, B, [RANGE])) == [rdma.Start(3, B, 1, [PLACE])]


def test_an_offer_that_cannot_be_used_is_given_back_at_once() -> None:
    def offer(machine: rdma.Reads, number: int, range_: list[int], lease_id: int = -7) -> list[Any]:
        return machine.step(0.0, Received(B, [wire.RDMA_OFFER, lease_id, number, range_, PLACE]))

    assert offer(rdma.Reads(), 1, RANGE) == done(-7)
    machine = reader_with_offer()
    assert offer(machine, 2, RANGE) == done(-7), "for another reader"
    assert offer(machine, 1, RANGE) == done(-7), "once is enough"
    for kept in range(1, rdma.MAX_OFFERS):
        assert offer(machine, 1, [3, kept, 1, 5], -100 - kept) == []
    assert offer(machine, 1, [4, 0, 1, 5]) == done(-7), "LIM-1"


@pytest.mark.parametrize(
    ("place", "range_"),
    [
        *[(place, RANGE) for place in ([], [8192], [8192, 6, 7], ["8192", 6], [-1, 6])],
        *[(place, RANGE) for place in ([2**64, 6], [1, 2**32])],
        *[(PLACE, range_) for range_ in ([], [2, 64, 100], [2, -1, 100, 5], [0, 0, 9, 5], [2, 64, 1.5, 5])],
    ],
)
def test_a_truncated_or_lying_offer_is_refused_before_anything_is_posted(
    place: list[Any], range_: list[Any]
) -> None:
    machine = rdma.Reads()
    connect(machine)
    assert machine.step(0.0, Received(B, [wire.RDMA_OFFER, -1, 1, range_, place])) == done(-1)
    (asked,) = machine.step(0.0, rdma.Want(2, B, [RANGE]))
    assert asked.message[0] == wire.RDMA_ASK


def test_an_offer_is_withdrawn_when_nothing_else_keeps_the_block() -> None:
    owner = rdma.Reads()
    serve(owner)
    lease_id = offered(owner)
    assert owner.leases(A) == 2
    assert owner.step(0.0, rdma.Idle(A, lease_id)) == [Send(A, (wire.RDMA_WITHDRAW, lease_id))]
    assert owner.leases(A) == 2, "the reader may be at it: it is for him to end it"
    assert owner.step(0.0, rdma.Offer(A, RANGE)) == [] and not owner.offers_to(A)
    assert owner.step(0.0, Received(A, [wire.RDMA_DONE, [lease_id]])) == [rdma.EndLease(A, lease_id)]
    assert owner.step(0.0, rdma.Idle(A, lease_id)) == []
    owner.step(0.0, Received(A, [wire.RDMA_ASK, 8, 1, [RANGE]]))
    assert offered(owner) != lease_id, "who asks again is offered again"

    reader = reader_with_offer()
    assert reader.step(0.0, Received(B, [wire.RDMA_WITHDRAW, -1])) == done(-1)
    assert reader.step(0.0, Received(B, [wire.RDMA_WITHDRAW, -1])) == []
    reader = reader_with_offer()
    reader.step(0.0, rdma.Want(2, B, [RANGE]))
    assert reader.step(0.0, Received(B, [wire.RDMA_WITHDRAW, -1])) == [], "it is being read"
    assert reader.step(0.0, rdma.Finished(2, "")) == done(-1)


def test_offers_end_with_the_queue_pair_they_are_for() -> None:
    owner = rdma.Reads()
    serve(owner)
    lease_id = offered(owner)
    commands = owner.step(0.0, Received(A, [wire.RDMA_CLOSE, 1, ""]))
    assert commands == [rdma.DestroyResponder(A, 1), rdma.EndLease(A, 7), rdma.EndLease(A, lease_id)]
    assert owner.step(0.0, rdma.Offer(A, RANGE)) == [], "there is no queue pair"

    reader = reader_with_offer()
    reader.step(0.0, rdma.Want(2, B, [RANGE]))
    commands = reader.step(0.0, rdma.Failed(B, 1, True, "retry counter exceeded"))
    assert commands[1:] == [
        Send(B, (wire.RDMA_CLOSE, 1, "retry counter exceeded")),
        rdma.Refuse(1, "retry counter exceeded"),
        rdma.Refuse(2, "retry counter exceeded"),
    ]
    assert reader.step(0.0, rdma.Finished(2, "retry counter exceeded")) == []
    reader = reader_with_offer()
    assert rdma.Refuse(2, "the owner of the memory is gone") in [
        *reader.step(0.0, rdma.Want(2, B, [RANGE])), *reader.step(0.0, Lost(B)),
    ]  # fmt: skip


def test_offers_are_for_readers_that_have_asked_and_few_enough() -> None:
    owner = rdma.Reads()
    assert owner.step(0.0, rdma.Offer(A, RANGE)) == [] and not owner.offers_to(A)
    serve(owner)
    assert owner.offers_to(A)
    for _ in range(rdma.MAX_OFFERS - 1):
        offered(owner)
    assert owner.step(0.0, rdma.Offer(A, RANGE)) == [], "LIM-1"
    (refused,) = owner.step(0.0, Received(A, [wire.RDMA_ASK, -1, 1, [RANGE]]))
    assert refused.message[2] is None, "numbers below zero are the owner's"


def test_a_block_that_cannot_be_offered_is_not() -> None:
    owner = rdma.Reads()
    serve(owner)
    (lend,) = owner.step(0.0, rdma.Offer(A, RANGE))
    assert owner.step(0.0, rdma.Lent(A, lend.lease_id, None, "stale descriptor")) == []
    assert owner.leases(A) == 1


# -- worlds


class Process:
    """One process: its machine, its memory (block -> [generation, uses, its own]), its queue pairs."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.machine = rdma.Reads()
        self.blocks: dict[int, list[int]] = {number: [0, 1, 1] for number in range(1, 5)}
        self.leases: dict[tuple[bytes, int], list[int]] = {}
        self.responders: set[tuple[bytes, int]] = set()
        self.readers: set[tuple[bytes, int]] = set()
        self.idle: list[int] = []  # blocks that nothing but offers keeps
        self.alive = True

    def offers(self, number: int) -> list[tuple[bytes, int]]:
        """Leases of a block that nobody asked for."""
        return [key for key, numbers in self.leases.items() if key[1] < 0 and number in numbers]


class World:
    """Processes, their links, and time."""

    def __init__(self, seed: int, broken: bool) -> None:
        self.random = random.Random(seed)
        self.broken = broken
        self.now = 0.0
        self.processes = {bytes([name]) * 28: Process(bytes([name]) * 28) for name in b"abc"}
        self.wires: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.up: dict[tuple[bytes, bytes], bool] = {}  # as each side sees it
        self.running: dict[tuple[bytes, int], dict[str, Any]] = {}
        self.next_read = 1
        self.succeeded = self.failed = self.by_offer = 0
        for one in self.processes:
            for other in self.processes:
                if one != other:
                    self.wires[one, other] = deque()
                    self.up[one, other] = True

    def feed(self, process: Process, event: Any) -> None:
        pending = [event]
        while pending:
            for command in process.machine.step(self.now, pending.pop(0)):
                answer = self.carry_out(process, command)
                if answer is not None:
                    pending.append(answer)

    def carry_out(self, me: Process, command: Any) -> Any:
        if isinstance(command, Send):
            if self.up[me.name, command.peer]:
                self.wires[me.name, command.peer].append(list(command.message))
        elif isinstance(command, rdma.MakeReader):
            if self.random.random() < 0.05:
                return rdma.Failed(command.peer, command.number, True, "no memory")
            me.readers.add((command.peer, command.number))
            return rdma.Made(command.peer, command.number, True, b"r")
        elif isinstance(command, rdma.MakeResponder):
            if self.random.random() < 0.05:
                return rdma.Failed(command.peer, command.number, False, "no memory")
            me.responders.add((command.peer, command.number))
            return rdma.Made(command.peer, command.number, False, b"o")
        elif isinstance(command, rdma.DestroyResponder):
            me.responders.discard((command.peer, command.number))
        elif isinstance(command, rdma.DropReader):
            me.readers.discard((command.peer, command.number))
        elif isinstance(command, rdma.Lend):
            numbers = [one[0] for one in command.ranges]
            if any(number not in me.blocks for number in numbers):
                return rdma.Lent(command.peer, command.lease_id, None, "gone")
            for number in numbers:
                me.blocks[number][1] += 1
            me.leases[command.peer, command.lease_id] = numbers
            places = [[number << 32 | me.blocks[number][0], 1] for number in numbers]
            return rdma.Lent(command.peer, command.lease_id, places, "")
        elif isinstance(command, rdma.EndLease):
            self.end_lease(me, (command.peer, command.lease_id))
        elif isinstance(command, rdma.Start):
            self.by_offer += command.read_id in me.machine._readers[command.peer].taken
            self.running[me.name, command.read_id] = {
                "peer": command.peer, "number": command.number, "places": command.places, "left": 3,
            }  # fmt: skip
        elif isinstance(command, rdma.Refuse) and (me.name, command.read_id) not in self.running:
            self.failed += 1
        return None

    def end_lease(self, owner: Process, key: tuple[bytes, int]) -> None:
        for number in owner.leases.pop(key, ()):
            self.release(owner, number)

    def release(self, owner: Process, number: int) -> None:
        """One use less; at zero the memory is another object's at once."""
        block = owner.blocks[number]
        block[1] -= 1
        if block[1] == 0:
            block[:] = [block[0] + 1, 1, 1]
        elif block[1] == len(owner.offers(number)):
            owner.idle.append(number)

    def withdraw(self, owner: Process) -> None:
        for number in [owner.idle.pop() for _ in owner.idle[:]]:
            for key in owner.offers(number):
                self.feed(owner, rdma.Idle(*key))

    def transfer(self, key: tuple[bytes, int]) -> None:
        """Some packets of one read: the responder must live, and what it reads is what is there."""
        name, read_id = key
        read, me, owner = self.running[key], self.processes[name], self.processes[self.running[key]["peer"]]
        pair_lives = (name, read["number"]) in owner.responders and owner.alive
        if not pair_lives or (owner.name, read["number"]) not in me.readers:
            self.failed += 1
            del self.running[key]
            self.feed(me, rdma.Failed(owner.name, read["number"], True, "retry counter exceeded"))
            self.feed(me, rdma.Finished(read_id, "retry counter exceeded"))
            return
        for place, _ in read["places"]:
            assert owner.blocks[place >> 32][0] == place & 0xFFFFFFFF, "a read saw memory that was reused"
        read["left"] -= 1
        if read["left"] == 0:
            self.succeeded += 1
            del self.running[key]
            self.feed(me, rdma.Finished(read_id, ""))

    def lose(self, one: bytes, other: bytes) -> None:
        """`one` sees the link end; what was under way to it is lost."""
        if self.up[one, other]:
            self.up[one, other] = False
            self.wires[other, one].clear()
            self.feed(self.processes[one], Lost(other))

    def deliver(self) -> bool:
        """One message that is under way, if any."""
        waiting = [key for key, queue in self.wires.items() if queue and self.up[key[1], key[0]]]
        if waiting:
            sender, receiver = self.random.choice(waiting)
            self.feed(self.processes[receiver], Received(sender, self.wires[sender, receiver].popleft()))
        return bool(waiting)

    def come_to_rest(self) -> None:
        """All that is under way arrives and all reads end: no block is kept by offers alone."""
        for one, other in self.wires:
            if not self.up[other, one]:
                self.lose(one, other)
        while self.running or self.deliver() or any(one.idle for one in self.processes.values()):
            if self.running:
                self.transfer(next(iter(self.running)))
            for process in self.processes.values():
                self.withdraw(process)
        for process in self.processes.values():
            for number, (_, uses, _) in process.blocks.items():
                assert uses > len(process.offers(number)), "kept for nobody"

    def act(self) -> None:
        choice = self.random.random
        self.now += choice() * 0.2
        one, other = self.random.sample(list(self.processes), 2)
        me, roll = self.processes[one], choice()
        if roll < 0.45:
            self.deliver()
        elif roll < 0.54 and self.up[one, other]:
            number = self.random.randint(1, 4)
            if me.blocks[number][2]:  # what is offered is in use: a message is to name it
                self.feed(me, rdma.Offer(other, [number, 0, 10, 3]))
        elif roll < 0.56:
            self.withdraw(me)
        elif roll < 0.70 and self.up[one, other]:
            read_id, self.next_read = self.next_read, self.next_read + 1
            ranges = [[self.random.randint(1, 4), 0, 10, 3] for _ in range(self.random.choice((1, 1, 1, 3)))]
            self.feed(me, rdma.Want(read_id, other, ranges))
        elif roll < 0.86 and self.running:
            self.transfer(self.random.choice(list(self.running)))
        elif roll < 0.95:
            number = self.random.randint(1, 4)
            if me.blocks[number][2]:
                me.blocks[number][2] = 0
                self.release(me, number)
            if self.broken and me.leases:  # frees by a timer, and leaves the queue pair alive
                self.end_lease(me, self.random.choice(list(me.leases)))
        elif roll < 0.98:
            self.lose(one, other)
            if choice() < 0.7:
                self.lose(other, one)
        elif roll < 0.985:
            self.feed(me, rdma.DeviceLost("fatal"))
            me.readers.clear()
        elif not self.up[one, other] and not self.up[other, one]:
            self.up[one, other] = self.up[other, one] = True
            self.wires[one, other].clear()
            self.wires[other, one].clear()

    def check(self) -> None:
        for process in self.processes.values():
            for (peer, _), numbers in process.leases.items():
                assert numbers and process.machine.leases(peer)


def run(seed: int, broken: bool = False) -> World:
    world = World(seed, broken)
    for _ in range(1500):
        world.act()
    world.check()
    if not broken:
        world.come_to_rest()
    return world


def test_a_successful_read_saw_one_object_only() -> None:
    worlds = [run(seed) for seed in range(60)]
    assert sum(world.succeeded for world in worlds) > 1000
    assert sum(world.failed for world in worlds) > 100
    assert sum(world.by_offer for world in worlds) > 100


def test_an_owner_that_frees_by_a_timer_is_caught() -> None:
    caught = 0
    for seed in range(60):
        try:
            run(seed, broken=True)
        except AssertionError as error:
            caught += "reused" in str(error)
    assert caught > 5


def test_equal_events_give_equal_commands() -> None:
    assert run(3).succeeded == run(3).succeeded
