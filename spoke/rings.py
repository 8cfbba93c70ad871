"""Rings: shared memory that the frames of a busy link between two processes of a node go through.

    who connected                              who was connected to
    RING_PART(0..2), a descriptor each  ──▶    joins the ring
    takes frames out of the ring        ◀──    RING_SWITCH, its last frame by the socket
    RING_SWITCH, the same               ──▶    takes frames out of the ring

Nobody looks into the ring before the peer's RING_SWITCH, so the frames of each direction stay in order
(CALL-2).  The socket stays as the peer's sign of life, and carries descriptors.  Links that are used
seldom keep to their sockets; a process has at most `RINGS_MAX` rings, as it looks into all of them
before it sleeps.  Nothing depends on a ring: where none can be made, the socket goes on.

All methods run with the client's lock held.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from spoke import wire
from spoke._native import Ring
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.links import Link

RINGS_MAX: Final = 64
PARTS: Final = 3
_SWITCH: Final = encode(wire.RING_SWITCH)


class Rings:
    """One client's part in it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.handlers = {wire.RING_PART: self._on_part, wire.RING_SWITCH: self._on_switch}

    def offer(self, conn: int) -> None:
        """The link that this process made is busy."""
        client = self._client
        link = client.links.by_conn.get(conn)
        if link is None or client.rdma.pipes.busy(link.peer) or not self._room(link):
            return
        try:
            ring = link.ring = Ring()
        except OSError:
            return  # no descriptors or no memory left
        for index, descriptor in enumerate(ring.fds):
            client.reactor.send(conn, encode(wire.RING_PART, index), None, descriptor)
        ring.passed()

    def _room(self, link: Link) -> bool:
        made = sum(1 for other in self._client.links.by_conn.values() if other.ring is not None)
        return link.ring is None and made < RINGS_MAX

    def _on_part(self, link: Link, message: list[Any], payload: Any) -> None:
        if message[1] != PARTS - 1:
            return  # the reactor keeps the descriptors until all are there
        reactor = self._client.reactor
        parts = [reactor.take_fd(link.conn) for _ in range(PARTS)]
        if min(parts) < 0 or not self._room(link):
            for part in parts:
                if part >= 0:
                    os.close(part)
            return
        try:
            link.ring = Ring.join(*parts)
            reactor.divert(link.conn, link.ring, _SWITCH)
        except OSError:
            link.ring = None

    def _on_switch(self, link: Link, message: list[Any], payload: Any) -> None:
        ring = link.ring
        if ring is None:
            return
        try:
            self._client.reactor.receive_from(link.conn, ring)
            if link.dialed:
                self._client.reactor.divert(link.conn, ring, _SWITCH)
        except OSError:
            pass  # the connection is gone: whoever polls is told
