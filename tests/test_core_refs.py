"""References: who holds what (spoke/core/refs.py), and what travels inside of calls and replies.

The second half drives `spoke.replies` and `spoke.incoming` with a client that has tables only.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from spoke import codec, wire
from spoke.core.calls import Call, CallTable
from spoke.core.lineage import Lineage
from spoke.core.refs import EXCEPTION, PENDING, SYSTEM, VALUE, Entry, RefTable
from spoke.errors import ObjectLostError
from spoke.incoming import CallSource, open_args
from spoke.links import Link
from spoke.replies import Replies
from spoke.streams import Stream
from spoke.submit import ITEM_SUFFIX, RETAINED_SUFFIX, Creation, Submitter, return_id
from spoke.transport.router import Router
from spoke.values import PackedArgs, Values

ME, PEER, OWNER = b"m" * 28, b"p" * 28, b"o" * 28
HERE = [ME, b"n" * 28, "host", 1]
THERE = [PEER, b"n" * 28, "host", 2]
ELSEWHERE = [OWNER, b"n" * 28, "host", 3]
OBJECT, INNER = b"x" * 28, b"i" * 28
LOST = [b"lost"]


def sent(refs: RefTable) -> list[tuple[Any, ...]]:
    """``(peer, kind, fields ...)`` of what the table wants to say; taken."""
    refs.validate()
    found = [(send.peer, *send.message) for send in refs.out]
    refs.out = []
    return found


def put(refs: RefTable, object_id: bytes, contains: list[Entry] | None = None) -> Entry:
    entry = refs.own(object_id)
    entry.local = 1
    refs.resolve(entry, VALUE, [b"value"], contains)
    return entry


# -- the table


class Watched(Entry):
    """Fails where another thread could see that a value is there before it is."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        assert name != "status" or value == PENDING or self.value is not None, "resolved without a value"
        super().__setattr__(name, value)


def test_whoever_sees_that_an_object_is_resolved_finds_its_value() -> None:
    """`get` looks at the status without a lock."""
    refs = RefTable()
    refs.entries[OBJECT] = entry = Watched(OBJECT, None)
    entry.local = 1
    refs.resolve(entry, VALUE, [b"value"])
    assert (entry.status, entry.value) == (VALUE, [b"value"])


def test_an_object_is_freed_with_its_last_use() -> None:
    refs = RefTable()
    entry = put(refs, OBJECT)
    entry.local += 1
    refs.drop(entry)
    assert not refs.freed
    refs.drop(entry)
    assert list(refs.freed) == [entry] and not refs.entries


def test_a_borrower_keeps_it_and_its_death_returns_it() -> None:
    """REF-1, REF-2."""
    refs = RefTable()
    entry = put(refs, OBJECT)
    refs.on_borrow(PEER, [OBJECT])
    assert sent(refs) == [(PEER, wire.HELD, [OBJECT])]
    refs.drop(entry)
    assert not refs.freed
    refs.on_peer_lost(PEER, LOST)
    assert list(refs.freed) == [entry]


def test_release_ends_a_borrow() -> None:
    refs = RefTable()
    entry = put(refs, OBJECT)
    refs.on_borrow(PEER, [OBJECT])
    refs.drop(entry)
    refs.on_release(PEER, [OBJECT])
    refs.on_release(PEER, [OBJECT])
    assert list(refs.freed) == [entry]


def test_the_source_is_kept_until_the_owner_knows_of_us() -> None:
    refs = RefTable()
    let_go: list[str] = []
    entry = refs.meet(OBJECT, ELSEWHERE, lambda: let_go.append("first"))
    entry.local += 1
    assert sent(refs) == [(OWNER, wire.BORROW, [OBJECT])]
    refs.meet(OBJECT, ELSEWHERE, lambda: let_go.append("second"))
    refs.drop(entry)
    assert not let_go and sent(refs) == []
    refs.on_held(OWNER, [OBJECT])
    assert let_go == ["first", "second"]
    assert sent(refs) == [(OWNER, wire.RELEASE, [OBJECT])] and not refs.entries


def test_a_source_is_let_go_at_once_where_the_owner_knows_already() -> None:
    refs = RefTable()
    refs.meet(OBJECT, ELSEWHERE).local += 1
    refs.on_held(OWNER, [OBJECT])
    let_go: list[str] = []
    refs.meet(OBJECT, ELSEWHERE, lambda: let_go.append("now"))
    assert let_go == ["now"]


def test_the_owners_death_ends_every_wait_and_every_pin() -> None:
    """CALL-3."""
    refs = RefTable()
    let_go: list[str] = []
    entry = refs.meet(OBJECT, ELSEWHERE, lambda: let_go.append("source"))
    entry.local += 1
    refs.on_peer_lost(OWNER, LOST)
    assert (entry.status, entry.value, let_go) == (SYSTEM, LOST, ["source"])
    refs.out = []
    refs.drop(entry)
    assert sent(refs) == [] and not refs.entries, "nobody is left to return it to"


@pytest.mark.parametrize(("part", "status"), [(b"inline", VALUE), ([b"n" * 28, OWNER, 1, 0, 9], SYSTEM)])
def test_MEM_2_blocks_are_not_read_after_their_owner_is_lost(part: Any, status: int) -> None:
    """Where only the link broke, the owner frees them and writes there again."""
    refs = RefTable()
    entry = refs.meet(OBJECT, ELSEWHERE)
    entry.local += 1
    refs.on_value(OWNER, OBJECT, VALUE, [b"body", part])
    refs.on_peer_lost(OWNER, LOST)
    assert entry.status == status


@pytest.mark.parametrize(
    ("part", "kept"), [(b"inline", False), ([ME, b"n" * 28, 1, 64, 99], True)], ids=["inline", "block"]
)
def test_MEM_2_a_lost_borrower_may_still_look_at_blocks(part: Any, kept: bool) -> None:
    """Where only the link broke, it notices later than the owner: their memory is not written again."""
    refs = RefTable()
    entry = refs.own(OBJECT)
    entry.local = 1
    refs.resolve(entry, VALUE, [b"body", part], None)
    refs.on_borrow(PEER, [OBJECT])
    refs.drop(entry)
    refs.on_peer_lost(PEER, LOST)
    assert list(refs.freed) == [entry] and (OBJECT in refs.forfeited) == kept


def test_what_a_value_contains_lives_as_long() -> None:
    refs = RefTable()
    inner = put(refs, INNER)
    outer = put(refs, OBJECT, [inner])
    assert not refs.freed
    refs.drop(outer)
    assert [entry.id for entry in refs.freed] == [OBJECT, INNER]


def test_a_result_that_nobody_wants_is_freed_when_it_comes() -> None:
    refs = RefTable()
    entry = refs.own(OBJECT)
    entry.call = "running"
    entry.local = 1
    refs.drop(entry)
    assert refs.entries and not refs.freed
    refs.resolve(entry, VALUE, [b"value"])
    assert list(refs.freed) == [entry]


def test_a_fetch_is_answered_when_the_value_is_there() -> None:
    refs = RefTable()
    entry = refs.own(OBJECT)
    entry.local = 1
    refs.on_borrow(PEER, [OBJECT])
    refs.on_fetch(PEER, OBJECT, LOST)
    refs.on_fetch(PEER, INNER, LOST)
    assert sent(refs) == [(PEER, wire.HELD, [OBJECT]), (PEER, wire.VALUE, INNER, SYSTEM, LOST)]
    refs.resolve(entry, VALUE, [b"value"])
    assert sent(refs) == [(PEER, wire.VALUE, OBJECT, VALUE, [b"value"])]


def test_equal_events_give_equal_commands() -> None:
    """DET-1."""

    def run() -> list[tuple[Any, ...]]:
        refs = RefTable()
        for index in range(20):
            entry = put(refs, bytes([index]) * 28)
            refs.on_borrow(PEER, [entry.id])
            refs.meet(bytes([100 + index]) * 28, ELSEWHERE)
        refs.on_peer_lost(PEER, LOST)
        refs.on_peer_lost(OWNER, LOST)
        return sent(refs)

    assert run() == run()


# -- refs inside of calls and replies


class Blocks:
    """A store that only notes what is asked of it."""

    def __init__(self) -> None:
        self.lent: list[bytes] = []
        self.released = 0

    def lend(self, peer: bytes, blocks: list[Any]) -> None:
        self.lent.extend([peer] * len(blocks))

    def release(self, block: Any) -> None:
        self.released += 1

    def write(self, body: bytes, buffers: list[Any]) -> tuple[list[Any], list[Any]]:
        return [body], ["block"]


class Tables:
    """The part of a client that replies and arguments use; what it sends is in `said`."""

    def __init__(self) -> None:
        self.process_id, self.address = ME, HERE
        self.lock = threading.Lock()
        self.refs = RefTable()
        self.calls = CallTable(lambda name, text: [name, text])
        self.lineage = Lineage(self.refs, self.calls, b"n" * 28, lambda name, text: [name, text], 1 << 20)
        self.store = Blocks()
        self.router = Router(b"n" * 28, "auto", None, None)  # type: ignore[arg-type]
        self.values = Values(self, self.store, self.router)  # type: ignore[arg-type]
        self.replies = Replies(self)  # type: ignore[arg-type]
        self.links = self
        self.link = Link(1, PEER, None)
        self.by_conn = {1: self.link}
        self.by_peer = {PEER: self.link}
        self.said: list[tuple[Any, ...]] = []
        self.submitter: Any = None
        self.hub: Any = None

    def send(self, link: Link, meta: bytes, payload: Any = None) -> None:
        self.said.append((link.peer, *wire.decode(meta)))

    def tell(self, peer: bytes, *message: Any) -> None:
        self.said.append((peer, *message))

    def release(self, entry: Entry) -> None:
        self.refs.drop(entry)

    def resolve_ref(self, object_id: bytes, owner: Any) -> Entry:
        """As `Client.resolve_ref`: a ref was unpickled, from the source of the moment."""
        entry = self.refs.meet(object_id, owner, codec.context.source.pin(object_id))
        entry.local += 1
        return entry

    def submitted(self, number: int, *pins: Entry) -> Call:
        made = Call(bytes(23) + bytes([number]), 7, b"f", [], 1)
        entry = self.refs.own(return_id(made.id, 0))
        entry.call, entry.local = made, 1
        made.entries = [entry]
        for pin in pins:
            pin.local += 1
        made.pins = list(pins)
        self.calls.calls[made.id] = made
        made.peer = PEER
        return made

    def reply(self, call: Call, status: int, values: Any, retained: Any = None) -> None:
        self.replies.on_reply(self.link, [wire.REPLY, call.id, status, 1, values, retained], b"")

    def held(self, key: bytes) -> bool:
        return self.replies.unpin(PEER, key)


class _Ref:
    """Unpickles as a ref of the client under test."""

    def __init__(self, object_id: bytes, owner: Any) -> None:
        self.object_id, self.owner = object_id, owner

    def __reduce__(self) -> Any:
        return _unpickled, (self.object_id, self.owner)


_client: list[Tables] = []


def _unpickled(object_id: bytes, owner: Any) -> Entry:
    return _client[0].resolve_ref(object_id, owner)


@pytest.fixture
def side() -> Any:
    _client[:] = [Tables()]
    yield _client[0]
    _client.clear()


def test_a_stream_item_is_counted_before_it_resolves(side: Tables) -> None:
    """Else it is freed at once, and its blocks and refs with it."""
    call = side.submitted(1)
    call.stream = Stream(call.id)
    item = [[b"value"], [[INNER, ELSEWHERE]]]
    side.replies.on_stream_item(side.link, [wire.STREAM_ITEM, call.id, 1, VALUE, item], b"")
    entry = side.refs.entries[return_id(call.id, 1)]
    assert entry.local == 1 and not side.refs.freed
    assert side.refs.entries[INNER].local == 1
    side.refs.on_held(OWNER, [INNER])
    assert side.said == [(PEER, wire.HELD, [return_id(call.id, 1) + ITEM_SUFFIX])]


def test_refs_in_a_reply_are_acknowledged_when_their_owners_know(side: Tables) -> None:
    call = side.submitted(1)
    side.reply(call, VALUE, [[[b"value"], [[INNER, ELSEWHERE], [OBJECT, THERE]]]])
    side.refs.on_held(OWNER, [INNER])
    assert side.said == []
    side.refs.on_held(PEER, [OBJECT])
    assert side.said == [(PEER, wire.HELD, [call.id])]


def test_values_that_come_too_late_are_given_back(side: Tables) -> None:
    call = side.submitted(1)
    side.calls.fail_named(call, "WorkerCrashedError", "")
    side.reply(call, VALUE, [[[b"value"], [[INNER, ELSEWHERE]]]])
    assert side.said == [(PEER, wire.HELD, [call.id])]
    assert INNER not in side.refs.entries


def test_REF_1_a_late_reply_frees_nothing_that_the_next_worker_reads(side: Tables) -> None:
    argument = put(side.refs, OBJECT)
    call = side.submitted(1, argument)
    side.refs.drop(argument)
    call.peer = OWNER  # sent again to another worker; then the first, given up, answers after all
    side.reply(call, VALUE, [[[b"value"], None]], [OBJECT])
    assert call.entries[0].status == PENDING and argument.local == 2
    assert side.held(call.id + RETAINED_SUFFIX), "the first goes on using it, and says when it is done"
    assert argument.local == 1


def test_arguments_in_use_are_kept_until_the_callee_says_held(side: Tables) -> None:
    argument = put(side.refs, OBJECT)
    call = side.submitted(1, argument)
    side.refs.drop(argument)
    side.reply(call, VALUE, [[[b"value"], None]], [OBJECT])
    assert argument.local == 1
    assert side.held(call.id + RETAINED_SUFFIX)
    assert OBJECT not in side.refs.entries


def test_each_attempt_keeps_its_arguments_by_itself(side: Tables) -> None:
    """The first attempt's worker may go on using an argument after the second one's answered."""
    argument = put(side.refs, OBJECT)
    call = side.submitted(1, argument)
    side.refs.drop(argument)
    call.retry_on, call.retries_left = (lambda error: True), 1
    side.calls.tasks.task_class(7, {})
    side.reply(call, EXCEPTION, [[[codec.dumps(ValueError())[0]], None]], [OBJECT])
    assert call.entries[0].status == PENDING
    call.peer = PEER
    side.calls.tasks.classes[7].queue.clear()
    side.reply(call, VALUE, [[[b"value"], None]])
    assert argument.local == 1
    assert side.held(call.id + RETAINED_SUFFIX)
    assert OBJECT not in side.refs.entries


def test_two_calls_that_keep_one_argument_count_twice(side: Tables) -> None:
    argument = put(side.refs, OBJECT)
    calls = [side.submitted(number, argument) for number in (1, 2)]
    side.refs.drop(argument)
    for call in calls:
        side.reply(call, VALUE, [[[b"value"], None]], [OBJECT])
    assert side.held(calls[0].id + RETAINED_SUFFIX)
    assert argument.local == 1
    side.replies.peer_lost(PEER)
    assert OBJECT not in side.refs.entries


def test_a_given_up_call_may_still_read_its_arguments(side: Tables) -> None:
    """The hub's word can be faster than the end of the callee: its memory is not reused before."""
    argument = put(side.refs, OBJECT)
    first, second = side.submitted(1, argument), side.submitted(2, argument)
    side.refs.drop(argument)
    for call in (first, second):
        call.left, call.peer = PEER, None
        side.replies.resolve_all(call, SYSTEM, LOST)
        del side.calls.calls[call.id]
    assert argument.local == 2
    side.reply(first, VALUE, [[[b"value"], None]])  # it answers after all
    assert argument.local == 1
    side.replies.peer_lost(PEER)
    assert OBJECT not in side.refs.entries


def test_a_resolved_call_keeps_nothing_alive(side: Tables) -> None:
    call = side.submitted(1)
    call.slots, call.stream = [(0, put(side.refs, OBJECT))], None
    side.replies.resolve_all(call, SYSTEM, LOST)
    assert call.slots is None and call.pins is None


def test_a_call_that_was_answered_meanwhile_is_not_sent_again(side: Tables) -> None:
    """One batch can hold the loss of a lease and, behind it, the last reply of its worker."""
    submitter = Submitter(side)  # type: ignore[arg-type]
    moved, answered = side.submitted(1), side.submitted(2)
    moved.peer = OWNER
    side.reply(answered, VALUE, [[[b"value"], None]])
    for call in (moved, answered):
        submitter.send(side.link, call)
    assert side.said == []


def test_MEM_2_blocks_of_a_dead_callers_arguments_are_not_read(side: Tables) -> None:
    """A call can wait in an actor's queue for longer than its caller lives, which kept its arguments."""
    source = CallSource(side, side.link, bytes(24))  # type: ignore[arg-type]
    source.lease(OBJECT, HERE)
    del side.by_conn[1]
    with pytest.raises(ObjectLostError, match="caller"):
        source.lease(OBJECT, HERE)


def test_an_argument_whose_owner_was_lost_in_the_queue_fails_the_call(side: Tables) -> None:
    argument = put(side.refs, OBJECT)
    call = side.submitted(1, argument)
    call.slots = [(0, argument)]
    argument.status, argument.value = SYSTEM, LOST
    Submitter(side).send(side.link, call)  # type: ignore[arg-type]
    [(what, failed, status, [body])] = side.calls.out
    assert side.said == [] and (what, failed, status) == ("done", call, EXCEPTION) and b"lost" in body


def test_an_actor_whose_argument_was_lost_while_others_were_awaited_fails(side: Tables) -> None:
    """The hub never hears of it: the constructor would be called with an error for a value."""
    side.submitter = Submitter(side)  # type: ignore[arg-type]
    side.hub = side
    side.calls.actors.on_death = lambda channel: (SYSTEM, [channel.payload])
    lost, late = put(side.refs, OBJECT), put(side.refs, INNER)
    packed = PackedArgs()
    packed.slots = [(0, lost), (1, late)]
    actor_id = b"a" * 16
    side.calls.actors.channel(actor_id, watch=False)
    creation = Creation(side, actor_id, {}, b"class", packed)  # type: ignore[arg-type]
    creation.waiting = 1  # on `late`
    lost.status, lost.value = SYSTEM, LOST
    creation.resolved(late)
    assert side.said == [] and side.calls.actors.channels[actor_id].state == "DEAD"
    call = Call(bytes(24), actor_id, "method", [], 1)
    side.calls.submit(call)
    [(what, failed, status, [body])] = side.calls.out
    assert (what, failed, status) == ("done", call, SYSTEM) and b"lost" in body


def test_nothing_is_handed_over_a_link_that_is_gone(side: Tables) -> None:
    """Its end was noticed before: nobody would ever give these back."""
    inner = put(side.refs, INNER)
    side.replies.hand_over(side.link, b"call", [inner], ["block"])  # type: ignore[list-item]
    assert side.store.lent == [PEER] and not side.refs.freed
    assert side.held(b"call") and list(side.refs.freed) == [inner]
    other = put(side.refs, OBJECT)
    side.by_conn.clear()
    side.replies.hand_over(side.link, b"call", [other], ["block"])  # type: ignore[list-item]
    assert not side.held(b"call") and OBJECT not in side.refs.entries
    assert side.store.lent == [PEER] and side.store.released == 1


def test_a_process_lends_itself_nothing(side: Tables) -> None:
    """What it returns to itself it gives back as its own."""
    mine = side.by_conn[1] = Link(1, ME, None)
    side.replies.hand_over(mine, b"call", None, ["block"])  # type: ignore[list-item]
    assert side.store.lent == []


def _opened(side: Tables, extra: list[Any]) -> tuple[CallSource, Any]:
    source = CallSource(side, side.link, bytes(24))  # type: ignore[arg-type]
    args, _ = open_args(side, source, bytes(24), extra)  # type: ignore[arg-type]
    return source, args


def test_a_ref_inside_an_argument_keeps_the_argument(side: Tables) -> None:
    """The caller knows the object that it passed, not the refs in that object's value."""
    slot = [0, OBJECT, THERE, [codec.dumps(_Ref(INNER, ELSEWHERE))[0]]]
    source, args = _opened(side, [[codec.dumps((None,))[0]], [slot], None])
    assert args[0] is side.refs.entries[INNER]
    assert source.finish() == [OBJECT]
    side.refs.on_held(OWNER, [INNER])
    assert side.said == [(PEER, wire.HELD, [bytes(24) + RETAINED_SUFFIX])]


def test_one_held_follows_for_all_arguments(side: Tables) -> None:
    refs = (_Ref(INNER, ELSEWHERE), _Ref(OBJECT, THERE))
    source, _ = _opened(side, [[codec.dumps(refs)[0]], None, None])
    assert not source.empty
    assert source.finish() == [INNER, OBJECT]
    side.refs.on_held(OWNER, [INNER])
    assert side.said == []
    side.refs.on_held(PEER, [OBJECT])
    assert side.said == [(PEER, wire.HELD, [bytes(24) + RETAINED_SUFFIX])]


def test_confirmed_in_time_needs_no_held(side: Tables) -> None:
    source, _ = _opened(side, [[codec.dumps((_Ref(INNER, ELSEWHERE),))[0]], None, None])
    side.refs.on_held(OWNER, [INNER])
    assert source.empty and source.finish() is None and side.said == []


def test_an_actor_is_ready_when_the_owners_know_what_it_keeps(side: Tables) -> None:
    """Its creator lets go of the constructor's arguments then."""
    source = CallSource(side, None, bytes(24))  # type: ignore[arg-type]
    open_args(side, source, bytes(24), [[codec.dumps((_Ref(INNER, ELSEWHERE),))[0]], None, None])  # type: ignore[arg-type]
    ready: list[bool] = []
    source.then(lambda: ready.append(True))
    assert not ready
    side.refs.on_held(OWNER, [INNER])
    assert ready == [True]


def test_values_packed_before_a_bad_one_are_released(side: Tables) -> None:
    with pytest.raises(TypeError):
        side.values.pack_all([bytes(1 << 20), threading.Lock()])
    assert side.store.released == 1


def test_messages_about_what_was_disowned_name_nothing() -> None:
    table = RefTable()
    entry = table.own(b"o" * 28)
    entry.local = 1
    table.resolve(entry, VALUE, [b"value"])
    table.on_borrow(b"peer", [entry.id])
    table.disown()
    table.on_release(b"peer", [entry.id])
    table.on_peer_lost(b"peer", [b"gone"])
    table.drop(entry)
    assert not table.entries and not table.lent_to
    with pytest.raises(ValueError, match="owner is unknown"):
        _ = entry.owner
