"""Results that are made again when the node they lay on is gone: their calls, kept by their owner.

A result in blocks of another node is lost with that node.  While somebody refers to it, and its call may
be retried, its owner keeps the call: function, packed arguments, options.  When the hub says that the
node is gone, the owner sends the call again, at once, and the entry is pending until it is answered: who
waits, borrows or needs it as an argument waits as for any other (CALL-1 holds for each time it is sent,
and each costs one of the call's retries).

What a kept call needs: an argument that can itself be made again is only *known* to it (`Record.needs`),
not counted, so its memory is freed with its last ref, and it is made again first where it must be.  All
other arguments stay counted, as nothing could bring them back.

Only calls whose results lie in blocks of another node are looked at here: small results and those of this
node's workers live and die with this process, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spoke.core import Peer
from spoke.core.calls import Call, CallTable
from spoke.core.refs import PENDING, SYSTEM, VALUE, Entry, RefTable, lies_on

SPEC_BYTES: Final = 1500  # what a kept call takes besides the bytes of its arguments
ID_BYTES: Final = 24  # of a call, at the start of the ids of its returns
HANDLE_SUFFIX: Final = b"\xff" * 12  # of what is counted for the handles of an actor

NO_RETRIES: Final = "its task was submitted with max_retries=0, so it may not run again"
NO_TASK_RETRIES: Final = "it was returned by an actor whose calls may not run again (max_task_retries=0)"
USED_UP: Final = "its call has used up its retries"
EVICTED: Final = "the call that made it was forgotten, to bound memory (SPOKE_MAX_LINEAGE_BYTES)"
FAILED: Final = "its call has failed since"
FEWER: Final = "its generator did not yield it when it ran again"
NO_CALL: Final = "no call of its owner returned it"

_SPENT: Final = Entry(b"", None)  # in the place of a return that needs no value any more
_SPENT.status = VALUE


class Record:
    """How the results of one call came about."""

    __slots__ = (
        "again", "bytes", "call", "call_id", "dependents", "known", "live", "needs", "pins", "running",
        "why_not",
    )  # fmt: skip

    def __init__(self, call_id: bytes) -> None:
        self.call_id = call_id
        self.call: Call | None = None  # None: it is not kept, for the reason in `why_not`
        self.why_not = ""
        self.live: dict[bytes, Entry] = {}  # its returns that could be lost and are in use
        self.dependents = 0  # kept calls that would need a return of this one
        self.needs: list[Record] = []  # whose dependents this is one of
        self.known: list[Entry] = []  # arguments that those returned, and handles: not counted
        self.pins: list[Entry] = []  # arguments that are counted for it
        self.running = False
        self.again = False  # of a generator that runs: an item was lost that this run may have passed
        self.bytes = 0

    @property
    def unused(self) -> bool:
        return not (self.live or self.dependents or self.running)


class Lineage:
    """The kept calls of one process.  Not thread safe: the shell holds its lock.

    Args:
        node_id: of this process; what lies here cannot be lost while it lives.
        encode_error: (class name, text) -> value of a SYSTEM error.
        max_bytes: of all kept calls together; the oldest are forgotten beyond.
    """

    def __init__(
        self,
        refs: RefTable,
        calls: CallTable,
        node_id: bytes,
        encode_error: Callable[[str, str], list[Any]],
        max_bytes: int,
    ) -> None:
        self.refs = refs
        self.calls = calls
        self.node_id = node_id
        self.encode_error = encode_error
        self.max_bytes = max_bytes
        self.records: dict[bytes, Record] = {}
        self.kept: dict[bytes, Record] = {}  # those with a call that does not run, the oldest first
        self.bytes = 0  # of those
        # Shell hooks: whether the blocks of an entry were brought to this process, and to forget them.
        self.has_copy: Callable[[Entry], bool] = lambda entry: False
        self.forget_copy: Callable[[Entry], None] = lambda entry: None

    # -- keeping

    def answered(self, call: Call) -> bool:
        """A call has its value.  Whether it is kept: then its pins are taken over, else they can go."""
        self.calls.recomputing.pop(call.id, None)
        record = self.records.get(call.id)
        if call.num_returns < 0:
            if record is None:
                return False
        else:
            live = {entry.id: entry for entry in call.entries if self._could_be_lost(entry)}
            if record is None:
                if not live:
                    return False
                record = self.records[call.id] = Record(call.id)
                call.entries = [entry if entry.id in live else _SPENT for entry in call.entries]
            record.live = live
        record.running = False
        record.call = call
        missing = [entry for entry in record.live.values() if entry.status == PENDING]
        if missing and not (record.again and call.retries_left):
            for entry in missing:
                self._fail(record, entry, SYSTEM, self._error(entry.id, USED_UP if record.again else FEWER))
            missing = []
        if not call.retries_left:
            record.call = None
            record.why_not = USED_UP if call.attempt else NO_RETRIES
            if type(call.key) is bytes and not call.attempt:
                record.why_not = NO_TASK_RETRIES
        if record.unused:
            del self.records[call.id]
            return False
        if record.call is None:
            return False
        self._take_pins(record, call)
        if missing:
            self._send_again([record])
        return True

    def yielded(self, call: Call, entry: Entry) -> None:
        """An item of a generator is there, for the first time or again."""
        record = self.records.get(call.id)
        if not self._could_be_lost(entry):
            if record is not None:
                record.live.pop(entry.id, None)
            return
        if record is None:
            record = self.records[call.id] = Record(call.id)
            record.call = call
            record.running = True
        record.live[entry.id] = entry

    def lost_item(self, item_id: bytes) -> Entry | None:
        """The entry of an item that was lost and is awaited again."""
        record = self.records.get(item_id[:ID_BYTES])
        entry = record.live.get(item_id) if record is not None else None
        return entry if entry is not None and entry.status == PENDING else None

    def failed(self, call: Call, status: int, value: list[Any]) -> None:
        """A call has failed that had results before; those of its returns that are awaited are resolved."""
        self.calls.recomputing.pop(call.id, None)
        record = self.records.get(call.id)
        if record is None:
            return
        for entry in [entry for entry in record.live.values() if entry.status == PENDING]:
            self._fail(record, entry, status, value)
        record.live = {key: entry for key, entry in record.live.items() if self._could_be_lost(entry)}
        record.running = False
        record.call, record.why_not = None, FAILED
        if record.unused:
            del self.records[call.id]

    def _fail(self, record: Record, entry: Entry, status: int, value: list[Any]) -> None:
        del record.live[entry.id]
        self.refs.resolve(entry, status, value)

    def _could_be_lost(self, entry: Entry) -> bool:
        """Whether this is a value in use with blocks on another node."""
        return (
            entry.status == VALUE
            and any(type(part) is not bytes and part[0] != self.node_id for part in entry.value or ())
            and self.refs.entries.get(entry.id) is entry
        )

    def _take_pins(self, record: Record, call: Call) -> None:
        pins, call.pins = call.pins, None
        call.stream = None  # it holds refs to the items
        drop = []
        for entry in pins or ():
            source = self.records.get(entry.id[:ID_BYTES]) if entry.owner is None else None
            if source is not None and source.call is not None and source.live.get(entry.id) is entry:
                source.dependents += 1
                record.needs.append(source)
                record.known.append(entry)
                drop.append(entry)
            elif entry.id.endswith(HANDLE_SUFFIX):
                record.known.append(entry)  # a kept call keeps no actor from ending
                drop.append(entry)
            else:
                record.pins.append(entry)
        record.bytes = SPEC_BYTES + sum(len(part) for part in call.args if type(part) is bytes)
        self.bytes += record.bytes
        self.kept[record.call_id] = record
        for entry in drop:
            self.refs.drop(entry)
        while self.bytes > self.max_bytes and self.kept:
            self._evict(next(iter(self.kept.values())))

    def _evict(self, record: Record) -> None:
        self._put_away(record)
        record.call, record.why_not = None, EVICTED
        self._let_go(record)

    def _put_away(self, record: Record) -> None:
        """It is no longer among those whose arguments are kept."""
        if self.kept.pop(record.call_id, None) is not None:
            self.bytes -= record.bytes

    def released(self, entry: Entry) -> None:
        """A result in blocks was freed: its last ref is gone."""
        if self.refs.entries.get(entry.id) is entry:
            return  # and was revived in the same step, before its blocks were given back
        record = self.records.get(entry.id[:ID_BYTES])
        if record is not None and record.live.pop(entry.id, None) is not None:
            entry.value = None
            if record.unused:
                self._drop(record)

    def _drop(self, record: Record) -> None:
        del self.records[record.call_id]
        self._put_away(record)
        self._let_go(record)

    def _let_go(self, record: Record) -> None:
        """Neither it nor what is only there for it needs arguments any more."""
        doubtful = [record]
        while doubtful:  # a loop, not recursion: chains of calls can be long
            record = doubtful.pop()
            pins, record.pins = record.pins, []
            needs, record.needs = record.needs, []
            record.known = []
            for entry in pins:
                self.refs.drop(entry)
            for need in needs:
                need.dependents -= 1
                if need.unused and self.records.pop(need.call_id, None) is not None:
                    self._put_away(need)
                    doubtful.append(need)

    def clear(self) -> None:
        """The end: nothing is made again any more."""
        self.records.clear()
        self.kept.clear()
        self.bytes = 0

    # -- making again

    def node_lost(self, node_id: bytes) -> None:
        """A node is gone for good, and what lay there: make again, fail by name, or ask the owner."""
        if node_id in self.refs.gone:
            return
        self.refs.note_gone(node_id)
        self._lose(
            [
                entry
                for entry in self.refs.entries.values()
                if entry.status == VALUE and lies_on(entry.value, node_id) and not self.has_copy(entry)
            ]
        )

    def on_lost(self, peer: Peer, object_id: bytes, node_id: bytes, freed: list[Any]) -> None:
        """LOST: a borrower knows that the node is gone, perhaps before this process does."""
        entry = self.refs.entries.get(object_id)
        own = entry is not None and entry.owner is None and entry.status == VALUE
        if entry is not None and own and lies_on(entry.value, node_id):
            why_not = self._why_not(entry)
            if why_not and self.has_copy(entry):  # which this process can go on using
                self.refs.answer_lost(peer, object_id, self._error(entry.id, why_not))
                return
            self._lose([entry])
        self.refs.on_fetch(peer, object_id, freed)

    def _why_not(self, entry: Entry) -> str:
        """Why an own object cannot be made again; "" where it can."""
        record = self.records.get(entry.id[:ID_BYTES])
        if record is None:
            return NO_CALL
        if record.call is None:
            return record.why_not
        return "" if record.running or record.call.retries_left else USED_UP

    def _error(self, object_id: bytes, why_not: str) -> list[Any]:
        text = (
            f"The object {object_id.hex()} is lost, as the node that held it is gone, and cannot be made "
            f"again: {why_not}."
        )
        return self.encode_error("ObjectReconstructionFailedError", text)

    def _lose(self, lost: list[Entry]) -> None:
        refs = self.refs
        again: dict[bytes, Record] = {}
        pending: dict[bytes, Entry] = {}
        contained: list[Entry] = []
        for entry in lost:
            self.forget_copy(entry)
            refs.forfeited.pop(entry.id, None)
            contained.extend(entry.contains or ())
            entry.contains = None
            if entry.owner is not None:
                entry.call = None  # the owner is asked by the next who needs it
            else:
                record = self.records.get(entry.id[:ID_BYTES])
                why_not = self._why_not(entry)
                if why_not:
                    if record is not None:
                        record.live.pop(entry.id, None)
                        if record.unused:
                            self._drop(record)
                    entry.value, entry.status = self._error(entry.id, why_not), SYSTEM
                    continue
                assert record is not None
                entry.call = record.call
                record.again = record.running
                again[record.call_id] = record
            entry.status = PENDING  # its value stays, for whoever just reads it and finds it gone
            pending[entry.id] = entry
        self.calls.hold(pending)
        self._send_again(list(again.values()))
        for inner in contained:
            refs.drop(inner)

    def _send_again(self, needed: list[Record]) -> None:
        """Send these calls, and first those that what they need comes from."""
        ready = []
        while needed:
            record = needed.pop()
            call = record.call
            if record.running or call is None:
                continue
            record.running, record.again = True, False
            ready.append(call)
            self._put_away(record)
            call.pins, record.pins = record.pins, []
            for entry in record.known:
                if self.refs.entries.get(entry.id) is entry:
                    entry.local += 1
                elif entry.id.endswith(HANDLE_SUFFIX):
                    continue  # the actor has ended: what calls it will see that
                else:
                    self._revive(entry, needed)
                call.pins.append(entry)
            self._let_go(record)
            call.retries_left -= call.retries_left > 0
            call.attempt += 1
        for call in reversed(ready):
            self.calls.again(call)

    def _revive(self, entry: Entry, needed: list[Record]) -> None:
        """An argument that was freed meanwhile is needed once more, counted for the call that needs it."""
        entry.local = 1
        self.refs.entries[entry.id] = entry
        why_not = self._why_not(entry)
        if why_not:
            entry.value, entry.status = self._error(entry.id, why_not), SYSTEM
            return
        record = self.records[entry.id[:ID_BYTES]]
        entry.status, entry.call = PENDING, record.call
        record.live[entry.id] = entry
        record.again = record.running
        needed.append(record)

    def validate(self) -> None:
        """Assert the cross-links; for tests."""
        for call_id, record in self.records.items():
            assert record.call_id == call_id and not record.unused, f"{record.live} is kept for nobody"
            for need in record.needs:
                assert self.records.get(need.call_id) is need and need.dependents > 0
            for entry in record.live.values():
                assert self.refs.entries.get(entry.id) is entry, f"{entry} was freed and is still kept"
            assert not record.running or call_id in self.calls.calls, f"{record.call} is over"
        assert self.bytes == sum(record.bytes for record in self.kept.values())
