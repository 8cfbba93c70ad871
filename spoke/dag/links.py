"""The links of a compiled graph: from process to process, for its values alone.

A link is a unix socket between processes of one node, TCP between nodes.  Both ends prove that they
know the graph's secret, which came to them by an ordinary call, before anything is read (SEC-1).
Frames are ``u32 bytes | i32 number | u8 kind | body``; `frames` says what a body is.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
from typing import Any, Final

_HEADER: Final = struct.Struct("<IiB")
_READ_BYTES: Final = 1 << 16
SETUP_S: Final = 30.0
_LOOKS: Final = 100  # some 100 us
_PAUSE: Final = 31  # receives


class Closed(Exception):
    """The other end is gone."""


def listen(name: bytes, host: str, remote: bool) -> tuple[list[socket.socket], list[Any]]:
    """Sockets that others of the graph connect to, and their addresses; TCP only where `remote`."""
    local = socket.socket(socket.AF_UNIX)
    local.bind(b"\0" + name)
    local.listen(128)
    sockets = [local]
    addresses: list[Any] = [name]
    if remote:
        wide = socket.socket(socket.AF_INET)
        wide.bind((host, 0))
        wide.listen(128)
        sockets.append(wide)
        addresses.append([host, wide.getsockname()[1]])
    return sockets, addresses


def connect(addresses: list[Any], same_node: bool) -> Link:
    """A link to one who listens, not proven yet."""
    if same_node:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(SETUP_S)
        try:
            sock.connect(b"\0" + addresses[0])
        except OSError:
            sock.close()
            raise
    else:
        sock = socket.create_connection(tuple(addresses[1]), SETUP_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Link(sock)


class Link:
    """One end of a link; one thread sends and one receives."""

    __slots__ = ("_buffer", "_pause", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._pause = 0  # how many more times to sleep at once

    # -- values

    def send(self, number: int, kind: int, body: bytes) -> None:
        """One frame; Closed where nobody is there."""
        try:
            self._sock.sendall(_HEADER.pack(len(body), number, kind) + body)
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> tuple[int, int, Any]:
        """``(number, kind, body)`` of the next frame; waits.

        Raises:
            Closed: there is none, and will be none.
            TimeoutError: none within the time of `wait_at_most`; nothing is lost.
        """
        buffer, head = self._buffer, _HEADER.size
        while True:
            have = len(buffer)
            if have >= head:
                length, number, kind = _HEADER.unpack_from(buffer)
                if have >= head + length:
                    body = bytes(memoryview(buffer)[head : head + length])
                    del buffer[: head + length]
                    return number, kind, body
            try:
                data = self._read_more()
            except (BlockingIOError, TimeoutError):
                raise TimeoutError from None
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("the other end is closed")
            buffer += data

    def _read_more(self) -> bytes:
        """What has come; where nothing has, look a few times more before sleeping, if that paid of late.

        A sleeping process on another CPU is woken by an interrupt between the CPUs, which takes longer than
        all else of a hop; one that looks and yields is there already, and keeps nobody from running.
        """
        if self._pause:
            self._pause -= 1
        else:
            for _ in range(_LOOKS):
                try:
                    return self._sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    os.sched_yield()
            self._pause = _PAUSE
        return self._sock.recv(_READ_BYTES)

    def holds_frame(self) -> bool:
        """Was a whole frame read already?"""
        have = len(self._buffer)
        return have >= _HEADER.size and have >= _HEADER.size + _HEADER.unpack_from(self._buffer)[0]

    def fileno(self) -> int:
        """Of the socket."""
        return self._sock.fileno()

    def ended(self) -> bool:
        """Is the other end gone, as far as one can see before what it sent is read?"""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait_at_most(self, seconds: float | None) -> None:
        """How long `receive` waits; None for ever.  The kernel keeps the time: no call more per frame."""
        whole = 0 if seconds is None else int(seconds)
        micros = 0 if seconds is None else max(1, int((seconds - whole) * 1e6))
        self._sock.setblocking(True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", whole, micros))

    def close(self) -> None:
        """Both directions end; who waits at either end hears of it."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster
        self._sock.close()

    # -- the proof

    def write(self, data: bytes) -> None:
        """Raw bytes, before the proof."""
        self._sock.sendall(data)

    def read(self, length: int) -> bytes:
        """Raw bytes, before the proof."""
        self._sock.settimeout(SETUP_S)
        data = b""
        while len(data) < length:
            more = self._sock.recv(length - len(data))
            if not more:
                raise Closed("the other end closed the link during its proof")
            data += more
        self._sock.settimeout(None)
        return data


def ready(links: dict[int, Link], which: list[int], seconds: float | None) -> int:
    """The first of these links that has something to receive, or its end.

    Raises:
        TimeoutError: none within this time.
    """
    poll = select.poll()
    by_fd: dict[int, int] = {}
    for number in which:
        if links[number].holds_frame() or links[number].fileno() < 0:
            return number
        by_fd[links[number].fileno()] = number
        poll.register(links[number].fileno(), select.POLLIN)
    found: list[tuple[int, int]] = []
    for _ in range(_LOOKS):  # as where there is one link
        found = poll.poll(0)
        if found:
            break
        os.sched_yield()
    found = found or poll.poll(None if seconds is None else seconds * 1000)
    if not found:
        raise TimeoutError
    return by_fd[found[0][0]]


def proof(secret: bytes, role: bytes, *parts: bytes) -> bytes:
    """What only one who knows the secret can say."""
    return hmac.digest(secret, role + b"".join(parts), "sha256")


def join(
    me: int, secret: bytes, sockets: list[socket.socket], before: list[int], after: dict[int, Any]
) -> Any:
    """Link a process to those that it takes values from and those that it gives values to.

    Every process goes through the same steps, and each step waits only for what others do in earlier
    ones: connect, accept, challenge, answer.

    Args:
        me: the number of this process in the graph.
        before: numbers of the processes that connect to this one.
        after: for those that this one connects to, addresses and whether they are on this node.

    Returns:
        ``({number: link to take from}, {number: link to give to})``
    """
    made: list[Link] = []
    try:
        return _join(me, secret, sockets, before, after, made)
    except BaseException:
        for link in made:
            link.close()
        raise


def _join(
    me: int,
    secret: bytes,
    sockets: list[socket.socket],
    before: list[int],
    after: dict[int, Any],
    made: list[Link],
) -> Any:
    outgoing = {}
    for number, where in after.items():
        outgoing[number] = connect(*where)
        made.append(outgoing[number])
    asked: list[tuple[Link, bytes]] = []
    for _ in before:
        link = Link(accept(sockets, SETUP_S))
        made.append(link)
        asked.append((link, challenge(link)))
    answered = [(link, answer(link, secret, me)) for link in outgoing.values()]
    incoming = {}
    for link, nonce in asked:
        incoming[admit(link, secret, nonce)] = link
    for link, owed in answered:
        confirm(link, owed)
    if sorted(incoming) != sorted(before):
        raise Closed(f"processes {sorted(incoming)} connected instead of {sorted(before)}")
    return incoming, outgoing


# Who accepts a link challenges and admits; who connected answers and confirms.


def challenge(link: Link) -> bytes:
    """Ask who connected for its proof; returns the nonce."""
    nonce = os.urandom(32)
    link.write(nonce)
    return nonce


def answer(link: Link, secret: bytes, me: int) -> bytes:
    """Prove oneself as number `me` to who accepted; returns the proof that it owes."""
    heard, mine, number = link.read(32), os.urandom(32), me.to_bytes(4, "little")
    link.write(number + mine + proof(secret, b"giver", number, mine, heard))
    return proof(secret, b"taker", mine, heard)


def admit(link: Link, secret: bytes, nonce: bytes) -> int:
    """The number of who connected, which has proven itself.

    Raises:
        Closed: it has not.
    """
    said = link.read(4 + 32 + 32)
    if not hmac.compare_digest(said[36:], proof(secret, b"giver", said[:36], nonce)):
        raise Closed("a process that does not know the secret connected")
    link.write(proof(secret, b"taker", said[4:36], nonce))
    return int.from_bytes(said[:4], "little")


def confirm(link: Link, owed: bytes) -> None:
    """See that who accepted knows the secret, too.

    Raises:
        Closed: it does not.
    """
    if not hmac.compare_digest(link.read(32), owed):
        raise Closed("a process that does not know the secret answers in its place")


def accept(sockets: list[socket.socket], seconds: float | None) -> socket.socket:
    """The next connection to any of `sockets`.

    Raises:
        Closed: none came within `seconds` (None: for ever), or the sockets were shut down.
    """
    import select

    ready, _, _ = select.select(sockets, [], [], seconds)
    if not ready:
        raise Closed(f"a process did not connect within {seconds:g} s")
    try:
        sock, _ = ready[0].accept()
    except OSError as error:
        raise Closed(str(error)) from None
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
