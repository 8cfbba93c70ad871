"""A network in virtual time for processes that believe they have a reactor.

Connections deliver in order, each with delays of its own; nothing is ordered between connections.
A process that dies closes its connections once what it wrote has arrived, unless its machine lost its
power.  Partitions hold traffic between nodes back; a cut connection loses what is under way.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable
from typing import Any, Protocol

from spoke import wire

FRAME, CLOSED, ACCEPTED = range(3)


class Time:
    """Stands in for the module `time` inside the code under test."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def monotonic(self) -> float:
        return self._net.now

    def time(self) -> float:
        return self._net.now

    def perf_counter_ns(self) -> int:
        return int(self._net.now * 1e9)


class Host(Protocol):
    """Who has connections: a process, an agent, the hub."""

    id: bytes
    node_id: bytes
    alive: bool

    def arrive(self, kind: int, conn: int, meta: bytes, payload: Any) -> None: ...


class Descriptor:
    """A file descriptor under way: closed if nobody takes it."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def take(self) -> int:
        fd, self._fd = self._fd, -1
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class End:
    """One side of a connection."""

    __slots__ = ("conn", "delay", "descriptors", "held", "last", "other", "owner")

    def __init__(self, owner: Reactor, conn: int, delay: float) -> None:
        self.owner = owner
        self.conn = conn
        self.delay = delay
        self.other: End = self
        self.last = 0.0
        self.held: list[bytes] = []
        self.descriptors: list[Descriptor] = []  # that have arrived

    def transmit(
        self, kind: int, meta: bytes = b"", payload: Any = b"", descriptor: Descriptor | None = None
    ) -> None:
        """Deliver to the other side, after all that went before."""
        net, other = self.owner.net, self.other
        late = net.now + net.rng.uniform(0.2, 1.0) * self.delay
        when = self.last = max(self.last, late, net.held(self.owner.host.node_id, other.owner.host.node_id))
        net.schedule(when, lambda: other.owner.receive(other, kind, meta, payload, descriptor))


class Reactor:
    """The part of `spoke._native.Reactor` that the engine uses, over a `Net`."""

    def __init__(self, net: Net, host: Host) -> None:
        self.net = net
        self.host = host
        self.ends: dict[int, End] = {}

    def receive(
        self, end: End, kind: int, meta: bytes, payload: Any, descriptor: Descriptor | None = None
    ) -> None:
        if self.ends.get(end.conn) is not end or not self.host.alive:
            return
        if descriptor is not None:
            end.descriptors.append(descriptor)
        if kind == CLOSED:
            del self.ends[end.conn]
        self.host.arrive(kind, end.conn, meta, payload)

    def pair(self, other: Reactor) -> tuple[End, End]:
        """A connection that both sides have already."""
        net = self.net
        delay = net.rng.choice([0.0002, 0.001, 0.001, 0.003, 0.03])
        near, far = End(self, net.next_conn(), delay), End(other, net.next_conn(), delay)
        near.other, far.other = far, near
        self.ends[near.conn] = near
        other.ends[far.conn] = far
        return near, far

    def listen(self, *names: Any) -> None:
        for name in names:
            self.net.listeners[name] = self

    # -- what the engine calls

    def connect_unix(self, name: bytes) -> int:
        return self._connect(self.net.listeners.get(name))

    def connect_tcp(self, host: str, port: int, timeout_s: float) -> int:
        target = self.net.listeners.get(port)
        if target is not None and self.net.held(self.host.node_id, target.host.node_id) > self.net.now:
            raise TimeoutError("no answer")
        return self._connect(target)

    def _connect(self, target: Reactor | None) -> int:
        if target is None or not target.host.alive:
            raise ConnectionRefusedError("nobody listens")
        near, _ = self.pair(target)
        near.transmit(ACCEPTED)
        return near.conn

    def send(self, conn: int, meta: bytes, payload: Any = None, fd: int = -1, hold: bool = False) -> int:
        end = self.ends.get(conn)
        if end is None:
            return -1
        if hold:
            end.held.append(meta)
            return len(end.held)
        self.flush(conn)
        descriptor = Descriptor(fd) if fd >= 0 else None
        end.transmit(FRAME, meta, b"" if payload is None else bytes(payload), descriptor)
        return 0

    def report_busy(self, conn: int, frames: int) -> None:
        """No link is ever reported as busy: all frames go by the net."""

    def peer_uid(self, conn: int) -> int | None:
        """Of the other end of a unix socket: processes of one node have such."""
        end = self.ends.get(conn)
        return 0 if end is not None and end.other.owner.host.node_id == self.host.node_id else None

    def take_fd(self, conn: int) -> int:
        end = self.ends.get(conn)
        return end.descriptors.pop(0).take() if end is not None and end.descriptors else -1

    def flush(self, conn: int) -> int:
        end = self.ends.get(conn)
        if end is None:
            return -1
        held, end.held = end.held, []
        for meta in held:
            end.transmit(FRAME, meta)
        return 0

    def close(self, conn: int) -> None:
        end = self.ends.pop(conn, None)
        if end is not None:
            end.transmit(CLOSED)

    def close_all(self) -> None:
        for conn in list(self.ends):
            self.close(conn)

    def vanish(self) -> None:
        """The machine lost its power: nobody is told."""
        self.ends.clear()

    def cut(self, conn: int) -> None:
        """The connection breaks: both sides notice, what is under way is lost."""
        end = self.ends.pop(conn, None)
        if end is None:
            return
        other = end.other
        self.host.arrive(CLOSED, conn, b"cut", b"")
        if other.owner.ends.pop(other.conn, None) is not None:
            net = self.net
            reactor, at = other.owner, net.now + net.rng.uniform(0, 0.2)
            net.schedule(at, lambda: reactor.host.arrive(CLOSED, other.conn, b"cut", b""))

    def set_limit(self, conn: int, max_frame_bytes: int) -> None:
        pass

    def queued(self, conn: int) -> int:
        return 0

    def wake(self) -> None:
        pass


class Net:
    """Virtual time, chance, and who listens where."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 100.0
        self.listeners: dict[Any, Reactor] = {}
        self._heap: list[tuple[float, int, Callable[[], Any]]] = []
        self._sequence = 0
        self._conns = 0
        self._partitions: dict[bytes, float] = {}  # node: until when it is alone

    def next_conn(self) -> int:
        self._conns += 1
        return self._conns

    def held(self, one: bytes, other: bytes) -> float:
        """Until when nothing moves between two nodes."""
        if one == other:
            return 0.0
        return max(self._partitions.get(one, 0.0), self._partitions.get(other, 0.0))

    def partition(self, node_id: bytes, seconds: float) -> None:
        self._partitions[node_id] = max(self._partitions.get(node_id, 0.0), self.now + seconds)

    def schedule(self, when: float, action: Callable[[], Any]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, action))

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        self.schedule(self.now + seconds, action)

    def run_until(self, when: float) -> None:
        while self._heap and self._heap[0][0] <= when:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = when


def port_of(process_id: bytes) -> int:
    """The TCP port of a process: unique enough, and the same every time."""
    return int.from_bytes(process_id[:6], "big") | 1


def names_of(process_id: bytes) -> tuple[Any, ...]:
    """Where a process listens."""
    return wire.unix_name(process_id), port_of(process_id)
