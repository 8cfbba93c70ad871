"""Arguments of a call at the callee: unpickled, with what they go on using told to the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.submit import ARGS_SUFFIX
from spoke.values import Lease, has_blocks

if TYPE_CHECKING:
    from spoke.client import Client


class CallSource:
    """Where the refs and views of one call's arguments came from.

    The caller keeps them until the reply.  What is still in use then is borrowed from its owner; the
    reply names what the owner has not confirmed yet, and HELD follows when it has.
    """

    __slots__ = ("_caller", "_client", "_leases", "_replied", "_unconfirmed")

    def __init__(self, client: Client, caller: bytes) -> None:
        self._client = client
        self._caller = caller
        self._leases: list[tuple[bytes, Any, Lease]] = []
        self._unconfirmed: dict[bytes, None] = {}
        self._replied = False

    # -- refs inside the arguments (see Client.resolve_ref)

    def pin(self, object_id: bytes) -> Callable[[], None]:
        """A ref was met whose owner does not know us yet; returns what to call when it does; lock held."""
        self._unconfirmed[object_id] = None

        def confirmed() -> None:
            if object_id in self._unconfirmed:
                del self._unconfirmed[object_id]
                if self._replied:
                    self._client.tell(self._caller, wire.HELD, [object_id])

        return confirmed

    # -- views

    def lease(self, object_id: bytes, owner: Any) -> Lease:
        lease = self._client.values.lease()
        self._leases.append((object_id, owner, lease))
        return lease

    def finish(self) -> list[bytes] | None:
        """The code ran: ids that the caller must keep until HELD, or None."""
        for _, _, lease in self._leases:
            lease.done_reading()
        living = [(object_id, owner, lease) for object_id, owner, lease in self._leases if lease.alive]
        if living:
            self._borrow(living)
        self._leases = []
        self._replied = True
        return list(self._unconfirmed) or None

    def _borrow(self, living: list[tuple[bytes, Any, Lease]]) -> None:
        client = self._client
        with client.lock:
            for object_id, owner, lease in living:
                # Where the caller owns it, BORROW precedes the reply on the same link: nothing to wait for.
                confirmed = None if owner[0] == self._caller else self.pin(object_id)
                entry = client.refs.meet(object_id, owner, confirmed)
                entry.local += 1
                lease.ended = partial(client.release, entry)
                if not lease.alive:
                    lease.done_reading()
            client._settle()


def open_args(
    client: Client,
    caller: bytes,
    call_id: bytes,
    extra: list[Any],
    args_id: bytes | None = None,
    owner: Any = None,
) -> tuple[Any, Any, CallSource]:
    """``(args, kwargs, source)`` of a call.

    Raises:
        whatever unpickling raises, ObjectLostError for a block that is gone.
    """
    parts, slots, _ = extra
    source = CallSource(client, caller)
    if not slots and len(parts) == 1 and type(parts[0]) is bytes:
        value = client.values.unpack(parts, source, None)
        args, kwargs = value if type(value) is list else (value, {})
        return args, kwargs, source
    lease = None
    if has_blocks(parts):
        lease = source.lease(args_id or call_id + ARGS_SUFFIX, owner or [caller, b"", "", 0])
    value = client.values.unpack(parts, source, lease) if parts else ()
    # Arguments are pickled as a plain tuple, or as [args, kwargs] where there are keywords.
    args, kwargs = value if type(value) is list else (value, {})
    if slots:
        args = list(args)
        for position, object_id, slot_owner, slot_parts in slots:
            lease = source.lease(object_id, slot_owner) if has_blocks(slot_parts) else None
            item = client.values.unpack(slot_parts, source, lease)
            if type(position) is int:
                args[position] = item
            else:
                kwargs[position] = item
            del item
    return args, kwargs, source

