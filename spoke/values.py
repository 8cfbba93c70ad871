"""Values between Python and the wire: packing with its refs and blocks, unpacking with its leases.

Packing counts what the value carries (entries of contained refs, uses of blocks) so that nothing is
freed on the way; whoever takes the packed value takes these counts over.  Unpacking hands out views
of shared memory that are attached to a `Lease`: the object they belong to is in use until the last
array over it is gone.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoke import codec
from spoke.core.refs import Entry, Stray
from spoke.objectref import ObjectRef
from spoke.store import INLINE_BYTES_MAX, Block, Store
from spoke.transport.copies import Copies
from spoke.transport.router import Router

if TYPE_CHECKING:
    from spoke.client import Client

EMPTY_ARGS: list[Any] = []
Packed = tuple[list[Any], list[Entry] | None, list[Block]]  # parts, refs and blocks of a value


def _reduce_on_device(tensor: Any) -> Any:
    from spoke.cudatensors import reduce_cuda

    return reduce_cuda(tensor)


codec.on_device = _reduce_on_device


class Lease:
    """Counts the living views of one object; calls `ended` once when the last is gone."""

    __slots__ = ("_keep", "_refs", "alive", "ended", "reading")

    def __init__(self, keep: set[Lease], ended: Callable[[], None] | None) -> None:
        self._keep = keep
        self._refs: list[Any] = []
        self.alive = 0
        self.ended = ended
        self.reading = True  # unpickling still runs; it is not over while views come and go

    def attach(self, view: Any) -> None:
        self.alive += 1
        self._keep.add(self)
        self._refs.append(weakref.ref(view, self._view_gone))

    def _view_gone(self, _: Any) -> None:
        self.alive -= 1
        if self.alive == 0 and not self.reading:
            self._end()

    def done_reading(self) -> None:
        self.reading = False
        if self.alive == 0:
            self._end()

    def _end(self) -> None:
        self._keep.discard(self)
        self._refs.clear()
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


class PackedArgs:
    """Arguments of a call, ready to send, with what they keep alive."""

    __slots__ = ("blocks", "parts", "pins", "slots")

    def __init__(self) -> None:
        self.parts: list[Any] = EMPTY_ARGS
        self.slots: list[tuple[int | str, Entry]] | None = None
        self.pins: list[Entry] | None = None
        self.blocks: list[Block] | None = None


class Values:
    """Packs and unpacks the values of one client."""

    def __init__(self, client: Client, store: Store, router: Router) -> None:
        self._client = client
        self._store = store
        self._router = router
        self._copies = Copies(router)
        self._leases: set[Lease] = set()

    def known(self, object_id: bytes) -> Entry | None:
        """The entry of an object that this process knows, counted once more."""
        with self._client.lock:
            entry = self._client.refs.entries.get(object_id)
            if entry is not None:
                entry.local += 1
        return entry

    # -- packing

    def pack(self, value: Any) -> tuple[list[Any], list[Entry] | None, list[Block]]:
        """``(parts, contained entries, blocks)``, each counted once for the taker.

        Raises:
            TypeError: not serializable, with the path to the culprit.
            ObjectStoreFullError: no shared memory for its large parts.
        """
        body, buffers, refs = codec.dumps(value)
        if not buffers and len(body) <= INLINE_BYTES_MAX:
            return [body], self._count(refs) if refs else None, []
        parts, blocks = self._store.write(body, buffers)
        return parts, self._count(refs) if refs else None, blocks

    def pack_all(self, values: list[Any]) -> list[Packed]:
        """`pack` of each; where one raises, nothing is counted for the others."""
        packed: list[Packed] = []
        try:
            for value in values:
                packed.append(self.pack(value))  # noqa: PERF401
        except BaseException:
            self.discard(packed)
            raise
        return packed

    def discard(self, packed: list[Packed]) -> None:
        """Give back what these packed values carry: nobody takes them."""
        for _, contains, blocks in packed:
            for entry in contains or ():
                self._client.release(entry)
            for block in blocks:
                self._store.release(block)

    def _count(self, refs: list[Any]) -> list[Entry]:
        entries = [ref._entry for ref in refs]
        with self._client.lock:
            for entry in entries:
                entry.local += 1
        return entries

    def pack_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedArgs | None:
        """Arguments with their top-level refs taken out into slots; None for no arguments."""
        if not args and not kwargs:
            return None
        packed = PackedArgs()
        slots: list[tuple[int | str, Entry]] = []
        for index, value in enumerate(args):
            if type(value) is ObjectRef:
                slots.append((index, value._entry))
        for name, value in kwargs.items():
            if type(value) is ObjectRef:
                slots.append((name, value._entry))
        if slots:
            for _, entry in slots:
                if isinstance(entry, Stray):
                    entry.refuse()
            args = tuple(None if type(value) is ObjectRef else value for value in args)
            kwargs = {k: None if type(v) is ObjectRef else v for k, v in kwargs.items()}
        try:
            body, buffers, refs = codec.dumps([args, kwargs] if kwargs else args)
        except Exception as error:
            text = codec.explain_result(args, kwargs)
            if text is not None:
                raise TypeError(text) from error
            if not isinstance(error, TypeError):
                raise
            raise codec.unpicklable_argument(args, kwargs, error.__cause__ or error) from error
        if buffers or len(body) > 65536:
            packed.parts, packed.blocks = self._store.write(body, buffers)
        else:
            packed.parts = [body]
        if slots or refs:
            pins = [entry for _, entry in slots]
            pins.extend(ref._entry for ref in refs)
            with self._client.lock:
                for entry in pins:
                    entry.local += 1
            packed.pins = pins
            packed.slots = slots or None
        return packed

    # -- unpacking

    def unpack(self, parts: list[Any], source: Any, lease: Lease | None) -> Any:
        """The object of these parts.

        source: an object with ``pin() -> release function`` for refs met inside, or None.
        lease: what views of blocks are attached to; None where no part is a block.
        """
        context = codec.context
        before = context.source, context.lease
        context.source, context.lease = source, lease
        try:
            if len(parts) == 1 and type(parts[0]) is bytes:
                try:
                    return codec.loads(parts[0])
                except Exception as error:
                    raise _broken(error)  # noqa: B904
            opened = self._open(parts, lease, source if type(source) is Entry else None)
            try:
                return codec.loads(opened[0], opened[1:])
            except Exception as error:
                raise _broken(error)  # noqa: B904
        finally:
            context.source, context.lease = before

    def _open(self, parts: list[Any], lease: Lease | None, entry: Entry | None) -> list[Any]:
        """All parts, of the object of `entry` if given, as buffers; what must be fetched is one batch."""
        router = self._router
        mapped_node = router.node_id if router.maps else None
        opened: list[Any] = []
        away: list[int] = []
        for part in parts:
            if type(part) is bytes:
                opened.append(part)
            elif part[0] == mapped_node and part[2] > 0:
                view = self._store.view(part)
                if lease is not None:
                    lease.attach(view)
                opened.append(view)
            else:
                away.append(len(opened))
                opened.append(part)
        if away:
            for index, data in zip(away, self._copies.bring([opened[i] for i in away], entry), strict=True):
                opened[index] = data
        return opened

    def has_copy(self, entry: Entry) -> bool:
        """Whether all blocks of an object that lie on other nodes were brought here."""
        return self._copies.has(entry, self._away(entry.value or []))

    def forget_copy(self, entry: Entry) -> None:
        """The object is lost, and will have other blocks if any."""
        self._copies.forget(entry)

    def _away(self, parts: list[Any]) -> list[Any]:
        router = self._router
        mapped_node = router.node_id if router.maps else None
        return [
            part for part in parts if type(part) is not bytes and (part[0] != mapped_node or part[2] <= 0)
        ]

    def body(self, parts: list[Any]) -> Any:
        """The pickle of a value; its entry must be kept in use meanwhile."""
        return self._open(parts[:1], None, None)[0]

    def read(self, entry: Entry) -> Any:
        """The value of a resolved entry; its views keep the entry in use."""
        parts = entry.value
        assert parts is not None
        if len(parts) == 1 and type(parts[0]) is bytes:
            context = codec.context
            before, context.source = context.source, entry
            try:
                return pickle.loads(parts[0])
            except Exception as error:
                raise _broken(error)  # noqa: B904  # its context is the error
            finally:
                context.source = before
        client = self._client
        with client.lock:
            entry.local += 1
        lease = Lease(self._leases, lambda: client.release(entry))
        try:
            return self.unpack(parts, entry, lease)
        finally:
            lease.done_reading()

    def lease(self, ended: Callable[[], None] | None = None) -> Lease:
        return Lease(self._leases, ended)


def has_blocks(parts: list[Any]) -> bool:
    """Whether any part lies in shared memory."""
    return any(type(part) is not bytes for part in parts)


def _broken(error: Exception) -> Exception:
    """What to raise where a value does not unpickle: no error of the call, and not the user's to catch."""
    from spoke.errors import RayError, RaySystemError

    if isinstance(error, RayError):
        return error
    return RaySystemError(f"the value cannot be unpickled: {type(error).__name__}: {error}")
