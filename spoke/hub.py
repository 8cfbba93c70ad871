"""The shell around the hub's core: turns links and time into events, and commands into messages.

No decision is made here.  The local agent is a peer like the others, but its messages go through a
queue instead of a socket, and so does the end of a link that core itself asked for: commands of one
step are all carried out before the next step.  A peer that does not read
what it is sent is dropped when its queue passes `limits.LINK_SEND_QUEUE_BYTES` (LIM-1).

With a journal, what a step changed is written before its messages are sent, and clients are told now and
then how much of what they said is on record (ACK).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from spoke import limits
from spoke._native import Reactor
from spoke.core import Drop, Event, Joined, Journal, Log, Lost, Received, Send, Tick
from spoke.core.hub import HubCore
from spoke.journal import JournalFile
from spoke.wire import ACK, CLIENT_UP, DROP_ORPHANS, LASTING, LOG_LINES, SHUTDOWN, WORKER_EXIT, encode

LogLine = Callable[[str, str], None]  # level, text


class HubShell:
    """Runs one `HubCore`.

    Args:
        close: closes a connection and forgets its link (the daemon's).
        log: writes a line to the daemon's log.
    """

    def __init__(
        self,
        core: HubCore,
        reactor: Reactor,
        close: Callable[[int], None],
        log: LogLine,
        journal: JournalFile | None = None,
    ) -> None:
        self.core = core
        self.drivers: dict[bytes, int] = {}  # driver's process id -> connection
        self._reactor = reactor
        self._close = close
        self._log = log
        self._journal = journal
        self._heard: dict[bytes, int] = {}  # messages of `LASTING`, by link
        self._acked: dict[bytes, int] = {}
        self._conns: dict[bytes, int] = {}
        self._local_id = b""
        self._local: Callable[[tuple[Any, ...]], None] = lambda message: None
        self._inbox: deque[Event] = deque()

    # -- peers

    def attach_local(self, node_id: bytes, deliver: Callable[[tuple[Any, ...]], None]) -> None:
        """The agent of this process: `deliver` takes the hub's messages for it."""
        self._local_id = node_id
        self._local = deliver
        self._step(Joined(node_id))

    def from_local(self, message: tuple[Any, ...]) -> None:
        """A message of the local agent; handled by the next `drain`."""
        self._inbox.append(Received(self._local_id, list(message)))

    def joined(self, peer: bytes, conn: int) -> bool:
        """A proven peer talks to the hub for the first time; False when its id is taken."""
        if peer in self._conns or peer == self._local_id:
            self._log("warning", f"a second link of {peer.hex()[:12]} to the hub is refused")
            return False
        self._conns[peer] = conn
        self._step(Joined(peer))
        return True

    def received(self, peer: bytes, message: list[Any], payload: Any) -> None:
        """A message of a peer that joined."""
        if message[0] == CLIENT_UP and message[1] == "driver":
            self.drivers[peer] = self._conns[peer]
        if self._journal is not None and message[0] in LASTING:
            self._heard[peer] = self._heard.get(peer, 0) + 1
        self._step(Received(peer, message, payload))

    def lost(self, peer: bytes, reason: str) -> None:
        """The link of a peer that joined has ended; core hears of it in the next `drain`."""
        if self._conns.pop(peer, None) is None:
            return
        self._heard.pop(peer, None)
        self._acked.pop(peer, None)
        was_driver = self.drivers.pop(peer, None) is not None
        self._inbox.append(Lost(peer, reason))
        if was_driver:
            self._drop_orphans()

    # -- time

    def next_deadline(self) -> float | None:
        """When `drain` must run at the latest, in monotonic seconds."""
        return self.core.next_deadline()

    def drain(self) -> None:
        """Handle the local agent's messages and what is due."""
        while self._inbox:
            self._step(self._inbox.popleft())
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            self._step(Tick())
            if self._inbox:
                self.drain()

    def _drop_orphans(self) -> None:
        """With no driver and no detached actor left, nobody reads what dead processes wrote."""
        state = self.core.state
        if not self.drivers and not any(job.keepers for job in state.jobs.values()):
            for node in state.alive:
                self._send(node.node_id, (DROP_ORPHANS,), None)

    # -- the journal

    def acknowledge(self) -> None:
        """Tell clients what need not be said again; a hub that still recovers has recorded nothing."""
        if self.core.recovery is not None:
            return
        for peer, heard in self._heard.items():
            if self._acked.get(peer, 0) != heard:
                self._acked[peer] = heard
                self._send(peer, (ACK, heard), None)

    def end_all(self, reason: str) -> None:
        """The cluster ends in order: nobody is to wait for a next hub."""
        for peer in list(self._conns):
            self._send(peer, (SHUTDOWN, reason), None)

    def _write(self, commands: list[Journal]) -> None:
        assert self._journal is not None
        try:
            self._journal.write(commands)
        except OSError as error:
            self._log("error", f"hub: {len(commands)} records are lost for a restart: {error}")

    # -- commands

    def _step(self, event: Any) -> None:
        if type(event) is Received and event.message[0] == WORKER_EXIT:
            self._drop_orphans()
        commands = self.core.step(time.monotonic(), event)
        if self._journal is not None and commands and type(commands[0]) is Journal:
            self._write([command for command in commands if type(command) is Journal])
        for command in commands:
            if type(command) is Send:
                self._send(command.peer, command.message, command.payload)
            elif type(command) is Log:
                fields = " ".join(f"{key}={value}" for key, value in command.fields.items())
                self._log(command.level, f"hub: {command.text} {fields}".rstrip())
            elif type(command) is Drop:
                self._drop(command.peer, command.reason)

    def _send(self, peer: bytes, message: tuple[Any, ...], payload: Any) -> None:
        if peer == self._local_id:
            self._local(message)
            return
        conn = self._conns.get(peer)
        if conn is None:
            return
        if message[0] == LOG_LINES and self._reactor.queued(conn) > limits.MIB:
            return  # output never holds up the rest: a driver that is slow to read misses lines
        queued = self._reactor.send(conn, encode(*message), payload or None)
        if queued > limits.LINK_SEND_QUEUE_BYTES:
            self._drop(peer, f"{queued} bytes wait because it does not read")

    def _drop(self, peer: bytes, reason: str) -> None:
        conn = self._conns.get(peer)
        if conn is not None:
            self._log("warning", f"the link of {peer.hex()[:12]} is closed: {reason}")
            self._close(conn)
            self.lost(peer, reason)
