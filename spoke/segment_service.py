"""What the agent answers to processes: make a segment, map one, read a block, give one back.

Descriptors travel over unix sockets only, so a process of another node asks for bytes instead
(READ_BLOCK).  What a reader does not take is copied into the link's queue, so no block is sent on a
link whose queue is long: the request waits (`pump`), in order, and the reader's pace sets ours (LIM-1).
Readers ask for pieces of a few MiB; one answer carries at most `limits.MAX_PAYLOAD_BYTES`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from spoke import limits
from spoke.segments import SegmentTable, StoreFull
from spoke.wire import BLOCK, MAP_SEGMENT, NEW_SEGMENT, ORPHAN_FREE, READ_BLOCK, SEGMENT, encode

KINDS: Final = frozenset((NEW_SEGMENT, MAP_SEGMENT, READ_BLOCK, ORPHAN_FREE))

LONG_QUEUE_BYTES: Final = 16 * limits.MIB
MAX_WAITING_READS: Final = 4096  # of one link; beyond, a reader is told to slow down


class Sender(Protocol):
    """The part of `_native.Reactor` that is needed here."""

    def send(self, conn: int, meta: bytes, payload: Any = None, fd: int = -1) -> int: ...

    def queued(self, conn: int) -> int: ...


class SegmentService:
    """Serves one node's `SegmentTable` to its processes and to other nodes."""

    def __init__(self, table: SegmentTable, sender: Sender) -> None:
        self.table = table
        self._sender = sender
        self._waiting: dict[int, deque[list[Any]]] = {}  # conn -> READ_BLOCKs in order

    def message(self, conn: int, peer_id: bytes, message: list[Any]) -> None:
        """One message whose kind is in `KINDS`, of the proven process `peer_id`."""
        kind = message[0]
        if kind == NEW_SEGMENT:
            self._new(conn, peer_id, message[1], message[2])
        elif kind == MAP_SEGMENT:
            self._map(conn, message[1], message[2])
        elif kind == READ_BLOCK:
            self._read(conn, message)
        elif kind == ORPHAN_FREE:
            self.table.orphan_free(message[1], message[2], peer_id)

    def link_closed(self, conn: int) -> None:
        """Nothing more can be answered there."""
        self._waiting.pop(conn, None)

    def pump(self) -> bool:
        """Answer reads that waited for their link; True while some still wait."""
        for conn, reads in list(self._waiting.items()):
            while reads and self._sender.queued(conn) <= LONG_QUEUE_BYTES:
                self._answer_read(conn, reads.popleft())
            if not reads:
                del self._waiting[conn]
        return bool(self._waiting)

    def _new(self, conn: int, owner: bytes, request_id: int, size: int) -> None:
        try:
            segment_id, segment = self.table.add(owner, size)
        except StoreFull as error:
            self._refuse(conn, SEGMENT, request_id, "ObjectStoreFullError", str(error))
        except ValueError as error:
            self._refuse(conn, SEGMENT, request_id, "ValueError", str(error))
        else:
            self._sender.send(conn, encode(SEGMENT, request_id, segment_id, size, None), None, segment.fd)

    def _map(self, conn: int, request_id: int, segment_id: int) -> None:
        entry = self.table.get(segment_id)
        if entry is None:
            text = f"segment {segment_id} is not on this node (any more)"
            self._refuse(conn, SEGMENT, request_id, "ObjectLostError", text)
            return
        meta = encode(SEGMENT, request_id, segment_id, entry.bytes, None)
        self._sender.send(conn, meta, None, entry.segment.fd)

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
        _, request_id, segment_id, offset, length = message
        entry = self.table.get(segment_id)
        if entry is None:
            text = f"segment {segment_id} is not on this node (any more)"
            self._refuse(conn, BLOCK, request_id, "ObjectLostError", text)
            return
        if not 0 <= length <= limits.MAX_PAYLOAD_BYTES or not 0 <= offset <= entry.bytes - length:
            text = f"bytes {offset} to {offset + length} are not inside segment {segment_id} of {entry.bytes}"
            self._refuse(conn, BLOCK, request_id, "ValueError", text)
            return
        payload = entry.segment.view(offset, length) if length else None
        self._sender.send(conn, encode(BLOCK, request_id, None), payload)

    def _refuse(self, conn: int, kind: int, request_id: int, error: str, text: str) -> None:
        fields = (0, 0, [error, text]) if kind == SEGMENT else ([error, text],)
        self._sender.send(conn, encode(kind, request_id, *fields))
