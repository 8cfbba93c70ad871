"""The pure core: state machines that know neither sockets, clocks, threads nor randomness.

Each machine has one entry, ``step(now, event) -> list[Command]``; equal events give equal commands
(DET-1), so a whole cluster runs in one thread from a seed (tests/sim.py).  ``now`` is monotonic
seconds.  Iterate over dicts and lists only, never over sets.

The records here are written out instead of being dataclasses: `dataclasses` would cost every
process some milliseconds of start-up.
"""

from __future__ import annotations

from typing import Any

Peer = bytes  # process id of the other end: node_id of an agent, process_id of a client


class _Record:
    """Fields by `__slots__`, equal when of one class with equal fields, readable in a failed test."""

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]  # fields may change

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self._fields() == other._fields()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Joined(_Record):
    """A peer finished its handshake; what it is follows in its first message."""

    __slots__ = ("peer",)

    def __init__(self, peer: Peer) -> None:
        self.peer = peer


class Received(_Record):
    """A decoded message (`spoke.wire.decode`) and its payload."""

    __slots__ = ("message", "payload", "peer")
    __match_args__ = ("peer", "message", "payload")

    def __init__(self, peer: Peer, message: list[Any], payload: Any = b"") -> None:
        self.peer = peer
        self.message = message
        self.payload = payload


class Lost(_Record):
    """The link to a peer ended, by whatever cause."""

    __slots__ = ("peer", "reason")

    def __init__(self, peer: Peer, reason: str = "") -> None:
        self.peer = peer
        self.reason = reason


class Tick(_Record):
    """Time passed; the shell sends one whenever `next_deadline()` is reached."""

    __slots__ = ()


Event = Joined | Received | Lost | Tick


class Send(_Record):
    """Send one message to a peer; dropped silently if the peer is gone (its Lost follows)."""

    __slots__ = ("message", "payload", "peer")
    __match_args__ = ("peer", "message", "payload")

    def __init__(self, peer: Peer, message: tuple[Any, ...], payload: Any = b"") -> None:
        self.peer = peer
        self.message = message
        self.payload = payload


class Drop(_Record):
    """Close the link to a peer."""

    __slots__ = ("peer", "reason")

    def __init__(self, peer: Peer, reason: str = "") -> None:
        self.peer = peer
        self.reason = reason


class Journal(_Record):
    """Keep one record for the hub's next life, or (`record` None) forget it.

    It comes before the messages of its step: what anybody was told is on record (HUB-2).
    """

    __slots__ = ("key", "record", "table")

    def __init__(self, table: str, key: bytes, record: Any) -> None:
        self.table = table
        self.key = key
        self.record = record


class Log(_Record):
    """A line for the log of the shell."""

    __slots__ = ("fields", "level", "text")

    def __init__(self, level: str, text: str, fields: dict[str, Any] | None = None) -> None:
        self.level = level
        self.text = text
        self.fields: dict[str, Any] = {} if fields is None else fields


Command = Send | Drop | Journal | Log
