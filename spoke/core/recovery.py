"""A hub's next life, first part: hear all that it knew before anything is decided.

Rules of this module: from its records the hub knows whom to expect (agents, drivers) and by whom each
actor and each slot is held; workers and leases are in the reports of those who come back.  Until all
have reported, or `recover_s` passed, nothing is answered: what else is said waits in order.  Processes
that serve nothing any more (their actor ended, their caller is gone) are killed and their exits awaited,
so that nothing is handed out again before it is free (GANG-3).  Then `spoke.core.rebuild` takes over.

A peer that is back says AGENT_UP and AGENT_REPORT, or CLIENT_UP with a "report" in its info::

    wants     [[class_id, spec, count]]      leases    [[lease_id, class_id, worker_id, gpu_ids, slot]]
    watching  [actor_id]                     groups    [group_id]
    endpoints [[namespace, name]] that it watches
    of a worker also: actor [actor_id, incarnation] or None, busy, blocked, owns (objects), job
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core import Drop, Event, Lost, Received
from spoke.core.exits import Exit, worker_exit
from spoke.core.journal import Records
from spoke.core.state import State

BACKLOG_MAX: Final = 100_000  # messages that wait; beyond, who has not come back is not waited for (LIM-1)
CLEAR_S: Final = 5.0  # for the exits of what is killed
LATE: Final = "this cluster's hub was restarted, and does not know this process (any more)"


class Found:
    """One worker process that an agent reported."""

    __slots__ = ("kept", "node_id", "pid", "worker_id")

    def __init__(self, worker_id: bytes, node_id: bytes, pid: int) -> None:
        self.worker_id = worker_id
        self.node_id = node_id
        self.pid = pid
        self.kept = False  # it serves an actor or a lease, or others may read from it


class Recovery:
    """What is gathered; `ready` says when that is all."""

    def __init__(self, state: State, records: Records) -> None:
        self.s = state
        self.deadline: float | None = None
        self.tables: dict[str, dict[bytes, Any]] = {}
        for table, key, record in records:
            self.tables.setdefault(table, {})[key] = record
        self.agents: dict[bytes, list[Any]] = {}  # AGENT_UP of those that also reported
        self.agreed: dict[bytes, list[Any]] = {}  # by node, [group_id, attempt] of the slots it holds
        self.devices: dict[bytes, dict[str, Any]] = {}  # of the agents' nodes
        self.held: dict[bytes, list[Any]] = {}  # devices there that left-over processes hold
        self.clients: dict[bytes, list[Any]] = {}  # CLIENT_UP
        self.workers: dict[bytes, Found] = {}
        self.exits: dict[bytes, Exit] = {}  # of workers
        self.backlog: list[Received] = []
        self._up: dict[bytes, list[Any]] = {}
        self._clearing: dict[bytes, None] | None = None  # workers whose exits are awaited

    def table(self, name: str) -> dict[bytes, Any]:
        """The records of one table by key, in the order in which they were first written."""
        return self.tables.get(name, {})

    # -- hearing

    def feed(self, event: Event) -> bool:
        """Take one event; True when all is known that can be."""
        now = self.s.now
        if self.deadline is None:
            self.deadline = now + self.s.config.recover_s
        if type(event) is Received:
            self._received(event)
        elif type(event) is Lost:
            self._lost(event.peer)
        late = now >= self.deadline or len(self.backlog) > BACKLOG_MAX
        if self._clearing is None and (late or self._complete()):
            self._clear()
            self.deadline = now + CLEAR_S
        elif self._clearing and late:
            self._give_up()
        return self._clearing is not None and not self._clearing

    def _received(self, event: Received) -> None:
        peer, message = event.peer, event.message
        kind = message[0]
        if kind == wire.AGENT_UP and peer in self.table("node"):
            self._up[peer] = message
        elif kind == wire.DEVICES and peer in self._up:
            self.devices[peer] = message[1]
        elif kind == wire.DEVICES_HELD and (peer in self._up or peer in self.agents):
            self.held[peer] = message[1]
        elif kind == wire.AGENT_REPORT and peer in self._up:
            self._report(peer, message)
        elif kind == wire.WORKER_EXIT and peer in self.agents:
            self._exited(peer, *message[1:])
        elif kind == wire.CLIENT_UP and (message[1] == "worker" or "report" in message[4]):
            self.clients[peer] = message
        elif kind != wire.HEARTBEAT:
            self.backlog.append(event)

    def _report(self, peer: bytes, message: list[Any]) -> None:
        _, workers, exits, self.agreed[peer] = message
        self.agents[peer] = self._up.pop(peer)
        for worker_id, pid in workers:
            self.workers[worker_id] = Found(worker_id, peer, pid)
        for one in exits:
            self._exited(peer, *one)

    def _exited(
        self,
        node_id: bytes,
        worker_id: bytes,
        pid: int,
        code: int | None,
        signal: int,
        tail: str,
        memory: int,
    ) -> None:
        self.workers.pop(worker_id, None)
        host = self.agents[node_id][2]
        self.exits.setdefault(worker_id, worker_exit(pid, host, code, signal, tail, memory, ""))
        if self._clearing is not None:
            self._clearing.pop(worker_id, None)

    def _lost(self, peer: bytes) -> None:
        """It is as if it had not come back yet; it may come again."""
        self._up.pop(peer, None)
        self.held.pop(peer, None)
        self.clients.pop(peer, None)
        self.backlog = [one for one in self.backlog if one.peer != peer]
        if self.agents.pop(peer, None) is not None:
            for found in [found for found in self.workers.values() if found.node_id == peer]:
                del self.workers[found.worker_id]
                if self._clearing is not None:
                    self._clearing.pop(found.worker_id, None)

    def _complete(self) -> bool:
        drivers = [record["driver"] for record in self.table("job").values() if record["driver"]]
        return (
            all(node_id in self.agents for node_id in self.table("node"))
            and all(driver in self.clients for driver in drivers)
            and all(worker_id in self.clients for worker_id in self.workers)
        )

    # -- deciding who stays

    def _clear(self) -> None:
        """Kill what serves nothing; its exit is awaited."""
        self.judge()
        self._clearing = {}
        for found in self.workers.values():
            if not found.kept:
                self._clearing[found.worker_id] = None
                self.s.send(found.node_id, wire.STOP_WORKER, found.worker_id, True)

    def _give_up(self) -> None:
        """Nodes that do not even kill their processes are dead: what those hold cannot be handed out."""
        for node_id in dict.fromkeys(self.workers[one].node_id for one in self._clearing or ()):
            self._lost(node_id)

    def judge(self) -> None:
        """Mark the workers that go on."""
        leased = {
            lease[2]: None
            for message in self.clients.values()
            for lease in message[4].get("report", {}).get("leases", ())
        }
        for found in self.workers.values():
            message = self.clients.get(found.worker_id)
            report = message[4].get("report") if message is not None else None
            if report is None:  # it never connected, or had just been started
                found.kept = False
            elif report.get("actor") is not None:
                found.kept = self.claimant(found.worker_id, *report["actor"]) is not None
            else:
                waiting = self._awaited(found.worker_id)
                idle = not report.get("busy") and self._job_lives(report.get("job") or b"")
                found.kept = waiting or found.worker_id in leased or idle

    def claimant(self, worker_id: bytes, actor_id: bytes, incarnation: int) -> dict[str, Any] | None:
        """The record of the actor that this worker hosts, if it is to go on there."""
        record = self.table("actor").get(actor_id)
        if record is None or record["state"] not in ("STARTING", "ALIVE"):
            return None
        claim = record["claim"]
        same = claim is not None and claim["worker_id"] == worker_id and record["incarnation"] == incarnation
        return record if same else None

    def _awaited(self, worker_id: bytes) -> bool:
        """An actor was given to it, but the order to start got lost."""
        return any(
            record["state"] == "STARTING" and record["claim"] and record["claim"]["worker_id"] == worker_id
            for record in self.table("actor").values()
        )

    def _job_lives(self, job_id: bytes) -> bool:
        record = self.table("job").get(job_id)
        if record is None:
            return False
        return record["driver"] in self.clients or any(
            one["job"] == job_id and one["spec"].get("detached") and one["state"] not in ("DEAD", "REMOVED")
            for name in ("actor", "group")
            for one in self.table(name).values()
        )

    def refuse_unknown(self) -> None:
        """Those who report but belong to nothing that is on record end by name."""
        jobs = [record["driver"] for record in self.table("job").values()]
        for peer, message in list(self.clients.items()):
            known = peer in self.workers if message[1] == "worker" else peer in jobs
            if not known:
                del self.clients[peer]
                self.s.send(peer, wire.SHUTDOWN, LATE)
                self.s.out.append(Drop(peer, LATE))
