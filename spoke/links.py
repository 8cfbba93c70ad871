"""The links of one process: made on demand, authenticated, one per peer, kept until one side ends.

Everything here runs under the client's lock or before it has threads.  Connecting never waits for
the peer's program: the handshake is carried on by whoever polls, and messages for a peer wait in the
link's outbox until both sides have proven the token.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from spoke import wire
from spoke._native import Reactor, Ring
from spoke.core.session import FAILED, NONCE_BYTES, READY, Session
from spoke.errors import ProtocolError
from spoke.link import TRUSTED_FRAME_BYTES, ServerHandshakes, target_of
from spoke.wire import decode, encode

CONNECT_TIMEOUT_S: Final = 2.0
HELD_MAX: Final = 16  # frames held back for one peer

BUSY_FRAMES: Final = 64  # after so many frames that came by it, a link is worth a ring

FRAME, CLOSED, ACCEPTED, READABLE, WOKEN, RESUMED, BUSY = range(7)


class Link:
    """One connection to a peer."""

    __slots__ = (
        "conn", "dialed", "outbox", "peer", "ready", "ring", "sent_functions", "session", "shared",
    )  # fmt: skip

    def __init__(self, conn: int, peer: bytes, session: Session | None) -> None:
        self.conn = conn
        self.peer = peer
        self.session = session  # None once trusted
        self.dialed = session is not None  # this process made the connection
        self.ready = session is None
        self.outbox: list[tuple[bytes, Any]] = []
        self.sent_functions: set[bytes] = set()
        self.ring: Ring | None = None  # see rings.py
        self.shared: set[int] = set()  # segments whose descriptors went over this link, see sharing.py


class Links:
    """All links of this process."""

    def __init__(self, reactor: Reactor, token: bytes, my_id: bytes, my_node_id: bytes) -> None:
        self.reactor = reactor
        self.token = token
        self.my_id = my_id
        self.my_node_id = my_node_id
        self.by_conn: dict[int, Link] = {}
        self.by_peer: dict[bytes, Link] = {}
        self.held: dict[int, int] = {}  # frames held back, by connection
        self.broken: list[int] = []  # connections cut by us that nobody was told of yet
        self.handshakes = ServerHandshakes(reactor, token, my_id)

    def adopt(self, conn: int, peer: bytes) -> Link:
        """A connection that is already trusted."""
        link = Link(conn, peer, None)
        self.by_conn[conn] = link
        self.by_peer.setdefault(peer, link)
        return link

    def open(self, peer: bytes, address: wire.Address) -> Link:
        """The link to a peer, opened if there is none.

        Raises:
            OSError: nobody listens there.
        """
        link = self.by_peer.get(peer)
        if link is not None:
            return link
        target = target_of(address, self.my_node_id)
        if isinstance(target, bytes):
            conn = self.reactor.connect_unix(target)
        else:
            conn = self.reactor.connect_tcp(target[0], target[1], CONNECT_TIMEOUT_S)
        session = Session("client", self.token, self.my_id, os.urandom(NONCE_BYTES), "peer")
        link = Link(conn, peer, session)
        self.by_conn[conn] = link
        self.by_peer[peer] = link
        for message in session.open():
            self.reactor.send(conn, encode(*message))
        return link

    def send(self, link: Link, meta: bytes, payload: Any = None) -> None:
        if link.ready:
            self.reactor.send(link.conn, meta, payload)
        else:
            link.outbox.append((meta, payload))

    def flush_held(self) -> None:
        """Write all that is held back; safe in any thread."""
        while self.held:
            try:
                conn, _ = self.held.popitem()
            except KeyError:
                return  # another thread was faster
            self.reactor.flush(conn)

    def accepted(self, conn: int) -> None:
        self.handshakes.accepted(conn, time.monotonic())

    def handshake_frame(self, conn: int, meta: bytes) -> None:
        """A frame of a connection that is not a ready link: part of a handshake, or nothing."""
        link = self.by_conn.get(conn)
        if link is None:
            trusted = self.handshakes.frame(conn, meta)
            if trusted is not None:
                self.adopt(conn, trusted.peer_id)
            return
        session = link.session
        assert session is not None
        try:
            replies = session.feed(decode(meta))
        except ProtocolError:
            self._broken(link)
            return
        for message in replies:
            self.reactor.send(conn, encode(*message))
        if session.state == READY and session.peer_id == link.peer:
            self._ready(link)
        elif session.state in (READY, FAILED):
            self._broken(link)

    def _ready(self, link: Link) -> None:
        link.session = None
        link.ready = True
        self.reactor.set_limit(link.conn, TRUSTED_FRAME_BYTES)
        if self.reactor.peer_uid(link.conn) is not None:
            self.reactor.report_busy(link.conn, BUSY_FRAMES)
        outbox, link.outbox = link.outbox, []
        for meta, payload in outbox:
            self.reactor.send(link.conn, meta, payload)

    def _broken(self, link: Link) -> None:
        """Cut it; whoever polls then treats it as closed (`broken`)."""
        self.reactor.close(link.conn)
        self.broken.append(link.conn)

    def closed(self, conn: int) -> Link | None:
        """A connection ended; its link if it was one."""
        self.handshakes.closed(conn)
        link = self.by_conn.pop(conn, None)
        if link is not None and self.by_peer.get(link.peer) is link:
            del self.by_peer[link.peer]
            for other in self.by_conn.values():  # both sides may have connected at once
                if other.peer == link.peer:
                    self.by_peer[link.peer] = other
                    break
        return link
