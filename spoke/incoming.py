"""Arguments of a call at the callee: unpickled, with what they go on using told to the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke.core.refs import PENDING
from spoke.errors import ObjectLostError
from spoke.objectref import ObjectRef
from spoke.submit import ARGS_SUFFIX, RETAINED_SUFFIX
from spoke.values import Lease, has_blocks
from spoke.waiting import UNREADABLE
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link


METHOD_PATIENCE_S: Final = 10.0


class CallSource:
    """Where the refs and views of one call's arguments came from.

    The caller keeps them until the reply.  What is still in use then is borrowed from its owner; the
    reply names the arguments that must be kept for what the owners have not confirmed yet, and one
    HELD follows on the same link when they all have.
    """

    __slots__ = ("_call_id", "_client", "_leases", "_link", "_then", "_unconfirmed")

    def __init__(self, client: Client, link: Link | None, call_id: bytes) -> None:
        self._client = client
        self._link = link  # to the caller; None for a constructor, whose arguments came by the hub
        self._call_id = call_id
        self._leases: list[tuple[bytes, Any, Lease]] = []
        self._unconfirmed: dict[bytes, int] = {}  # argument -> refs met in it that wait for HELD
        self._then: Callable[[], None] | None = None

    @property
    def caller(self) -> wire.Address:
        """The caller's address, as far as a callee knows it: by the link to it."""
        assert self._link is not None
        return self._client.refs.addresses.get(self._link.peer) or [self._link.peer, b"", "", 0]

    @property
    def patience_s(self) -> float | None:
        """How long to wait for arguments that are made again; None: for ever.

        A method's may come from earlier calls of this very actor, which can not run while it waits.
        """
        of_method = self._link is not None and self._client.executor.actor is not None
        return METHOD_PATIENCE_S if of_method else None

    # -- refs inside the arguments (see Client.resolve_ref)

    def pin(self, object_id: bytes) -> Callable[[], None]:
        """A ref was met whose owner does not know us yet; returns what to call when it does; lock held."""
        return self.keep(object_id)

    def keep(self, argument_id: bytes) -> Callable[[], None]:
        """As `pin`, where the ref lies inside the argument `argument_id`."""
        unconfirmed = self._unconfirmed
        unconfirmed[argument_id] = unconfirmed.get(argument_id, 0) + 1

        def confirmed() -> None:
            unconfirmed[argument_id] -= 1
            if not unconfirmed[argument_id]:
                del unconfirmed[argument_id]
                if not unconfirmed and self._then is not None:
                    then, self._then = self._then, None
                    then()

        return confirmed

    # -- views

    def lease(self, object_id: bytes, owner: Any) -> Lease:
        """For blocks of an argument; ObjectLostError where the caller, which kept them, is gone."""
        link = self._link
        if link is not None and self._client.links.by_conn.get(link.conn) is not link:
            raise ObjectLostError.from_message("the caller that kept this call's arguments has died")
        lease = self._client.values.lease()
        self._leases.append((object_id, owner, lease))
        return lease

    # -- the end of the call

    @property
    def empty(self) -> bool:
        """Nothing of the arguments can be in use any more."""
        return not self._leases and not self._unconfirmed

    def finish(self) -> list[bytes] | None:
        """The code ran: ids of arguments that the caller must keep until HELD; lock held.

        The reply must be sent before the lock is given back, so that HELD cannot overtake it.
        """
        self._end_leases()
        if not self._unconfirmed:
            return None
        self._then = self._tell_held
        return list(self._unconfirmed)

    def _tell_held(self) -> None:
        client, link = self._client, self._link
        if link is not None and client.links.by_conn.get(link.conn) is link:
            client.links.send(link, encode(wire.HELD, [self._call_id + RETAINED_SUFFIX]))

    def then(self, action: Callable[[], None]) -> None:
        """The constructor ran: `action` runs when the owners know of all that it keeps; lock held."""
        self._end_leases()
        if self._unconfirmed:
            self._then = action
        else:
            action()

    def _end_leases(self) -> None:
        leases, self._leases = self._leases, []
        for object_id, owner, lease in leases:
            if lease.alive:
                self._borrow(object_id, owner, lease)
            lease.done_reading()

    def _borrow(self, object_id: bytes, owner: Any, lease: Lease) -> None:
        """Views of this object live on: be one of its borrowers until they are gone."""
        client, link = self._client, self._link
        known = client.refs.entries.get(object_id)
        if known is None and owner[0] == client.process_id:
            return  # freed, as the caller that lent it is gone; the view keeps the memory mapped
        # On the caller's own link BORROW precedes the reply: nothing to wait for.
        ahead = link is not None and owner[0] == link.peer and client.links.by_peer.get(link.peer) is link
        entry = client.refs.meet(object_id, owner, None if ahead else self.keep(object_id))
        entry.local += 1
        lease.ended = partial(client.release, entry)
        client._settle()


class _SlotSource:
    """Where refs inside an argument come from that was itself passed as a ref."""

    __slots__ = ("_argument_id", "_source")

    def __init__(self, source: CallSource, argument_id: bytes) -> None:
        self._source = source
        self._argument_id = argument_id

    def pin(self, object_id: bytes) -> Callable[[], None]:
        return self._source.keep(self._argument_id)


def open_args(
    client: Client,
    source: CallSource,
    call_id: bytes,
    extra: list[Any],
    args_id: bytes | None = None,
    owner: Any = None,
) -> tuple[Any, Any]:
    """``(args, kwargs)`` of a call.

    Raises:
        whatever unpickling raises, ObjectLostError for a block that is gone, GetTimeoutError for one that
            is not made again in time.
    """
    parts, slots, _ = extra
    if not slots and len(parts) == 1 and type(parts[0]) is bytes:
        value = client.values.unpack(parts, source, None)
        args, kwargs = value if type(value) is list else (value, {})
        return args, kwargs
    found: dict[int, ObjectRef[Any]] = {}
    while True:
        before = [ref._entry.value for ref in found.values()]
        try:
            return _open(client, source, call_id, extra, args_id, owner, found)
        except UNREADABLE:
            if not slots:
                raise
            lost = _lost_arguments(client, source, slots, found)
            entries = [ref._entry for ref in lost.values()]
            if before == [None if one.status == PENDING else one.value for one in entries]:
                raise  # nothing is known now that was not known when it was read
            found = lost
        client.waiting.wait_all(list(found.values()), source.patience_s)
        for ref in found.values():
            if ref._entry.status > 0:
                raise client.replies.error_of(ref._entry)


def _lost_arguments(
    client: Client, source: CallSource, slots: list[Any], found: dict[int, ObjectRef[Any]]
) -> dict[int, ObjectRef[Any]]:
    """By slot, refs to the arguments that lay on nodes which are gone: pending while they are made again.

    found: what was returned before, and could not be read.
    """
    parts = [part for slot in slots for part in slot[3]]
    for ref in found.values():
        parts.extend(ref._entry.value or ())
    client.waiting.gone(parts)
    gone = client.refs.gone
    refs: dict[int, ObjectRef[Any]] = {}
    with client.lock:
        for index, (_, object_id, owner, parts) in enumerate(slots):
            if any(type(part) is not bytes and part[0] in gone for part in parts):
                entry = client.refs.meet(object_id, owner, source.keep(object_id))
                if entry.status == PENDING and entry.value is None:
                    entry.value = parts  # so that its owner is told which node is gone
                refs[index] = client.make_ref(entry)
        client._settle()
    return refs


def _open(
    client: Client,
    source: CallSource,
    call_id: bytes,
    extra: list[Any],
    args_id: bytes | None,
    owner: Any,
    found: dict[int, ObjectRef[Any]],
) -> tuple[Any, Any]:
    parts, slots, _ = extra
    lease = None
    if has_blocks(parts):
        lease = source.lease(args_id or call_id + ARGS_SUFFIX, owner or source.caller)
    value = client.values.unpack(parts, source, lease) if parts else ()
    # Arguments are pickled as a plain tuple, or as [args, kwargs] where there are keywords.
    args, kwargs = value if type(value) is list else (value, {})
    if slots:
        args = list(args)
        for index, (position, object_id, slot_owner, slot_parts) in enumerate(slots):
            if index in found:
                item = client.values.read(found[index]._entry)
            else:
                lease = source.lease(object_id, slot_owner) if has_blocks(slot_parts) else None
                item = client.values.unpack(slot_parts, _SlotSource(source, object_id), lease)
            if type(position) is int:
                args[position] = item
            else:
                kwargs[position] = item
            del item
    return args, kwargs
