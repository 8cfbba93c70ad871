"""Making links: connect, prove the token, and only then hand the connection to the reactor.

The client's side runs on a plain blocking socket before the reactor knows it, so it needs nobody to
poll and may be called from any thread.  It reads exactly the bytes of the handshake, never one more.
The server's side is `ServerHandshakes`, fed by whoever polls.  Nothing that an unproven peer sends
reaches anyone else (SEC-1), and what it may send, hold and take in time is bounded (LIM-1).

Rule for both sides: `_socket` rather than `socket` (whose import costs 5 ms in every worker).
"""

from __future__ import annotations

import os
import time
from _socket import AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, SOCK_STREAM, TCP_NODELAY, gaierror
from _socket import socket as _Socket
from typing import TYPE_CHECKING, Any

from spoke import limits
from spoke.core.session import FAILED, NONCE_BYTES, OPENING, READY, Session
from spoke.errors import AuthenticationError, ProtocolError
from spoke.wire import decode, encode, unix_name

if TYPE_CHECKING:
    from spoke._native import Reactor

Target = bytes | tuple[str, int]  # abstract unix name, or host and port

TRUSTED_FRAME_BYTES = 2**31 - 1


def target_of(address: list[Any], my_node_id: bytes) -> Target:
    """How to reach the process of a `wire.Address` from a process of node `my_node_id`.

    Raises:
        ConnectionError: when it listens on its own node only, and this is another.
    """
    process_id, node_id, host, port = address
    if node_id == my_node_id:
        return unix_name(process_id)
    if not port:
        raise ConnectionError(f"process {process_id.hex()[:12]} on {host} listens on its own node only")
    return (host, port)


def parse_target(text: str) -> tuple[str, int]:
    """``"host:port"`` (or ``"[v6]:port"``, or with ``spoke://`` or ``ray://`` before it) as a pair.

    Raises:
        ValueError: anything else.
    """
    rest = text.split("://", 1)[-1]
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not an address of the form host:port")
    return host, int(port)


def describe(target: Target) -> str:
    """A target as a person reads it."""
    if isinstance(target, bytes):
        name = target.decode("ascii", "replace")
        return "unix:" + name[1:] if name[:1] == "\0" else name
    return f"{target[0]}:{target[1]}"


def connect(
    reactor: Reactor,
    target: Target,
    token: bytes,
    my_id: bytes,
    role: str,
    timeout_s: float = limits.HANDSHAKE_TIMEOUT_S,
    expect_id: bytes | None = None,
) -> tuple[int, bytes]:
    """Connect to `target`, finish the handshake, and give the connection to `reactor`.

    Args:
        role: what this process is to the other: "driver", "worker", "agent", ...
        timeout_s: limit in seconds for connection and handshake together.
        expect_id: the process id that must answer; None takes any.

    Returns:
        The reactor's connection id, and the process id of the peer.

    Raises:
        OSError: nobody listens, or no route (with errno); TimeoutError after `timeout_s`.
        ConnectionError: the peer closed, or is not the expected process.
        AuthenticationError: token or version do not match.
        ProtocolError: what answers does not speak this protocol.
    """
    plain, peer_id = open_proven(target, token, my_id, role, timeout_s, expect_id)
    return adopt(reactor, plain), peer_id


def adopt(reactor: Reactor, plain: _Socket) -> int:
    """Hand a proven socket to the reactor; returns the connection id."""
    conn = reactor.adopt(plain.detach())
    reactor.set_limit(conn, TRUSTED_FRAME_BYTES)
    return conn


def open_proven(
    target: Target,
    token: bytes,
    my_id: bytes,
    role: str,
    timeout_s: float = limits.HANDSHAKE_TIMEOUT_S,
    expect_id: bytes | None = None,
) -> tuple[_Socket, bytes]:
    """As `connect`, but the socket is not with a reactor yet."""
    deadline = time.monotonic() + timeout_s
    plain = dial(target, timeout_s)
    try:
        session = Session("client", token, my_id, os.urandom(NONCE_BYTES), role)
        peer_id = _handshake(plain, session, target, deadline)
        if expect_id is not None and peer_id != expect_id:
            raise ConnectionError(f"another process answers at {describe(target)}")
        plain.setblocking(False)
    except BaseException:
        plain.close()
        raise
    return plain, peer_id


def dial(target: Target, timeout_s: float) -> _Socket:
    """A connected blocking stream socket.  Raises OSError naming the target."""
    if isinstance(target, bytes):
        plain = _Socket(AF_UNIX, SOCK_STREAM)
        where: Any = target
    else:
        plain = _Socket(AF_INET6 if ":" in target[0] else AF_INET, SOCK_STREAM)
        where = target
    try:
        plain.settimeout(timeout_s)
        plain.connect(where)
        if not isinstance(target, bytes):
            plain.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    except TimeoutError:
        plain.close()
        raise TimeoutError(f"no answer from {describe(target)} within {timeout_s:g} s") from None
    except gaierror as error:
        plain.close()
        raise OSError(error.errno, f"{describe(target)}: {error.strerror}") from None
    except OSError as error:
        plain.close()
        raise type(error)(error.errno, f"{describe(target)}: {error.strerror}") from None
    return plain


def _handshake(plain: _Socket, session: Session, target: Target, deadline: float) -> bytes:
    replies = session.open()
    while True:
        for reply in replies:
            meta = encode(*reply)
            _send_all(plain, len(meta).to_bytes(4, "little") + bytes(4) + meta, target, deadline)
        if session.state == READY:
            return session.peer_id
        if session.state == FAILED:
            raise AuthenticationError(f"{describe(target)} and this process do not agree: {session.reason}")
        replies = session.feed(decode(_read_frame(plain, target, deadline)))


def read_message(plain: _Socket, timeout_s: float) -> list[Any]:
    """One small message from a plain blocking socket that is trusted already.

    Raises:
        TimeoutError, ConnectionError, ProtocolError: none came in time, the link ended, not a message.
    """
    return decode(_read_frame(plain, b"the daemon", time.monotonic() + timeout_s))


def _read_frame(plain: _Socket, target: Target, deadline: float) -> bytes:
    head = _read_exactly(plain, 8, target, deadline)
    meta_bytes = int.from_bytes(head[:4], "little")
    if not 0 < meta_bytes <= limits.MAX_HANDSHAKE_BYTES or head[4:] != bytes(4):
        raise ProtocolError(f"what answers at {describe(target)} does not speak spoke's protocol")
    return _read_exactly(plain, meta_bytes, target, deadline)


def _read_exactly(plain: _Socket, count: int, target: Target, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        try:
            _arm(plain, deadline)
            piece = plain.recv(count - len(data))
        except TimeoutError:
            raise TimeoutError(f"{describe(target)} did not finish the handshake in time") from None
        if not piece:
            raise ConnectionResetError(f"{describe(target)} closed the link during the handshake")
        data += piece
    return data


def _send_all(plain: _Socket, data: bytes, target: Target, deadline: float) -> None:
    try:
        _arm(plain, deadline)
        plain.sendall(data)
    except TimeoutError:
        raise TimeoutError(f"{describe(target)} did not finish the handshake in time") from None


def _arm(plain: _Socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    plain.settimeout(left)


class Trusted:
    """A connection whose peer proved the token."""

    __slots__ = ("conn", "peer_id", "role")

    def __init__(self, conn: int, peer_id: bytes, role: str) -> None:
        self.conn = conn
        self.peer_id = peer_id
        self.role = role


class ServerHandshakes:
    """The accepted connections that have not proven the token yet.

    The poll loop gives every ACCEPTED connection to `accepted`, and the frames and the end of each
    connection that is ``in`` this object to `frame` and `closed`.  Times are monotonic seconds.
    """

    __slots__ = ("_deadlines", "_my_id", "_reactor", "_sessions", "_token")

    def __init__(self, reactor: Reactor, token: bytes, my_id: bytes) -> None:
        self._reactor = reactor
        self._token = token
        self._my_id = my_id
        self._sessions: dict[int, Session] = {}
        self._deadlines: dict[int, float] = {}

    def __contains__(self, conn: int) -> bool:
        return conn in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def accepted(self, conn: int, now: float) -> None:
        """A new connection; beyond `limits.MAX_UNPROVEN_LINKS` the oldest unproven one is closed."""
        if len(self._sessions) >= limits.MAX_UNPROVEN_LINKS:
            self._discard(next(iter(self._sessions)))
        self._reactor.set_limit(conn, limits.MAX_HANDSHAKE_BYTES)
        self._sessions[conn] = Session("server", self._token, self._my_id, os.urandom(NONCE_BYTES))
        self._deadlines[conn] = now + limits.HANDSHAKE_TIMEOUT_S

    def frame(self, conn: int, meta: bytes) -> Trusted | None:
        """A frame of an unproven connection; returns the peer once it proved the token."""
        session = self._sessions.get(conn)
        if session is None:
            return None
        try:
            replies = session.feed(decode(meta))
        except ProtocolError:
            self._discard(conn)
            return None
        for reply in replies:
            self._reactor.send(conn, encode(*reply))
        if session.state == OPENING:
            return None
        if session.state == FAILED:
            self._discard(conn)
            return None
        self.closed(conn)
        self._reactor.set_limit(conn, TRUSTED_FRAME_BYTES)
        return Trusted(conn, session.peer_id, session.peer_role)

    def closed(self, conn: int) -> None:
        """Forget a connection that ended, or left for another owner."""
        self._sessions.pop(conn, None)
        self._deadlines.pop(conn, None)

    def expire(self, now: float) -> float | None:
        """Close what took too long; returns when to call this again, None for never."""
        for conn, deadline in list(self._deadlines.items()):
            if deadline > now:
                return deadline  # in order of acceptance, so the first is the earliest
            self._discard(conn)
        return None

    def _discard(self, conn: int) -> None:
        self.closed(conn)
        self._reactor.close(conn)
