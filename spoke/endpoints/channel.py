"""Connections to servers of plain objects (`spoke.endpoints.server`): calls out, futures back.

Rules of this module: one thread and one reactor per process serve all connections; they exist while
somebody holds a `Channel`.  Every link begins with the handshake over a token (SEC-1): the cluster's where
this process is connected to one, else `SPOKE_TOKEN` or `SPOKE_TOKEN_FILE`, else one that is made up and
known to this process only.  A call is sent once; when the connection ends, its futures fail with
`ActorUnavailableError`.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Any, Final

from spoke import codec, config, current, errorpack, link, token, wire
from spoke._native import Reactor
from spoke.errors import ActorUnavailableError
from spoke.links import CLOSED, FRAME

VALUE: Final = 0  # statuses of ENDPOINT_REPLY
ERROR: Final = 1  # of the user's code, pickled
MISSING: Final = 2  # no such object or method: text

CONNECT_S: Final = 10.0

_lock = threading.Lock()
_hub: _Poller | None = None
_own_token = b""


def default_token() -> bytes:
    """See the module's rules."""
    global _own_token
    if current.client is not None:
        return current.client.links.token
    given = token.resolve(config.get("token"), config.get("token_file"), None)
    if given is not None:
        return given
    with _lock:
        _own_token = _own_token or token.generate()
    return _own_token


def pack(value: Any) -> bytes:
    """Pickled, buffers included; refs of a cluster have no place here."""
    body, buffers, refs = codec.dumps(value)
    if refs:
        raise TypeError(
            "an ObjectRef or actor handle cannot be sent to a server of plain objects: pass its value"
        )
    import msgpack

    return bytes(msgpack.packb([body, *(bytes(memoryview(one)) for one in buffers)]))


def unpack(payload: Any) -> Any:
    """The value that `pack` packed."""
    import msgpack

    body, *buffers = msgpack.unpackb(payload, max_bin_len=2**31 - 1)
    return codec.loads(body, [memoryview(bytearray(one)) for one in buffers])


def parse_url(url: str) -> tuple[tuple[str, int], str]:
    """``spoke://host:port/name`` (the scheme may be missing) -> address, name ("" when there is none).

    Raises:
        ValueError: not such a text.
    """
    plain = url.partition("://")[2] if "://" in url else url
    where, _, name = plain.partition("/")
    try:
        return link.parse_target(where), name
    except ValueError:
        raise ValueError(f"{url!r} is no address of a server: write spoke://host:port/name") from None


class _Poller:
    """The thread behind all channels."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.channels: dict[int, Channel] = {}
        self.users = 0
        self._ending = False
        self.thread = threading.Thread(target=self._run, name="spoke-endpoints", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self._ending:
            for kind, conn, meta, payload in self.reactor.poll(1_000_000):
                channel = self.channels.get(conn)
                if channel is None:
                    continue
                if kind == FRAME:
                    channel._answered(wire.decode(meta), payload)
                elif kind == CLOSED:
                    del self.channels[conn]
                    channel._lost("the server closed the connection")

    def end(self) -> None:
        self._ending = True
        self.reactor.wake()
        if threading.current_thread() is not self.thread:
            self.thread.join()
        self.reactor.close_all()


class Channel:
    """A connection to one server, opened at the first call and again after it was lost.

    Args:
        target: host and port.
        secret: the token.  [default: `default_token`]
    """

    def __init__(self, target: tuple[str, int], secret: bytes | None = None) -> None:
        global _hub
        self.target = target
        self._secret = secret
        self._conn = -1
        self._next = 0
        self._calls: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._closed = False
        with _lock:
            if _hub is None:
                _hub = _Poller()
            _hub.users += 1
            self._hub = _hub

    def call(self, actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Start a call.

        Raises:
            TypeError: the arguments do not pickle.
            ActorUnavailableError: nobody listens there.
            AuthenticationError: the server has another token.
        """
        body = pack((args, kwargs))
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            conn = self._connected()
            self._next += 1
            self._calls[self._next] = future
            self._hub.reactor.send(conn, wire.encode(wire.ENDPOINT_CALL, self._next, actor, method), body)
        return future

    def _connected(self) -> int:
        if self._closed:
            raise RuntimeError("the connection was closed")
        if self._conn < 0:
            where = link.describe(self.target)
            secret = self._secret or default_token()
            try:
                conn, _ = link.connect(
                    self._hub.reactor, self.target, secret, os.urandom(28), "caller", CONNECT_S
                )
            except OSError as error:
                raise ActorUnavailableError(f"no server at {where}: {error}") from None
            self._conn = conn
            self._hub.channels[conn] = self
        return self._conn

    def _answered(self, message: list[Any], payload: Any) -> None:
        with self._lock:
            future = self._calls.pop(message[1], None)
        if future is None:
            return
        try:
            if message[2] == VALUE:
                future.set_result(unpack(payload))
            elif message[2] == ERROR:
                future.set_exception(errorpack.unpack(bytes(payload)))
            else:
                future.set_exception(AttributeError(message[3]))
        except Exception as error:  # a value whose class this process cannot build
            future.set_exception(error)

    def _lost(self, reason: str) -> None:
        with self._lock:
            calls, self._calls = self._calls, {}
            self._conn = -1
        for future in calls.values():
            future.set_exception(ActorUnavailableError(f"{link.describe(self.target)}: {reason}"))

    def close(self) -> None:
        """End the connection; calls under way fail.  May be repeated."""
        global _hub
        with self._lock:
            if self._closed:
                return
            self._closed = True
            conn = self._conn
        if conn >= 0:
            self._hub.channels.pop(conn, None)
            self._hub.reactor.close(conn)
        self._lost("this side closed the connection")
        with _lock:
            self._hub.users -= 1
            last = not self._hub.users
            if last and _hub is self._hub:
                _hub = None
        if last:
            self._hub.end()
