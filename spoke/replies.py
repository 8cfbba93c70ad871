"""What comes back: replies, stream items, and the errors they become."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from spoke import codec, errorpack, errors, notices, wire
from spoke.core.calls import Call
from spoke.core.refs import CANCELLED, EXCEPTION, PENDING, SYSTEM, VALUE, Entry
from spoke.ids import TASK_BYTES, TaskID
from spoke.objectref import ObjectRef
from spoke.submit import ITEM_SUFFIX, RETAINED_SUFFIX, return_id
from spoke.unanswered import encode_error

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link
    from spoke.store import Block


_NONE: Final = codec.dumps(None)[0]


class Handover:
    """Refs that arrived inside a reply: the sender keeps them until their owners know of us."""

    __slots__ = ("call_id", "client", "peer", "remaining")

    def __init__(self, client: Client, peer: bytes, call_id: bytes) -> None:
        self.client = client
        self.peer = peer
        self.call_id = call_id
        self.remaining = 1

    def confirmed(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.client.tell(self.peer, wire.HELD, [self.call_id])


class Replies:
    """Resolves the calls of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        client.calls.argument_error = self.argument_error
        # Entries kept because a callee still uses them and their owner does not know it yet.
        self._retained: dict[tuple[bytes, bytes], list[list[Entry]]] = {}
        # Entries inside replies that this process sent, until the caller holds them itself.
        self._handed: dict[tuple[bytes, bytes], list[Entry]] = {}
        self._freed: dict[bytes, list[Any]] = {}  # values of objects that were freed while in use
        self.unread: dict[bytes, None] = {}  # objects that are errors which nobody has asked for

    def on_reply(self, link: Link, message: list[Any], payload: Any) -> None:
        """REPLY: resolve, retry, or drop a late duplicate (CALL-1)."""
        _, call_id, status, micros, values, retained = message
        client = self._client
        call = client.calls.replied(time.monotonic(), link.peer, call_id, micros)
        if call is None:
            self._refuse(link, call_id, values)
            if not retained:
                self.unpin(link.peer, call_id + RETAINED_SUFFIX)
            elif call_id in client.calls.calls:  # it runs again elsewhere
                self._retain(link, client.calls.calls[call_id], retained)
            return
        if retained:
            self._retain(link, call, retained)
        if status == VALUE:
            entries = call.entries
            if len(entries) == 1 and values and values[0][1] is None:
                client.refs.resolve(entries[0], VALUE, values[0][0])
                if call.attempt and client.lineage.answered(call):
                    return
            else:
                self._resolve_each(link, call, values or [])
                if client.lineage.answered(call):
                    return
        else:
            may_retry = status == EXCEPTION and call.retry_on is not None and call.retries_left != 0
            if may_retry and self._may_retry(call, values) and client.calls.retry(call):
                self._refuse(link, call_id, values[1:])
                return
            value = values[0][0] if values else []
            if len(values or ()) > 1:  # the values that a generator gave before its error
                self._resolve_each(link, call, values[1:])
            if call.stream is not None:
                self._fail_stream(call, status, value)
            else:
                self._fail_each(call, status, value)
        self._unpin(call)

    def _may_retry(self, call: Call, values: Any) -> bool:
        try:
            error = codec.loads(values[0][0][0])
        except Exception:  # an error class this process cannot load: no filter can match it
            return False
        return bool(call.retry_on(getattr(error, "cause", error)))  # type: ignore[misc]

    def _resolve_each(self, link: Link, call: Call, values: list[Any]) -> None:
        client = self._client
        handover = Handover(client, link.peer, call.id)
        contained = False
        for entry, (parts, contains) in zip(call.entries, values, strict=False):
            contained = contained or bool(contains)
            inner = self._take_over(handover, contains)
            if entry.status == PENDING:
                client.refs.resolve(entry, VALUE, parts, inner)
                continue
            self._refuse_blocks(link, parts)  # the call ran again for the sake of another return
            for one in inner or ():
                client.refs.drop(one)
        if contained:
            handover.confirmed()

    def _take_over(self, handover: Handover, contains: list[Any] | None) -> list[Entry] | None:
        """Count the refs inside a value for that value; their owners are told if need be."""
        if not contains:
            return None
        client = self._client
        inner = []
        for object_id, owner in contains:
            if owner[0] == client.process_id:
                entry = client.refs.entries.get(object_id)
                if entry is None:
                    continue
            else:
                handover.remaining += 1
                entry = client.refs.meet(object_id, owner, handover.confirmed)
            entry.local += 1
            inner.append(entry)
        return inner

    def _retain(self, link: Link, call: Call, argument_ids: list[bytes]) -> None:
        """The callee goes on using these arguments: keep them until its HELD, in order per call."""
        kept = {entry.id: entry for entry in call.pins or () if entry.id in argument_ids}
        for entry in kept.values():
            entry.local += 1
        self._retained.setdefault((link.peer, call.id + RETAINED_SUFFIX), []).append(list(kept.values()))

    def _unpin(self, call: Call) -> None:
        """The call needs its arguments no more, nor anything else that would keep refs alive."""
        pins, call.pins = call.pins, None
        call.slots = call.stream = None  # a waiter of a pending dependency may keep the call itself
        for entry in pins or ():
            self._client.refs.drop(entry)

    def _refuse(self, link: Link, call_id: bytes, values: Any) -> None:
        """Nobody waits for these values: give back what they hold."""
        client = self._client
        contained = False
        for item in values or ():
            self._refuse_blocks(link, item[0])
            contained = contained or bool(item[1])
        if contained:
            client.tell(link.peer, wire.HELD, [call_id])

    def _fail_each(self, call: Call, status: int, value: list[Any]) -> None:
        for entry in call.entries:
            if entry.status == PENDING:
                if entry.waiters is None and entry.fetchers is None and status != CANCELLED:
                    self.unread[entry.id] = None
                self._client.refs.resolve(entry, status, value)
        if call.attempt or call.num_returns < 0:  # a generator that was dropped has items known as results
            self._client.lineage.failed(call, status, value)

    def _refuse_blocks(self, link: Link, parts: list[Any]) -> None:
        blocks = [part for part in parts if type(part) is not bytes]
        if blocks:
            self._client.free_blocks(link.peer, blocks)

    def resolve_all(self, call: Call, status: int, value: list[Any]) -> None:
        """Resolve every return of a call that has no reply."""
        if call.stream is not None:
            self._fail_stream(call, status, value)
        else:
            self._fail_each(call, status, value)
        if call.pins and call.left in self._client.links.by_peer:
            # The hub gave the callee up, yet its code may go on for a while and reads its arguments.
            self._retained.setdefault((call.left, call.id + RETAINED_SUFFIX), []).append(call.pins)
            call.pins = None
        self._unpin(call)

    # -- streams

    def on_stream_item(self, link: Link, message: list[Any], payload: Any) -> None:
        """STREAM_ITEM: one yielded value; items of a retried generator that we have are dropped."""
        _, call_id, index, status, item = message
        client = self._client
        call = client.calls.calls.get(call_id)
        item_id = return_id(call_id, index)
        stream = call.stream if call is not None else None
        if call is not None and stream is not None and index > stream.received:
            stream.received = index
            stream.peer = link.peer
            entry = client.refs.own(item_id)
            entry.local = 1  # the ref below; uncounted, the entry would be freed as soon as it resolves
            self._resolve_item(link, call, entry, status, item)
            stream.items.append(ObjectRef(entry))
            stream.wake()
            return
        lost = client.lineage.lost_item(item_id) if call is not None else None
        if call is not None and lost is not None:
            self._resolve_item(link, call, lost, status, item)
        else:
            self._refuse(link, item_id + ITEM_SUFFIX, [item] if item else [])
        if call is not None and call.options and call.options.get("backpressure"):
            # The consumer has had it: a generator that runs again need not wait for that.
            if stream is not None:
                stream.peer = link.peer
            consumed = index if stream is None else stream.consumed
            client.tell(link.peer, wire.STREAM_CREDIT, call_id, consumed)

    def let_go(self, call: Call) -> None:
        """Nobody takes the items of this generator any more: it runs to its end, what it yields is refused.

        What it does beside its items is wanted all the same; who does not want it cancels the call.
        """
        stream, call.stream = call.stream, None
        if stream is not None and stream.peer is not None and not stream.ended:
            self._client.tell(stream.peer, wire.STREAM_CREDIT, call.id, stream.received)

    def _resolve_item(self, link: Link, call: Call, entry: Entry, status: int, item: list[Any]) -> None:
        client = self._client
        handover = Handover(client, link.peer, entry.id + ITEM_SUFFIX)
        client.refs.resolve(entry, status, item[0], self._take_over(handover, item[1]))
        if item[1]:
            handover.confirmed()
        if item[1] is not None or call.attempt:
            client.lineage.yielded(call, entry)

    def _fail_stream(self, call: Call, status: int, value: list[Any]) -> None:
        """The generator ended by an error: that is its last item.

        What the user's code raised is an item after the others, and the call is completed.  A call that
        was cancelled or whose worker died never is: the ref of the call itself is the last item.
        """
        refs = self._client.refs
        hidden = call.entries[0]
        entry = refs.own(return_id(call.id, call.stream.received + 1)) if status == EXCEPTION else hidden
        if entry is not hidden or entry.local:
            entry.local += 1
            call.stream.items.append(ObjectRef(entry))
        refs.resolve(entry, status, value)
        if entry is not hidden:
            refs.resolve(hidden, VALUE, [_NONE])
        self._client.lineage.failed(call, status, value)

    # -- the sender's side of handed-over refs

    def hand_over(self, link: Link, key: bytes, entries: list[Entry] | None, blocks: list[Block]) -> None:
        """A value goes to the peer of `link`: its entries are kept until HELD for `key`; lock held.

        Its blocks are the peer's.  Where the link is gone nothing is: nobody would give it back.
        """
        client, peer = self._client, link.peer
        if client.links.by_conn.get(link.conn) is not link:
            for entry in entries or ():
                client.refs.drop(entry)
            for block in blocks:
                client.store.release(block)
            return
        if blocks and peer != client.process_id:
            client.store.lend(peer, blocks)
        if entries:
            self._handed.setdefault((peer, key), []).extend(entries)

    def on_owns(self, link: Link, message: list[Any], payload: Any) -> None:
        """OWNS: the hub asks whether this process may end."""
        from spoke.inspecting import last_words

        words = {"count": self.obligations(), "calls": last_words(self._client)}
        self._client.hub.tell(wire.REQUEST, 0, "owns", words)

    def obligations(self) -> int:
        """What would be lost if this process ended now: objects that others hold, calls that run."""
        client = self._client
        lent = sum(map(len, client.refs.lent_to.values()))
        return lent + len(self._handed) + len(self._retained) + len(client.calls.calls)

    def unpin(self, peer: bytes, key: bytes) -> bool:
        """HELD from a peer; False if it is the owner's word on a borrow instead."""
        retained = self._retained.get((peer, key))
        if retained is not None:
            for entry in retained.pop(0):
                self._client.refs.drop(entry)
            if not retained:
                del self._retained[peer, key]
            return True
        handed = self._handed.pop((peer, key), None)
        for inner in handed or ():
            self._client.refs.drop(inner)
        return handed is not None

    def peer_lost(self, peer: bytes) -> None:
        for key in [key for key in self._retained if key[0] == peer]:
            for entries in self._retained.pop(key):
                for entry in entries:
                    self._client.refs.drop(entry)
        for key in [key for key in self._handed if key[0] == peer]:
            for inner in self._handed.pop(key):
                self._client.refs.drop(inner)

    # -- errors

    def free(self, entries: list[Entry]) -> None:
        """Objects of this process are errors from now on; their memory goes with their last use."""
        with self._client.lock:
            for entry in entries:
                if entry.owner is None and entry.status == VALUE:
                    self._freed[entry.id] = entry.value or []
                    text = "It was freed by hand. Do not free objects that are still in use."
                    entry.status, entry.value = SYSTEM, encode_error("ObjectFreedError", text)

    def freed_error(self, entry: Entry) -> None:
        """An object that is an error is gone: if nobody has asked for it, the user hears of it; lock held."""
        value = self._freed.pop(entry.id, None)
        if value is not None:
            entry.value = value
            self._client._free(entry)
            return
        if entry.owner is None and self.unread.pop(entry.id, entry) is None and self._client.closed is None:
            self._client.futures.post(lambda: self._say_unhandled(entry))

    def _say_unhandled(self, entry: Entry) -> None:
        error = self.error_of(entry)
        if isinstance(error, (errors.RayTaskError, errors.WorkerCrashedError)):
            notices.unhandled(error)

    def argument_error(self, call: Call, argument: Entry) -> tuple[int, list[Any]]:
        """What a call resolves to whose argument is an error."""
        status, value = argument.status, argument.value or []
        self.unread.pop(argument.id, None)
        name = call.name
        if isinstance(call.key, bytes):
            name = f"{self._client.calls.actors.channels[call.key].name}.{call.target}"
        body = self._of_argument(errorpack.OfArgument, name, status, value)
        return (EXCEPTION, [body]) if body is not None else (status, value)

    def creation_error(self, class_name: str, entry: Entry) -> bytes:
        """The error of an actor whose constructor has an argument that is one; empty: without details."""
        name = f"{class_name}.__init__"
        body = self._of_argument(errorpack.OfCreation, name, entry.status, entry.value or [])
        return body if body is not None else b""

    def _of_argument(self, kind: Any, name: str, status: int, value: list[Any]) -> bytes | None:
        """None: the argument's error is no plain bytes, or tells of many calls already."""
        body = value[0] if value else b""
        if type(body) is not bytes or body.count(b"_of_argument") >= errorpack.NESTED_MAX:
            return None
        packed: bytes = kind(name, self._client.address[2], status, body).packed()
        return packed

    def error_of(self, entry: Entry) -> BaseException:
        """The exception that ``get`` raises for a failed entry."""
        parts = entry.value or []
        self.unread.pop(entry.id, None)
        if entry.status == CANCELLED:
            return errors.TaskCancelledError(TaskID(entry.id[:TASK_BYTES]))
        try:
            error = self._client.values.unpack(parts, entry, None)
        except Exception as problem:
            return errors.RaySystemError(f"the error of the call could not be unpickled: {problem!r}")
        if isinstance(error, errors.RayTaskError):
            return error.as_instanceof_cause()
        if entry.status == SYSTEM:
            return named_error(error)
        if isinstance(error, BaseException):
            return error
        return errors.RaySystemError(f"the call failed with {error!r}")


def named_error(error: Any) -> BaseException:
    """An exception from its class name and message, as messages carry it."""
    if isinstance(error, BaseException):
        return error
    name, text = error
    cls = getattr(errors, name, None)
    if isinstance(cls, type) and issubclass(cls, errors.RayError):
        return cls.from_message(text)
    import builtins

    plain = getattr(builtins, name, None)
    if isinstance(plain, type) and issubclass(plain, Exception):
        return plain(text)
    return errors.RaySystemError(f"{name}: {text}")
