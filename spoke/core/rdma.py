"""One-sided reads between processes: connections, and the leases that make a successful read right.

A process that wants blocks of another makes a *reader* (its end of a queue pair), tells the other, and
gets the address of a *responder*, the end whose memory may be read.  Then it asks for ranges; the owner
counts one use of each block for the reader, a *lease*, and answers where the bytes are and by which key.
Nobody learns an address or a key but in such a grant.  The reader says when it is done.

Asking costs a round trip.  So an owner that sends a message which names a block of its own to a process
that reads from it lends the block ahead of that message, on the same link: an *offer*, a lease that nobody
asked for.  Whoever then wants just these ranges reads at once.

Rules, for both sides:

- A lease is worth as much as the responder it was granted for.  The owner ends it early in one way only:
  `DestroyResponder` first, `EndLease` after it.  No timer does (REF-3).  So a read that succeeded was
  answered by a queue pair that was alive, hence before the memory could be used again.
- A peer that is lost has its responders destroyed before anything else is done about it.
- An offer that is not used is given back: at once where it cannot be, else when the owner, for whom
  nothing but offers keeps the block in use, asks for it (`Idle`).  A reader that does not read what it is
  offered is offered nothing until it asks again.
- What fails is retried on a new connection at the earliest after a pause that doubles; meanwhile, and
  where the peer has no device, reads fail with the reason, and take another path.

Shell's part: carry out the commands in order, and feed back `Made` or `Failed` for each `MakeReader` and
`MakeResponder`, `Lent` for each `Lend`, `Finished` for each `Start`; and `Offer` before it sends a block's
descriptor, where `offers_to` is true.
"""

from __future__ import annotations

from typing import Any, Final

from spoke.core import Lost, Received, Send, _Record
from spoke.wire import (
    RDMA_ACCEPT,
    RDMA_ASK,
    RDMA_CLOSE,
    RDMA_CONNECT,
    RDMA_DONE,
    RDMA_GRANT,
    RDMA_OFFER,
    RDMA_WITHDRAW,
)

PAUSE_S: Final = 0.5  # after a failure, doubling
PAUSE_MAX_S: Final = 30.0
MAX_LEASES: Final = 4096  # that one peer may hold at a time
MAX_RANGES: Final = 65536  # of one lease
MAX_OFFERS: Final = 256  # leases of one peer beyond which it is offered nothing; a reader keeps as many

Range = list[int]  # segment id, offset, length, generation


class Want(_Record):
    """Event: a thread wants to read these ranges of a peer's blocks."""

    __slots__ = ("peer", "ranges", "read_id")

    def __init__(self, read_id: int, peer: bytes, ranges: list[Range]) -> None:
        self.read_id, self.peer, self.ranges = read_id, peer, ranges


class Finished(_Record):
    """Event: the read was done, or failed and with it its queue pair."""

    __slots__ = ("error", "read_id")

    def __init__(self, read_id: int, error: str) -> None:
        self.read_id, self.error = read_id, error


class Made(_Record):
    """Event: a queue pair was made; `reader` tells which end."""

    __slots__ = ("address", "number", "peer", "reader")

    def __init__(self, peer: bytes, number: int, reader: bool, address: bytes) -> None:
        self.peer, self.number, self.reader, self.address = peer, number, reader, address


class Failed(_Record):
    """Event: a queue pair could not be made or connected, or broke (a reader only)."""

    __slots__ = ("number", "peer", "reader", "why")

    def __init__(self, peer: bytes, number: int, reader: bool, why: str) -> None:
        self.peer, self.number, self.reader, self.why = peer, number, reader, why


class Lent(_Record):
    """Event: where the ranges of a lease are, as ``[address, rkey]`` each; None and why not."""

    __slots__ = ("error", "lease_id", "peer", "places")

    def __init__(self, peer: bytes, lease_id: int, places: list[list[int]] | None, error: str) -> None:
        self.peer, self.lease_id, self.places, self.error = peer, lease_id, places, error


class Offer(_Record):
    """Event: a message that names this range of a block goes to the peer next."""

    __slots__ = ("peer", "range")

    def __init__(self, peer: bytes, range: Range) -> None:
        self.peer, self.range = peer, range


class Idle(_Record):
    """Event: nothing but offers, of which this is one, keeps a block in use."""

    __slots__ = ("lease_id", "peer")

    def __init__(self, peer: bytes, lease_id: int) -> None:
        self.peer, self.lease_id = peer, lease_id


class DeviceLost(_Record):
    """Event: every queue pair and every key of this process is void."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class _OfPair(_Record):
    __slots__ = ("number", "peer")

    def __init__(self, peer: bytes, number: int) -> None:
        self.peer, self.number = peer, number


class MakeReader(_OfPair):
    """Command: make the reading end of a connection to this peer."""

    __slots__ = ()


class DestroyResponder(_OfPair):
    """Command: nothing is read through this responder once this is carried out."""

    __slots__ = ()


class MakeResponder(_Record):
    """Command: make the answering end for a peer's reader, connected to it."""

    __slots__ = ("address", "number", "peer")

    def __init__(self, peer: bytes, number: int, address: bytes) -> None:
        self.peer, self.number, self.address = peer, number, address


class ConnectReader(_Record):
    """Command: connect the reader to the responder at this address."""

    __slots__ = ("address", "number", "peer")

    def __init__(self, peer: bytes, number: int, address: bytes) -> None:
        self.peer, self.number, self.address = peer, number, address


class DropReader(_Record):
    """Command: end this reader; reads under way fail with this reason."""

    __slots__ = ("number", "peer", "why")

    def __init__(self, peer: bytes, number: int, why: str) -> None:
        self.peer, self.number, self.why = peer, number, why


class Start(_Record):
    """Command: read; the ranges are at these places, in order."""

    __slots__ = ("number", "peer", "places", "read_id")

    def __init__(self, read_id: int, peer: bytes, number: int, places: list[list[int]]) -> None:
        self.read_id, self.peer, self.number, self.places = read_id, peer, number, places


class Refuse(_Record):
    """Command: this read cannot be done by RDMA."""

    __slots__ = ("read_id", "why")

    def __init__(self, read_id: int, why: str) -> None:
        self.read_id, self.why = read_id, why


class Lend(_Record):
    """Command: count a use of each block that these ranges lie in, or none at all."""

    __slots__ = ("lease_id", "peer", "ranges")

    def __init__(self, peer: bytes, lease_id: int, ranges: list[Range]) -> None:
        self.peer, self.lease_id, self.ranges = peer, lease_id, ranges


class EndLease(_Record):
    """Command: give up the uses of this lease."""

    __slots__ = ("lease_id", "peer")

    def __init__(self, peer: bytes, lease_id: int) -> None:
        self.peer, self.lease_id = peer, lease_id


class _Reader:
    """This process's way to one peer."""

    __slots__ = ("asked", "number", "offers", "pause_s", "ready", "retry_at", "taken", "waiting", "why")

    def __init__(self) -> None:
        self.number = 0  # of the reader that exists or is being made; 0 for none
        self.ready = False
        self.waiting: dict[int, list[Range]] = {}  # reads that wait for the connection
        self.asked: dict[int, int] = {}  # reads that were asked for or run: read -> number of ranges
        self.offers: dict[tuple[int, ...], tuple[int, list[int]]] = {}  # range -> lease, place
        self.taken: dict[int, list[int]] = {}  # reads that run by offers: read -> leases
        self.pause_s = PAUSE_S
        self.retry_at = 0.0
        self.why = ""  # the last failure


class Reads:
    """Both sides of one process."""

    def __init__(self) -> None:
        self._readers: dict[bytes, _Reader] = {}
        self._of_read: dict[int, bytes] = {}
        self._responders: dict[bytes, dict[int, bool]] = {}  # peer -> number -> usable
        self._leases: dict[bytes, dict[int, int]] = {}  # peer -> lease -> number of its responder
        self._offers: dict[int, Range] = {}  # of the leases those that nobody asked for
        self._eager: set[bytes] = set()  # peers that read what they are offered, as far as is known
        self._next = 1
        self._next_offer = -1  # leases that are asked for have the positive numbers of their reads
        self._out: list[Any] = []

    def why_not(self, now: float, peer: bytes) -> str:
        """Why a read from this peer would be refused at once; empty where it would be tried."""
        reader = self._readers.get(peer)
        return reader.why if reader is not None and not reader.number and now < reader.retry_at else ""

    def leases(self, peer: bytes) -> int:
        """How many leases a peer holds here."""
        return len(self._leases.get(peer, ()))

    def offers_to(self, peer: bytes) -> bool:
        """Whether an `Offer` to this peer may lead to anything."""
        return peer in self._eager

    def peers(self) -> list[bytes]:
        """Who is or was connected, in either direction."""
        return list(dict.fromkeys([*self._readers, *self._responders]))

    def step(self, now: float, event: Any) -> list[Any]:
        """Take one event, return the commands in the order in which they must be carried out."""
        if isinstance(event, Received):
            self._received(now, event.peer, event.message)
        elif isinstance(event, Want):
            self._want(now, event)
        elif isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Made):
            self._made(event)
        elif isinstance(event, Failed):
            self._failed(now, event)
        elif isinstance(event, Lent):
            self._lent(event)
        elif isinstance(event, Offer):
            self._offer(event)
        elif isinstance(event, Idle):
            self._idle(event)
        elif isinstance(event, Lost):
            self._lost(event.peer)
        elif isinstance(event, DeviceLost):
            self._device_lost(now, event.why)
        out, self._out = self._out, []
        return out

    # -- the reading side

    def _want(self, now: float, event: Want) -> None:
        reader = self._readers.setdefault(event.peer, _Reader())
        if not reader.number and now < reader.retry_at:
            self._out.append(Refuse(event.read_id, reader.why))
            return
        self._of_read[event.read_id] = event.peer
        if reader.ready:
            if not self._take(event.peer, reader, event.read_id, event.ranges):
                self._ask(event.peer, reader, event.read_id, event.ranges)
            return
        reader.waiting[event.read_id] = event.ranges
        if not reader.number:
            reader.number, self._next = self._next, self._next + 1
            self._out.append(MakeReader(event.peer, reader.number))

    def _ask(self, peer: bytes, reader: _Reader, read_id: int, ranges: list[Range]) -> None:
        reader.asked[read_id] = len(ranges)
        self._out.append(Send(peer, (RDMA_ASK, read_id, reader.number, ranges)))

    def _take(self, peer: bytes, reader: _Reader, read_id: int, ranges: list[Range]) -> bool:
        """Read at once, where all that is wanted was offered."""
        keys = [tuple(one) for one in ranges]
        if not all(key in reader.offers for key in keys):
            return False
        found = [reader.offers[key] for key in keys]
        for key in keys:
            reader.offers.pop(key, None)
        reader.taken[read_id] = [lease_id for lease_id, _ in found]
        self._out.append(Start(read_id, peer, reader.number, [place for _, place in found]))
        return True

    def _offered(self, peer: bytes, lease_id: int, number: int, range_: list[Any], place: list[Any]) -> None:
        """Keep it for a read; what is of no use, or not valid, is given back."""
        reader = self._readers.get(peer)
        if reader is not None and reader.ready and reader.number == number:
            offers = reader.offers
            valid = _ranges_valid([range_]) and _places_valid([place], 1)
            if valid and len(offers) < MAX_OFFERS and tuple(range_) not in offers:
                offers[tuple(range_)] = (lease_id, place)
                return
        self._out.append(Send(peer, (RDMA_DONE, [lease_id])))

    def _withdrawn(self, peer: bytes, lease_id: int) -> None:
        """The owner asks for an offer back; one that is being read says so when it is done."""
        offers = self._readers[peer].offers if peer in self._readers else {}
        for key, (kept, _) in offers.items():
            if kept == lease_id:
                del offers[key]
                self._out.append(Send(peer, (RDMA_DONE, [lease_id])))
                return

    def _accepted(self, now: float, peer: bytes, number: int, address: bytes | None, reason: str) -> None:
        reader = self._readers.get(peer)
        if reader is None or reader.number != number:
            return
        if address is None:  # the owner cannot, or has lost its device
            self._reader_failed(now, peer, reader, reason)
            return
        if reader.ready:
            return
        reader.ready = True
        reader.pause_s = PAUSE_S
        self._out.append(ConnectReader(peer, number, address))
        waiting, reader.waiting = reader.waiting, {}
        for read_id, ranges in waiting.items():
            self._ask(peer, reader, read_id, ranges)

    def _granted(self, peer: bytes, read_id: int, places: list[Any] | None, error: str) -> None:
        reader = self._readers.get(peer)
        if reader is None or read_id not in reader.asked:
            if places is not None:  # nobody reads any more
                self._out.append(Send(peer, (RDMA_DONE, [read_id])))
            return
        if places is None or not _places_valid(places, reader.asked[read_id]):
            why = error or "the owner's grant is not one"
            del reader.asked[read_id], self._of_read[read_id]
            self._out.append(Refuse(read_id, why))
            if places is not None:
                self._out.append(Send(peer, (RDMA_DONE, [read_id])))
            return
        self._out.append(Start(read_id, peer, reader.number, places))

    def _finished(self, event: Finished) -> None:
        peer = self._of_read.pop(event.read_id, None)
        reader = self._readers.get(peer) if peer is not None else None
        if peer is None or reader is None:
            return
        leases = reader.taken.pop(event.read_id, None)
        if leases is None and reader.asked.pop(event.read_id, None) is not None:
            leases = [event.read_id]
        if leases is not None:
            self._out.append(Send(peer, (RDMA_DONE, leases)))

    def _reader_failed(self, now: float, peer: bytes, reader: _Reader, why: str) -> None:
        number, reader.number, reader.ready, reader.why = reader.number, 0, False, why
        reader.retry_at = now + reader.pause_s
        reader.pause_s = min(2 * reader.pause_s, PAUSE_MAX_S)
        self._out.append(DropReader(peer, number, why))
        self._out.append(Send(peer, (RDMA_CLOSE, number, why)))
        for read_id in [*reader.waiting, *reader.asked, *reader.taken]:
            del self._of_read[read_id]
            self._out.append(Refuse(read_id, why))
        reader.waiting, reader.asked, reader.offers, reader.taken = {}, {}, {}, {}

    # -- the owner's side

    def _connect(self, peer: bytes, number: int, address: bytes) -> None:
        mine = self._responders.setdefault(peer, {})
        if number in mine:
            return
        for old in list(mine):  # a peer has one reader; it made a new one as the old was broken
            self._end_responder(peer, old)
        mine[number] = False
        self._out.append(MakeResponder(peer, number, address))

    def _ask_received(self, peer: bytes, lease_id: int, number: int, ranges: list[Any]) -> None:
        leases = self._leases.setdefault(peer, {})
        self._eager.add(peer)
        why = ""
        if not self._responders.get(peer, {}).get(number):
            why = "the connection that the lease was asked for is gone"
        elif lease_id <= 0 or lease_id in leases or len(leases) >= MAX_LEASES:
            why = "too many leases, or the same twice"
        elif not _ranges_valid(ranges):
            why = "the ranges asked for are not valid"
        if why:
            self._out.append(Send(peer, (RDMA_GRANT, lease_id, None, why)))
            return
        leases[lease_id] = number
        self._out.append(Lend(peer, lease_id, ranges))

    def _lent(self, event: Lent) -> None:
        leases = self._leases.get(event.peer, {})
        if event.lease_id not in leases:
            return
        number, offered = leases[event.lease_id], self._offers.get(event.lease_id)
        if event.places is None:
            del leases[event.lease_id]
            self._offers.pop(event.lease_id, None)
        if offered is None:
            self._out.append(Send(event.peer, (RDMA_GRANT, event.lease_id, event.places, event.error)))
        elif event.places is not None:  # else whoever reads it asks, and is told why not
            words = (RDMA_OFFER, event.lease_id, number, offered, event.places[0])
            self._out.append(Send(event.peer, words))

    def _offer(self, event: Offer) -> None:
        leases = self._leases.setdefault(event.peer, {})
        number = next((one for one, usable in self._responders.get(event.peer, {}).items() if usable), 0)
        if not number or event.peer not in self._eager or len(leases) >= MAX_OFFERS:
            return
        lease_id, self._next_offer = self._next_offer, self._next_offer - 1
        leases[lease_id] = number
        self._offers[lease_id] = event.range
        self._out.append(Lend(event.peer, lease_id, [event.range]))

    def _idle(self, event: Idle) -> None:
        self._eager.discard(event.peer)
        if event.lease_id in self._leases.get(event.peer, {}):
            self._out.append(Send(event.peer, (RDMA_WITHDRAW, event.lease_id)))

    def _end_lease(self, peer: bytes, lease_id: int) -> None:
        if self._leases.get(peer, {}).pop(lease_id, None) is not None:
            self._offers.pop(lease_id, None)
            self._out.append(EndLease(peer, lease_id))

    def _end_responder(self, peer: bytes, number: int) -> None:
        """The only way to end leases early: the queue pair first, then what was lent by it."""
        if self._responders.get(peer, {}).pop(number, None) is None:
            return
        self._out.append(DestroyResponder(peer, number))
        for lease_id, by in list(self._leases.get(peer, {}).items()):
            if by == number:
                self._end_lease(peer, lease_id)

    # -- both

    def _received(self, now: float, peer: bytes, message: list[Any]) -> None:
        kind = message[0]
        if kind == RDMA_CONNECT:
            self._connect(peer, message[1], message[2])
        elif kind == RDMA_ACCEPT:
            self._accepted(now, peer, message[1], message[2], message[3])
        elif kind == RDMA_ASK:
            self._ask_received(peer, message[1], message[2], message[3])
        elif kind == RDMA_GRANT:
            self._granted(peer, message[1], message[2], message[3])
        elif kind == RDMA_DONE:
            for lease_id in message[1]:
                self._end_lease(peer, lease_id)
        elif kind == RDMA_CLOSE:
            self._end_responder(peer, message[1])
        elif kind == RDMA_OFFER:
            self._offered(peer, message[1], message[2], message[3], message[4])
        elif kind == RDMA_WITHDRAW:
            self._withdrawn(peer, message[1])

    def _made(self, event: Made) -> None:
        if event.reader:
            reader = self._readers.get(event.peer)
            if reader is not None and reader.number == event.number:
                self._out.append(Send(event.peer, (RDMA_CONNECT, event.number, event.address)))
        elif event.number in self._responders.get(event.peer, {}):
            self._responders[event.peer][event.number] = True
            self._out.append(Send(event.peer, (RDMA_ACCEPT, event.number, event.address, "")))

    def _failed(self, now: float, event: Failed) -> None:
        if event.reader:
            reader = self._readers.get(event.peer)
            if reader is not None and reader.number == event.number:
                self._reader_failed(now, event.peer, reader, event.why)
        elif self._responders.get(event.peer, {}).pop(event.number, None) is not None:
            self._out.append(Send(event.peer, (RDMA_ACCEPT, event.number, None, event.why)))

    def _lost(self, peer: bytes) -> None:
        for number in list(self._responders.get(peer, ())):
            self._end_responder(peer, number)
        self._responders.pop(peer, None)
        self._leases.pop(peer, None)
        self._eager.discard(peer)
        reader = self._readers.pop(peer, None)
        if reader is None:
            return
        if reader.number:
            self._out.append(DropReader(peer, reader.number, "the owner of the memory is gone"))
        for read_id in [*reader.waiting, *reader.asked, *reader.taken]:
            del self._of_read[read_id]
            self._out.append(Refuse(read_id, "the owner of the memory is gone"))

    def _device_lost(self, now: float, why: str) -> None:
        for peer, mine in self._responders.items():
            for number in list(mine):
                self._end_responder(peer, number)
                self._out.append(Send(peer, (RDMA_ACCEPT, number, None, why)))
        for peer, reader in self._readers.items():
            if reader.number:
                self._reader_failed(now, peer, reader, why)


def _ranges_valid(ranges: list[Any]) -> bool:
    if len(ranges) > MAX_RANGES:
        return False
    return all(
        type(one) is list and len(one) == 4 and all(type(item) is int for item in one) and one[0] != 0
        and one[1] >= 0 and one[2] >= 0
        for one in ranges
    )  # fmt: skip


def _places_valid(places: list[Any], count: int) -> bool:
    """A truncated or lying grant is refused before any work request is posted."""
    return len(places) == count and all(
        type(one) is list and len(one) == 2 and all(type(item) is int for item in one)
        and 0 <= one[0] < 2**64 and 0 <= one[1] < 2**32
        for one in places
    )  # fmt: skip
