"""A driver's or worker's way back to a hub that was restarted (HUB-2).

Rules of this module: while the hub is away the process goes on, calls to other processes included
(HUB-1).  What it says to the hub meanwhile is either kept (`wire.LASTING`, until the hub has it on
record) or is part of the report it gives when the hub is back; then the hub's view is what the report
says.  A process that cannot come back in time ends by name.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from spoke import config, link, wire
from spoke.errors import AuthenticationError, ProtocolError
from spoke.wire import encode

if TYPE_CHECKING:
    from spoke.client import Client

TRY_S: Final = 5.0  # one attempt
FIRST_PAUSE_S: Final = 0.05
LAST_PAUSE_S: Final = 1.0
UNSAID_MAX: Final = 100_000  # messages kept for a hub that is away (LIM-1)


class Rejoin:
    """Keeps what the hub must not miss, and brings it when the hub is back; lock held where not said.

    Args:
        client: of a cluster whose hub has a journal.
        target: where the hub listens.
        role: "driver" or "worker".
    """

    def __init__(self, client: Client, target: link.Target, role: str) -> None:
        self._client = client
        self._target = target
        self._role = role
        self._hub_id = client.hub.link.peer
        self._unsaid: deque[tuple[bytes, Any]] = deque()
        self._acked = 0  # of `_unsaid`, counted as the hub counts: by link
        self.away = False
        client.handlers[wire.ACK] = self._on_ack

    # -- while the hub is there

    def keep(self, meta: bytes, payload: Any) -> None:
        """A message of `wire.LASTING` goes, or will go, to the hub."""
        self._unsaid.append((meta, payload))
        if len(self._unsaid) > UNSAID_MAX and self.away:
            self._client.fail_everything(f"the hub is away, and {UNSAID_MAX} messages wait for it")

    def _on_ack(self, source: Any, message: list[Any], payload: Any) -> None:
        while self._acked < message[1] and self._unsaid:
            self._unsaid.popleft()
            self._acked += 1

    # -- while it is away

    def lost(self) -> None:
        """The link to the hub ended."""
        self.away = True
        threading.Thread(target=self._come_back, name="spoke-rejoin", daemon=True).start()

    def _come_back(self) -> None:
        """Try until the hub answers or time is up; without the lock."""
        client = self._client
        wait_s: float = config.get("hub_wait_s")
        deadline = time.monotonic() + wait_s
        pause = FIRST_PAUSE_S
        reason = f"the connection to the cluster was lost, and its hub did not come back within {wait_s:g} s"
        while client.closed is None and time.monotonic() < deadline:
            try:
                plain, _ = link.open_proven(
                    self._target, client.links.token, client.process_id, self._role, TRY_S, self._hub_id
                )
            except (AuthenticationError, ProtocolError) as error:
                reason = f"another cluster answers where the hub was: {error}"
                break
            except OSError:
                time.sleep(pause)
                pause = min(LAST_PAUSE_S, pause * 1.5)
                continue
            with client.lock:
                if client.closed is not None:
                    plain.close()
                    return
                self._back(link.adopt(client.reactor, plain))
            return
        with client.lock:
            if client.closed is None:
                client.fail_everything(reason)
        if client.on_hub_lost is not None:
            client.on_hub_lost()

    def _back(self, conn: int) -> None:
        """Say who we are, what we hold, and what may have been missed."""
        client, hub = self._client, self._client.hub
        fresh = client.links.adopt(conn, self._hub_id)
        if hub.agent is hub.link:  # the head's daemon is this node's agent, too
            hub.agent = fresh
            for segment_id, size, fd in client.store.own_segments():
                client.reactor.send(conn, encode(wire.OFFER_SEGMENT, segment_id, size), None, fd)
            for meta, payload in hub.unanswered(of_agent=True):
                client.links.send(fresh, meta, payload)
        hub.link = fresh
        self.away = False
        info = {"report": self._report(), "calls": client.call_prefix}
        meta = encode(wire.CLIENT_UP, self._role, client.address, os.getpid(), info)
        client.links.send(fresh, meta)
        kept = [one for one, _ in self._unsaid]
        self._unsaid.extend(one for one in hub.unanswered(of_agent=False) if one[0] not in kept)
        self._acked = 0
        for meta, payload in self._unsaid:
            client.links.send(fresh, meta, payload)

    def _report(self) -> dict[str, Any]:
        """See `spoke.core.recovery`."""
        client = self._client
        tasks, actors, groups = client.calls.tasks, client.calls.actors.channels, client.hub.group_states
        return {
            "wants": [[one.class_id, one.spec, one.wanted] for one in tasks.classes.values() if one.wanted],
            "leases": [
                [lease_id, one.task_class.class_id, one.peer, one.info["gpu_ids"], one.info["slot"]]
                for lease_id, one in tasks.leases.items()
                if one.lost is None
            ],
            "watching": [one for one, channel in actors.items() if channel.state != "DEAD"],
            "endpoints": [list(key) for key in client.hub.endpoint_watchers],
            "groups": [one for one, (state, _) in groups.items() if state != "REMOVED"],
            **(client.worker_report() if client.worker_report is not None else {}),
        }
