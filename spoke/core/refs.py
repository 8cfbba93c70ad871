"""Who holds which object: owner-based reference counting over processes, as a pure table.

Every object has one owner, the process that put it or submitted the call that returns it.  Each
process keeps one `Entry` per object it knows and counts there its own uses: ObjectRefs, zero-copy
views (leases), values that contain the ref, calls that carry it.

- REF-1: the owner frees an object when its own count is zero and no process borrows it.
- REF-2: a borrower whose link ends has returned what it borrowed.
- REF-3: no timer frees anything.

How a borrow never loses its race: a process that meets a foreign ref sends BORROW to the owner and
keeps the *source* it got the ref from (the outer object, the call) until the owner's HELD.  Until
then the entry is unconfirmed and its sources stay pinned, so something upstream always counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from spoke import wire
from spoke.core import Command, Peer, Send
from spoke.limits import MAX_DEAD_RECORDS

PUT_SUFFIX: Final = b"\xff\xff\xff\x7f"  # the index in the id of an object that was put
ACTOR_SUFFIX: Final = b"\xff" * 12  # of the object that stands for the handles of an actor
PENDING: Final = -1
VALUE: Final = 0
EXCEPTION: Final = 1  # raised by the user's code
CANCELLED: Final = 2
SYSTEM: Final = 3  # a named error of Spoke; value[0] pickles [class name, message]


class Entry:
    """What this process knows of one object."""

    __slots__ = (
        "__weakref__", "borrowers", "call", "contains", "fetchers", "id", "local", "owner",
        "sources", "status", "unconfirmed", "value", "waiters",
    )  # fmt: skip

    def __init__(self, object_id: bytes, owner: wire.Address | None) -> None:
        self.id = object_id
        self.owner = owner  # None: this process
        self.local = 0
        self.status = PENDING
        self.value: list[Any] | None = None  # parts, see codec and store
        self.waiters: list[Any] | None = None  # objects with .resolved(entry)
        self.borrowers: dict[Peer, None] | None = None
        self.fetchers: list[Peer] | None = None  # peers to tell when resolved
        self.contains: list[Entry] | None = None  # entries inside the value, counted
        self.sources: list[Callable[[], None]] | None = None  # run when the borrow is confirmed
        self.unconfirmed = False
        self.call: Any = None  # the call that will resolve it, for cancel

    def __repr__(self) -> str:
        owner = "own" if self.owner is None else self.owner[0].hex()[:8]
        return f"Entry({self.id.hex()[:16]}, {owner}, local={self.local}, status={self.status})"


class Stray(Entry):
    """An object that this process has lost its owner of, by `shutdown` or a fork.

    It is in no table; who waits for it, reads it or passes it on is told so.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id.hex()[:16]})"

    def refuse(self) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(
            "An application is trying to access a Ray object whose owner is unknown "
            f"({self.id.hex()}). Ray objects whose owner is unknown are those of before shutdown(), those of "
            "before this process was forked, and those whose ref was made of an id that names nothing here. "
            "Make the object again."
        )

    @property
    def owner(self) -> Any:
        """Raises ValueError."""
        self.refuse()

    @owner.setter
    def owner(self, _: Any) -> None:
        pass


class Unknown(Stray):
    """What a program's id names that this process does not know: never there, and not to be passed on."""

    __slots__ = ()

    @property
    def owner(self) -> Any:
        """None: nobody is asked for it."""
        return None

    @owner.setter
    def owner(self, _: Any) -> None:
        pass


def _in_blocks(parts: list[Any] | None) -> bool:
    return any(type(part) is not bytes for part in parts or ())


def lies_on(parts: list[Any] | None, node_id: bytes) -> bool:
    """Whether any block of a value is on that node."""
    return any(type(part) is not bytes and part[0] == node_id for part in parts or ())


class RefTable:
    """All entries of one process.  Not thread safe: the shell holds its lock."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.out: list[Command] = []
        self.addresses: dict[Peer, wire.Address] = {}  # where owners live; the shell connects by it
        self.freed: deque[Entry] = deque()  # owned entries freed; the shell takes their blocks back
        self.borrowed_from: dict[Peer, dict[bytes, Entry]] = {}
        self.lent_to: dict[Peer, dict[bytes, Entry]] = {}
        self.forfeited: dict[bytes, None] = {}  # objects in blocks that a lost borrower may still look at
        self.gone: dict[bytes, None] = {}  # nodes that are gone for good, the latest

    # -- making entries

    def own(self, object_id: bytes) -> Entry:
        """A new object owned by this process, not counted yet."""
        entry = Entry(object_id, None)
        self.entries[object_id] = entry
        return entry

    def meet(
        self, object_id: bytes, owner: wire.Address | None, source: Callable[[], None] | None = None
    ) -> Entry:
        """The entry of a ref that arrived from elsewhere; not counted yet.

        `source` is called once when the owner knows of this process (at once where it does
        already): it lets go of whatever kept the object alive on the way here.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            entry = Entry(object_id, owner)
            self.entries[object_id] = entry
            if owner is not None:
                entry.unconfirmed = True
                self.borrowed_from.setdefault(owner[0], {})[object_id] = entry
                self.addresses[owner[0]] = owner
                self.out.append(Send(owner[0], (wire.BORROW, [object_id])))
        if source is not None:
            if entry.unconfirmed:
                entry.sources = [*(entry.sources or ()), source]
            else:
                source()
        return entry

    # -- counting

    def drop(self, entry: Entry) -> None:
        """One use less; at zero the object is freed or returned to its owner."""
        entry.local -= 1
        if entry.local == 0:
            contains = self._forget(entry)
            if contains:
                self._drop_all(contains)

    def _unused(self, entry: Entry) -> None:
        self._drop_all(self._forget(entry) or [])

    def _drop_all(self, contains: list[Entry]) -> None:
        while contains:  # a loop, not recursion: chains of contained refs can be long
            inner = contains.pop()
            inner.local -= 1
            if inner.local == 0:
                contains.extend(self._forget(inner) or ())

    def _forget(self, entry: Entry) -> list[Entry] | None:
        """Free an entry that is not counted, if nobody else uses it; returns what its value contained."""
        if entry.borrowers or entry.unconfirmed or self.entries.get(entry.id) is not entry:
            return None
        if entry.owner is not None:
            self._give_back(entry)
        elif entry.status == PENDING and entry.call is not None:
            return None  # the call still runs; resolve() comes back here
        else:
            self.freed.append(entry)
        del self.entries[entry.id]
        contains, entry.contains = entry.contains, None
        return contains

    def _give_back(self, entry: Entry) -> None:
        assert entry.owner is not None
        peer = entry.owner[0]
        borrowed = self.borrowed_from.get(peer)
        if borrowed is not None and borrowed.pop(entry.id, None) is not None:
            self.out.append(Send(peer, (wire.RELEASE, [entry.id])))
            if not borrowed:
                del self.borrowed_from[peer]

    def disown(self) -> None:
        """Refs of this process name nothing any more."""
        for entry in self.entries.values():
            entry.__class__ = Stray
            entry.status, entry.value = PENDING, None
        # Messages about them may still come: they name nothing here either.
        for table in (self.entries, self.borrowed_from, self.lent_to):
            table.clear()

    # -- resolving

    def resolve(
        self, entry: Entry, status: int, value: list[Any], contains: list[Entry] | None = None
    ) -> None:
        """The object's value is known; CALL-1: the first resolution counts, later ones are dropped.

        `contains` are entries already counted for this value.
        """
        if entry.status != PENDING:
            for inner in contains or ():
                self.drop(inner)
            return
        entry.value = value
        entry.contains = contains
        entry.status = status  # last: whoever sees it reads the value without a lock
        entry.call = None
        if entry.fetchers:
            for peer in entry.fetchers:
                self._answer(entry, peer)
            entry.fetchers = None
        if entry.waiters is not None:
            waiters, entry.waiters = entry.waiters, None
            for waiter in waiters:
                waiter.resolved(entry)
        if entry.local == 0:
            self._unused(entry)

    def _answer(self, entry: Entry, peer: Peer) -> None:
        self.out.append(Send(peer, (wire.VALUE, entry.id, entry.status, entry.value)))

    # -- messages between owner and borrower

    def on_borrow(self, peer: Peer, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is not None and entry.owner is None:
                entry.borrowers = entry.borrowers or {}
                entry.borrowers[peer] = None
                self.lent_to.setdefault(peer, {})[object_id] = entry
        self.out.append(Send(peer, (wire.HELD, object_ids)))

    def on_held(self, peer: Peer, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is not None and entry.unconfirmed and entry.owner and entry.owner[0] == peer:
                self._confirm(entry)

    def _confirm(self, entry: Entry) -> None:
        entry.unconfirmed = False
        sources, entry.sources = entry.sources, None
        for source in sources or ():
            source()
        if entry.local == 0:
            self._unused(entry)

    def on_release(self, peer: Peer, object_ids: list[bytes]) -> None:
        lent = self.lent_to.get(peer)
        for object_id in object_ids:
            entry = lent.pop(object_id, None) if lent else None
            if entry is not None:
                self._returned(entry, peer)

    def _returned(self, entry: Entry, peer: Peer) -> None:
        if entry.borrowers is not None:
            entry.borrowers.pop(peer, None)
            if not entry.borrowers and entry.local == 0:
                self._unused(entry)

    def fetch(self, entry: Entry) -> None:
        """Ask the owner for the value of a borrowed object, once."""
        if entry.owner is None or entry.status != PENDING or entry.call == "fetching":
            return
        entry.call = "fetching"
        node_id = self._gone_node(entry.value)
        if node_id:
            self.out.append(Send(entry.owner[0], (wire.LOST, entry.id, node_id)))
        else:
            self.out.append(Send(entry.owner[0], (wire.FETCH, entry.id)))

    def note_gone(self, node_id: bytes) -> None:
        """What lay on this node is lost; see core/lineage.py."""
        self.gone[node_id] = None
        if len(self.gone) > MAX_DEAD_RECORDS:
            del self.gone[next(iter(self.gone))]

    def _gone_node(self, parts: list[Any] | None) -> bytes:
        """A node that is gone and that blocks of this value were on; empty: there is none."""
        if self.gone:
            for part in parts or ():
                if type(part) is not bytes and part[0] in self.gone:
                    return bytes(part[0])
        return b""

    def on_fetch(self, peer: Peer, object_id: bytes, lost: list[Any]) -> None:
        """`lost`: value of the SYSTEM error for an object that is no longer here."""
        entry = self.entries.get(object_id)
        if entry is None or entry.owner is not None:
            self.answer_lost(peer, object_id, lost)
        elif entry.status == PENDING:
            entry.fetchers = [*(entry.fetchers or ()), peer]
        else:
            self._answer(entry, peer)

    def answer_lost(self, peer: Peer, object_id: bytes, error: list[Any]) -> None:
        """The object is not there for this borrower; `error`: value of the SYSTEM error."""
        self.out.append(Send(peer, (wire.VALUE, object_id, SYSTEM, error)))

    def on_value(self, peer: Peer, object_id: bytes, status: int, value: list[Any]) -> None:
        entry = self.entries.get(object_id)
        if entry is None or entry.owner is None or entry.owner[0] != peer:
            return
        if entry.status == PENDING and status == VALUE and self._gone_node(value):
            entry.value, entry.call = value, None  # said before the owner knew: it is asked for the next
            self.fetch(entry)
            return
        self.resolve(entry, status, value)

    def on_peer_lost(self, peer: Peer, owner_died: list[Any]) -> None:
        """REF-2, and every wait on an object of that owner ends by name (CALL-3)."""
        for entry in list(self.lent_to.pop(peer, {}).values()):
            if entry.fetchers:
                entry.fetchers = [other for other in entry.fetchers if other != peer]
            if entry.status == VALUE and _in_blocks(entry.value):
                self.forfeited[entry.id] = None
            self._returned(entry, peer)
        for entry in list(self.borrowed_from.pop(peer, {}).values()):
            entry.local += 1
            if entry.unconfirmed:
                self._confirm(entry)
            if entry.status == VALUE and _in_blocks(entry.value):
                # Memory of the dead goes, and an owner that only the network took away reuses it.
                entry.status, entry.value = SYSTEM, owner_died
            self.resolve(entry, SYSTEM, owner_died)
            self.drop(entry)

    def validate(self) -> None:
        """Assert the cross-links; for tests."""
        for object_id, entry in self.entries.items():
            assert entry.id == object_id
            assert entry.local >= 0, f"REF-1: negative count of {entry}"
            if entry.owner is None:
                busy = entry.local > 0 or entry.borrowers or (entry.status == PENDING and entry.call)
                assert busy, f"REF-1: unused {entry} was not freed"
            for peer in entry.borrowers or ():
                assert object_id in self.lent_to.get(peer, {})
        for peer, lent in self.lent_to.items():
            for object_id, entry in lent.items():
                assert peer in (entry.borrowers or {}), f"REF-2: {object_id.hex()} lent unknown to it"
