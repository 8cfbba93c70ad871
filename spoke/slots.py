"""The slots that this node has agreed to hold for gangs: one TCP port each, really held.

Rules of this module: a port lies outside the range from which the system gives ports to whoever asks for
any.  It is bound here from the moment the hub asks (PREPARE): nobody else can bind it.  When a process of
the gang is about to start, the hold is loosened: whoever binds this very port with SO_REUSEADDR, as servers
do, gets it; the system still gives it to nobody.  What is not committed in time is let go.  Messages may
come twice; an answer that was given is given again.
"""

from __future__ import annotations

import os
from _socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from _socket import socket as _Socket
from collections.abc import Callable
from typing import Any, Final

from spoke.core.prepare import HOLD_S
from spoke.loop import Loop, Timer
from spoke.wire import PREPARED

LOWEST: Final = 15_000  # below are the well-known services
TRIES: Final = 500
SLOTS_MAX: Final = 10_000  # held at once

Emit = Callable[[tuple[Any, ...]], None]


class _Held:
    """The slots of one attempt of one gang."""

    __slots__ = ("committed", "ports", "timer")

    def __init__(self, ports: dict[int, _Socket]) -> None:
        self.ports = ports  # by slot
        self.committed = False
        self.timer: Timer | None = None


class Refusal(Exception):
    """Why the slots cannot be prepared, for the one who waits for the gang."""


class HeldSlots:
    """All of this node's.

    Args:
        gpus: how many GPUs the node has.
    """

    def __init__(self, loop: Loop, emit: Emit, gpus: int) -> None:
        self._loop = loop
        self._emit = emit
        self._gpus = gpus
        self._held: dict[bytes, dict[int, _Held]] = {}
        self._range = _port_range()
        self.closing = False

    def held(self) -> list[list[Any]]:
        """[group_id, attempt] of what is committed."""
        return [
            [group_id, attempt]
            for group_id, attempts in self._held.items()
            for attempt, one in attempts.items()
            if one.committed
        ]

    def prepare(self, group_id: bytes, attempt: int, slots: list[Any]) -> None:
        """Hold what is asked for, or refuse all of it; answered by PREPARED."""
        known = self._held.get(group_id, {}).get(attempt)
        try:
            if known is None:
                known = self._hold(group_id, attempt, slots)
        except (Refusal, OSError) as error:
            self._emit((PREPARED, group_id, attempt, [], str(error) or repr(error)))
            return
        ports = [[index, port.getsockname()[1]] for index, port in known.ports.items()]
        self._emit((PREPARED, group_id, attempt, ports, ""))

    def _hold(self, group_id: bytes, attempt: int, slots: list[Any]) -> _Held:
        if self.closing:
            raise Refusal("its agent shuts down")
        if sum(len(one.ports) for attempts in self._held.values() for one in attempts.values()) > SLOTS_MAX:
            raise Refusal(f"it holds {SLOTS_MAX} slots already")
        ports: dict[int, _Socket] = {}
        try:
            for index, gpu_ids, wanted in slots:
                gone = [one for one in gpu_ids if not 0 <= one < self._gpus]
                if gone:
                    raise Refusal(f"it has no GPU {gone[0]}")
                ports[index] = self._port(group_id, wanted)
        except BaseException:
            for port in ports.values():
                port.close()
            raise
        found = _Held(ports)
        found.timer = self._loop.after_s(HOLD_S, lambda: self.release(group_id, attempt))
        self._held.setdefault(group_id, {})[attempt] = found
        return found

    def _port(self, group_id: bytes, wanted: int) -> _Socket:
        """A bound socket that nobody else can share."""
        if wanted:
            for one in self._held.get(group_id, {}).values():
                for index, port in one.ports.items():
                    if port.getsockname()[1] == wanted:
                        return one.ports.pop(index)
            return _bound(wanted, shared=True)  # a process of the gang may use it
        for _ in range(TRIES):
            candidate = self._range[int.from_bytes(os.urandom(4), "little") % len(self._range)]
            try:
                return _bound(candidate, shared=False)
            except OSError:
                continue
        raise Refusal("it has no free port")

    def commit(self, group_id: bytes, attempt: int) -> None:
        """The gang is whole: hold these slots until they are released; older ones of theirs go."""
        attempts = self._held.get(group_id, {})
        found = attempts.get(attempt)
        if found is None:
            self._emit((PREPARED, group_id, attempt, [], "its slots were let go, as no word came in time"))
            return
        found.committed = True
        if found.timer is not None:
            found.timer.cancel()
        for older in [one for one in attempts if one < attempt]:
            for index in found.ports:
                port = attempts[older].ports.pop(index, None)
                if port is not None:
                    port.close()
            if not attempts[older].ports:
                self.release(group_id, older)

    def release(self, group_id: bytes, attempt: int) -> None:
        """Let go of one attempt, or (-1) of all; may be repeated."""
        attempts = self._held.get(group_id, {})
        for number in [one for one in attempts if attempt in (-1, one)]:
            found = attempts.pop(number)
            if found.timer is not None:
                found.timer.cancel()
            for port in found.ports.values():
                port.close()
        if not attempts:
            self._held.pop(group_id, None)

    def launching(self, gang: str, rank: str) -> None:
        """A process of this slot is about to start: it may bind the port."""
        try:
            group_id, index = bytes.fromhex(gang), int(rank)
        except ValueError:
            return  # variables of the user's, not ours
        for one in self._held.get(group_id, {}).values():
            port = one.ports.get(index)
            if port is not None:
                port.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)

    def close(self) -> None:
        """Let go of everything."""
        self.closing = True
        for group_id in list(self._held):
            self.release(group_id, -1)


def _port_range() -> range:
    """Ports that the system gives to nobody who does not name them."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = (int(word) for word in file.read().split())
    except (OSError, ValueError):
        low, high = 32_768, 60_999
    below, above = range(LOWEST, low), range(high + 1, 65_536)
    best = below if len(below) >= len(above) else above
    return best if len(best) >= 1000 else range(LOWEST, 65_536)


def _bound(port: int, shared: bool) -> _Socket:
    """Raises OSError when somebody has it."""
    found = _Socket(AF_INET, SOCK_STREAM)
    try:
        if shared:
            found.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        found.bind(("", port))
    except BaseException:
        found.close()
        raise
    return found
