"""The rules of core/lineage.py on tables alone: no sockets, no processes."""

from __future__ import annotations

from typing import Any

from spoke import wire
from spoke.core import Send
from spoke.core.calls import Call, CallTable
from spoke.core.lineage import SPEC_BYTES, Lineage
from spoke.core.refs import PENDING, SYSTEM, VALUE, Entry, RefTable

ME, PEER, OTHER = b"m" * 28, b"p" * 28, b"o" * 28
HERE, NODE, NEXT = b"n" * 28, b"x" * 28, b"y" * 28
ACTOR = b"a" * 16


class Owner:
    """A process's tables, and a worker that answers when it is told to."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.refs = RefTable()
        self.calls = CallTable(lambda name, text: [name, text])
        self.calls.fetch = self.refs.fetch
        self.lineage = Lineage(self.refs, self.calls, HERE, lambda name, text: [name, text], max_bytes)
        self.calls.tasks.task_class(1, {})
        self.count = 0

    def submit(self, *args: Entry, key: Any = 1, retries: int = 3, returns: int = 1) -> list[Entry]:
        self.count += 1
        call = Call(self.count.to_bytes(24, "big"), key, "f", [], returns, retries_left=retries)
        call.slots = [(index, entry) for index, entry in enumerate(args)] or None
        call.pins = list(args)
        for entry in args:
            entry.local += 1
        for index in range(returns):
            entry = self.refs.own(call.id + index.to_bytes(4, "little"))
            entry.call, entry.local = call, 1
            call.entries.append(entry)
        self.calls.submit(call)
        return call.entries[:]

    def answer(self, entries: list[Entry], node: bytes) -> None:
        """The call of these has run on that node."""
        call = entries[0].call
        assert call.waiting == 0
        if type(call.key) is bytes:
            self.calls.actors.channels[call.key].inflight.pop(call.id, None)
        else:
            group = self.calls.tasks.classes[call.key]
            group.queue.remove(call)
        del self.calls.calls[call.id]
        for entry in call.entries:
            if entry.status == PENDING:
                self.refs.resolve(entry, VALUE, block(node))
        if not self.lineage.answered(call):
            for pin in call.pins or ():
                self.refs.drop(pin)
            call.pins = None
        self.settle()

    def settle(self) -> None:
        for what, *rest in self.calls.out:
            if what == "done":
                self.fail(*rest)
        while self.refs.freed:
            self.lineage.released(self.refs.freed.popleft())
        self.lineage.validate()
        self.calls.validate()

    def fail(self, call: Call, status: int, value: list[Any]) -> None:
        for entry in call.entries:
            if entry.status == PENDING:
                self.refs.resolve(entry, status, value)
        self.lineage.failed(call, status, value)
        pins, call.pins = call.pins, None
        for pin in pins or ():
            self.refs.drop(pin)

    def drop(self, *entries: Entry) -> None:
        for entry in entries:
            self.refs.drop(entry)
        self.settle()

    def lose(self, node: bytes) -> None:
        self.lineage.node_lost(node)
        self.settle()

    @property
    def queued(self) -> list[Call]:
        return list(self.calls.tasks.classes[1].queue)


def block(node: bytes) -> list[Any]:
    return [[node, PEER, 1, 4096, 200_000, 7, 204_096]]


def made(owner: Owner, *args: Entry, **options: Any) -> Entry:
    entries = owner.submit(*args, **options)
    owner.answer(entries, NODE)
    return entries[0]


def test_a_lost_result_is_pending_and_its_call_is_queued_once() -> None:
    owner = Owner()
    entry = made(owner)
    owner.lose(NODE)
    assert entry.status == PENDING and [call.id for call in owner.queued] == [entry.id[:24]]
    owner.lose(NODE)
    assert len(owner.queued) == 1
    owner.answer([entry], NEXT)
    assert entry.status == VALUE and entry.value == block(NEXT)
    owner.drop(entry)
    assert not owner.lineage.records and not owner.refs.entries


def test_arguments_that_can_be_made_again_are_not_counted() -> None:
    owner = Owner()
    first = made(owner)
    last = first
    for _ in range(3):
        before, last = last, made(owner, last)
        owner.drop(before)
    assert list(owner.refs.entries) == [last.id]
    assert len(owner.lineage.kept) == 4
    owner.lose(NODE)
    assert len(owner.calls.calls) == 4 and [call.id for call in owner.queued] == [first.id[:24]]
    for _ in range(4):
        (call,) = owner.queued
        owner.answer(call.entries, NEXT)
    assert last.status == VALUE and list(owner.refs.entries) == [last.id]
    owner.drop(last)
    assert not owner.lineage.records and not owner.refs.entries


def test_an_argument_may_be_freed_and_needed_again_in_one_step() -> None:
    """Its release is carried out after it was revived, and must not forget that it is made again."""
    owner = Owner()
    first = made(owner)
    last = made(owner, first)
    owner.refs.drop(first)  # not settled: its blocks are still to be given back
    owner.lose(NODE)
    assert first.status == last.status == PENDING
    assert owner.lineage.lost_item(first.id) is first
    (call,) = owner.queued
    owner.calls.fail(call, SYSTEM, ["WorkerCrashedError", "its worker died"])
    owner.settle()
    assert first.status == last.status == SYSTEM


def test_other_arguments_stay_counted() -> None:
    owner = Owner()
    put = owner.refs.own(b"p" * 28)
    put.status, put.value, put.local = VALUE, block(HERE), 1
    entry = made(owner, put)
    owner.drop(put)
    assert put.id in owner.refs.entries
    owner.drop(entry)
    assert put.id not in owner.refs.entries


def test_the_oldest_is_forgotten_first() -> None:
    owner = Owner(max_bytes=2 * SPEC_BYTES)
    entries = [made(owner) for _ in range(3)]
    assert list(owner.lineage.kept) == [entry.id[:24] for entry in entries[1:]]
    owner.lose(NODE)
    assert [entry.status for entry in entries] == [SYSTEM, PENDING, PENDING]
    assert entries[0].value is not None and "SPOKE_MAX_LINEAGE_BYTES" in entries[0].value[1]


def test_a_forgotten_call_takes_those_that_need_it_along() -> None:
    owner = Owner()
    first = made(owner)
    last = made(owner, first)
    owner.drop(first)
    owner.lineage._evict(owner.lineage.records[first.id[:24]])
    owner.lose(NODE)
    assert last.status == SYSTEM and last.value is not None and "SPOKE_MAX_LINEAGE_BYTES" in last.value[1]
    assert not owner.calls.calls and list(owner.refs.entries) == [last.id]
    owner.drop(last)
    assert not owner.lineage.records


def test_a_borrower_may_know_first() -> None:
    owner = Owner()
    entry = made(owner)
    owner.refs.on_borrow(OTHER, [entry.id])
    owner.refs.out.clear()
    owner.lineage.on_lost(OTHER, entry.id, NODE, ["freed"])
    assert entry.status == PENDING and not owner.refs.out
    owner.lose(NODE)  # the hub's word comes later
    assert len(owner.queued) == 1
    owner.answer([entry], NEXT)
    assert owner.refs.out == [Send(OTHER, (wire.VALUE, entry.id, VALUE, block(NEXT)))]


def test_a_borrower_does_not_take_an_old_answer() -> None:
    refs = RefTable()
    calls = CallTable(lambda name, text: [name, text])
    lineage = Lineage(refs, calls, HERE, lambda name, text: [name, text], 1)
    entry = refs.meet(b"e" * 28, [OTHER, NODE, "host", 1])
    entry.local = 1
    refs.fetch(entry)
    lineage.node_lost(NODE)
    refs.out.clear()
    refs.on_value(OTHER, entry.id, VALUE, block(NODE))
    assert entry.status == PENDING and refs.out == [Send(OTHER, (wire.LOST, entry.id, NODE))]
    refs.on_value(OTHER, entry.id, VALUE, block(NEXT))
    assert entry.status == VALUE
    lineage.node_lost(NEXT)  # once it has it, it asks when somebody needs it
    assert entry.status == PENDING
    refs.out.clear()
    refs.fetch(entry)
    assert refs.out == [Send(OTHER, (wire.LOST, entry.id, NEXT))]


def test_queued_calls_wait_for_an_argument_that_was_lost() -> None:
    owner = Owner()
    entry = made(owner)
    (later,) = owner.submit(entry)
    assert len(owner.queued) == 1
    owner.lose(NODE)
    assert [call.id for call in owner.queued] == [entry.id[:24]] and later.call.waiting == 1
    owner.answer([entry], NEXT)
    assert [call.id for call in owner.queued] == [later.id[:24]]


def test_an_actors_lost_result_does_not_wait_behind_who_needs_it() -> None:
    owner = Owner()
    actors = owner.calls.actors
    actors.on_state(ACTOR, "ALIVE", 0, [PEER, NODE, "host", 1], {}, b"")
    entries = owner.submit(key=ACTOR)
    owner.answer(entries, NODE)
    actors.on_state(ACTOR, "RESTARTING", 0, None, {}, b"")
    (needs,) = owner.submit(entries[0], key=ACTOR)
    owner.lose(NODE)
    owner.calls.out.clear()
    actors.on_state(ACTOR, "ALIVE", 1, [OTHER, NEXT, "host", 1], {}, b"")
    assert [order[3].id for order in owner.calls.out if order[0] == "send"] == [entries[0].id[:24]]
    owner.answer(entries, NEXT)
    assert [order[3].id for order in owner.calls.out if order[0] == "send"][1:] == [needs.id[:24]]


def test_a_call_whose_retries_are_used_up_says_so() -> None:
    owner = Owner()
    entry = made(owner, retries=1)
    owner.lose(NODE)
    owner.answer([entry], NEXT)
    owner.lose(NEXT)
    assert entry.status == SYSTEM and entry.value is not None and "used up" in entry.value[1]


def test_a_copy_that_is_here_is_used_until_another_needs_the_object() -> None:
    owner = Owner()
    entry, fixed = made(owner), made(owner, retries=0)
    owner.lineage.has_copy = lambda entry: True
    owner.lose(NODE)
    assert entry.status == fixed.status == VALUE
    owner.lineage.on_lost(OTHER, entry.id, NODE, ["freed"])
    owner.lineage.on_lost(OTHER, fixed.id, NODE, ["freed"])
    assert entry.status == PENDING and fixed.status == VALUE
    ((_, message),) = [(send.peer, send.message) for send in owner.refs.out if isinstance(send, Send)]
    assert message[:3] == (wire.VALUE, fixed.id, SYSTEM)
