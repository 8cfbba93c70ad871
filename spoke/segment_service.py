"""What the agent answers to processes: make a segment, map one, read a block, give one back.

Descriptors travel over unix sockets only, so a process of another node asks for bytes instead
(READ_BLOCK).  What a reader does not take is copied into the link's queue, so no block is sent on a
link whose queue is long: the request waits (`pump`), in order, and the reader's pace sets ours (LIM-1).
Readers ask for pieces of a few MiB; one answer carries at most `limits.MAX_PAYLOAD_BYTES`.

Processes keep a few empty segments, which are warm.  Where a new segment finds no room, all others are
asked to give theirs back (TRIM), and the answer waits for their word.  Who mapped a segment is told when
it is gone (UNMAP), so that its memory really is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from spoke import _native, limits, stamps
from spoke.errors import ObjectLostError
from spoke.segments import WHOLE, SegmentTable, StoreFull
from spoke.wire import (
    BLOCK,
    MAP_SEGMENT,
    MAPPED,
    NEW_SEGMENT,
    OFFER_SEGMENT,
    ORPHAN_FREE,
    READ_BLOCK,
    SEGMENT,
    TRIM,
    TRIMMED,
    UNMAP,
    encode,
)

KINDS: Final = frozenset((NEW_SEGMENT, MAP_SEGMENT, MAPPED, READ_BLOCK, ORPHAN_FREE, TRIMMED, OFFER_SEGMENT))

LONG_QUEUE_BYTES: Final = 16 * limits.MIB
MAX_WAITING_READS: Final = 4096  # of one link; beyond, a reader is told to slow down
TRIM_ANSWER_S: Final = 2.0  # a process that is stopped does not keep the others from their answer


class Sender(Protocol):
    """The part of `_native.Reactor` that is needed here."""

    def send(self, conn: int, meta: bytes, payload: Any = None, fd: int = -1) -> int: ...

    def queued(self, conn: int) -> int: ...

    def take_fd(self, conn: int) -> int: ...


class SegmentService:
    """Serves one node's `SegmentTable` to its processes and to other nodes.

    Args:
        after_s: runs a function so many seconds later.
    """

    def __init__(
        self, table: SegmentTable, sender: Sender, after_s: Callable[[float, Callable[[], None]], Any]
    ) -> None:
        self.table = table
        self._sender = sender
        self._after_s = after_s
        self._waiting: dict[int, deque[list[Any]]] = {}  # conn -> READ_BLOCKs in order
        self._conns: dict[bytes, int] = {}  # of the processes that have asked for segments
        self._mapped: dict[int, dict[int, None]] = {}  # conn -> ids of segments it was given
        self._short: list[tuple[int, bytes, int, int]] = []  # NEW_SEGMENTs that wait for `_asked`
        self._asked: dict[int, None] = {}  # connections whose TRIMMED is awaited
        table.on_drop = self._dropped

    def message(self, conn: int, peer_id: bytes, message: list[Any]) -> None:
        """One message whose kind is in `KINDS`, of the proven process `peer_id`."""
        kind = message[0]
        if kind == NEW_SEGMENT:
            self._new(conn, peer_id, message[1], message[2])
        elif kind == MAP_SEGMENT:
            self._map(conn, message[1], message[2])
        elif kind == MAPPED:
            self._note_mapping(conn, message[1])
        elif kind == READ_BLOCK:
            self._read(conn, message)
        elif kind == ORPHAN_FREE:
            self.table.orphan_free(message[1], message[2], peer_id)
            if message[2] != WHOLE and self.table.get(message[1]) is None:
                self._sender.send(conn, encode(UNMAP, message[1]))  # it need not count any longer
        elif kind == OFFER_SEGMENT:
            self._adopt(conn, peer_id, message[1], message[2])
        elif kind == TRIMMED:
            self._trimmed(conn)

    def link_closed(self, conn: int) -> None:
        """Nothing more can be answered there."""
        self._waiting.pop(conn, None)
        self._mapped.pop(conn, None)
        for owner in [owner for owner, known in self._conns.items() if known == conn]:
            del self._conns[owner]
        self._trimmed(conn)

    def _dropped(self, segment_id: int) -> None:
        for conn, mapped in self._mapped.items():
            if segment_id in mapped:
                del mapped[segment_id]
                self._sender.send(conn, encode(UNMAP, segment_id))

    def pump(self) -> bool:
        """Answer reads that waited for their link; True while some still wait."""
        for conn, reads in list(self._waiting.items()):
            while reads and self._sender.queued(conn) <= LONG_QUEUE_BYTES:
                self._answer_read(conn, reads.popleft())
            if not reads:
                del self._waiting[conn]
        return bool(self._waiting)

    def _new(self, conn: int, owner: bytes, request_id: int, size: int, last: bool = False) -> None:
        self._conns[owner] = conn
        try:
            segment_id, segment = self.table.add(owner, size)
        except StoreFull as error:
            if last or not self._ask_others(owner):
                self._refuse(conn, SEGMENT, request_id, "ObjectStoreFullError", str(error))
            else:
                self._short.append((conn, owner, request_id, size))
        except ValueError as error:
            self._refuse(conn, SEGMENT, request_id, "ValueError", str(error))
        else:
            self._sender.send(conn, encode(SEGMENT, request_id, segment_id, size, None), None, segment.fd)

    def _adopt(self, conn: int, owner: bytes, segment_id: int, size: int) -> None:
        """What was the agent's before this one."""
        self._conns[owner] = conn
        fd = self._sender.take_fd(conn)
        try:
            self.table.adopt(owner, segment_id, _native.Segment.map(fd, size, True))
        finally:
            os.close(fd)

    def _ask_others(self, owner: bytes) -> bool:
        """Ask all but `owner` for their empty segments; whether there is anybody to wait for."""
        others = [self._conns[one] for one in self.table.owners() if one != owner and one in self._conns]
        if not self._asked and others:
            self._after_s(TRIM_ANSWER_S, self._give_up)
        for conn in others:
            if conn not in self._asked:
                self._asked[conn] = None
                self._sender.send(conn, encode(TRIM))
        return bool(others)

    def _trimmed(self, conn: int) -> None:
        if conn in self._asked:
            del self._asked[conn]
            if not self._asked:
                self._try_again()

    def _give_up(self) -> None:
        self._asked.clear()
        self._try_again()

    def _try_again(self) -> None:
        short, self._short = self._short, []
        for request in short:
            self._new(*request, last=True)

    def _map(self, conn: int, request_id: int, segment_id: int) -> None:
        entry = self.table.get(segment_id)
        if entry is None:
            text = f"segment {segment_id} is not on this node (any more)"
            self._refuse(conn, SEGMENT, request_id, "ObjectLostError", text)
            return
        meta = encode(SEGMENT, request_id, segment_id, entry.bytes, None)
        self._mapped.setdefault(conn, {})[segment_id] = None
        self._sender.send(conn, meta, None, entry.segment.fd)

    def _note_mapping(self, conn: int, segment_id: int) -> None:
        """The process has mapped a segment that another one passed to it."""
        if self.table.get(segment_id) is None:
            self._sender.send(conn, encode(UNMAP, segment_id))
        else:
            self._mapped.setdefault(conn, {})[segment_id] = None

    def _read(self, conn: int, message: list[Any]) -> None:
        waiting = self._waiting.get(conn)
        if waiting is None and self._sender.queued(conn) <= LONG_QUEUE_BYTES:
            self._answer_read(conn, message)
            return
        if waiting is None:
            waiting = self._waiting[conn] = deque()
        if len(waiting) >= MAX_WAITING_READS:
            text = f"{MAX_WAITING_READS} reads of this process wait already"
            self._refuse(conn, BLOCK, message[1], "RaySystemError", text)
            return
        waiting.append(message)

    def _answer_read(self, conn: int, message: list[Any]) -> None:
        _, request_id, segment_id, offset, length, generation, place = message
        entry = self.table.get(segment_id)
        if entry is None:
            text = f"segment {segment_id} is not on this node (any more)"
            self._refuse(conn, BLOCK, request_id, "ObjectLostError", text)
            return
        if not 0 <= length <= limits.MAX_PAYLOAD_BYTES or not 0 <= offset <= entry.bytes - length:
            text = f"bytes {offset} to {offset + length} are not inside segment {segment_id} of {entry.bytes}"
            self._refuse(conn, BLOCK, request_id, "ValueError", text)
            return
        try:
            stamps.check(entry.segment, entry.bytes, [segment_id, offset, length, generation, place])
        except ObjectLostError as error:
            self._refuse(conn, BLOCK, request_id, "ObjectLostError", str(error))
            return
        payload = entry.segment.view(offset, length) if length else None
        self._sender.send(conn, encode(BLOCK, request_id, None), payload)

    def _refuse(self, conn: int, kind: int, request_id: int, error: str, text: str) -> None:
        fields = (0, 0, [error, text]) if kind == SEGMENT else ([error, text],)
        self._sender.send(conn, encode(kind, request_id, *fields))
