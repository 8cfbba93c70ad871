"""The hub: events in, commands out.

Rules of this module: it routes each event to the table that it concerns, carries the death of a
process or node through all tables in the one right order, and lets the scheduler run once at the end
of every step.  All else is in the modules it composes; the shell only executes commands.

Every peer is known by its process id: an agent by its node id, a client by its own.  The first
message of a peer must be AGENT_UP or CLIENT_UP.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from spoke import wire
from spoke.core import Command, Drop, Event, Joined, Lost, Received, Send
from spoke.core.actors import STARTING as CONSTRUCTING
from spoke.core.actors import Actors
from spoke.core.audit import Snapshot, audit, take_snapshot
from spoke.core.directory import DEFERRED, Directory, RequestError
from spoke.core.endings import Endings
from spoke.core.endpoints import Endpoints
from spoke.core.environments import Environments
from spoke.core.exits import LEFT, Exit, environment_exit, node_exit, worker_exit
from spoke.core.gangs import rank_of
from spoke.core.groups import Groups
from spoke.core.hubconfig import HubConfig
from spoke.core.inquiries import Inquiries
from spoke.core.inspection import Inspections
from spoke.core.jobs import Submissions
from spoke.core.journal import Records, flush
from spoke.core.leases import Leases
from spoke.core.nodes import Nodes
from spoke.core.packages import Packages
from spoke.core.pool import Pool
from spoke.core.rebuild import rebuild
from spoke.core.recovery import LATE, Recovery
from spoke.core.scheduler import Scheduler
from spoke.core.state import (
    STARTING,
    STOPPING,
    Actor,
    Client,
    Holding,
    Job,
    Lease,
    Node,
    State,
    Worker,
)
from spoke.limits import MAX_DEAD_RECORDS
from spoke.runtime_env import REST_VARIABLE

__all__ = ["HubConfig", "HubCore", "Snapshot"]

JOB_ID_BYTES: Final = 4
LINK_LOST_S: Final = 1.0  # a worker whose link ended is usually dead: time for its agent to say how


class HubCore:
    """The cluster's registry and scheduler as a pure state machine."""

    def __init__(self, config: HubConfig | None = None, records: Records | None = None) -> None:
        self.state = s = State(config or HubConfig())
        self.pool = Pool(s)
        self.nodes = Nodes(s)
        self.leases = Leases(s, self.pool)
        self.actors = Actors(s, self.pool)
        self.groups = Groups(s, self.pool, self.leases, self.actors)
        self.scheduler = Scheduler(s, self.pool, self.leases, self.actors, self.groups, self.nodes.index)
        self.directory = Directory(s)
        self.endpoints = Endpoints(s)
        self.directory.add(self.endpoints.requests)
        self.inspections = Inspections(s)
        self.directory.add(self.inspections.requests)
        self.actors.on_ended = self.endpoints.actor_ended
        self.endings = Endings(s)
        self.directory.add(self.endings.requests)
        self.actors.on_worker_ended = self.endings.meant
        self.submissions = Submissions(s)
        self.directory.add(self.submissions.requests)
        self.scheduler.place_jobs = self.submissions.place
        self.packages = Packages(s)
        self.directory.add(self.packages.requests)
        self.submissions.keep_packages = self.packages.keep_for
        self.environments = Environments(s, self.pool)
        self.directory.add(self.environments.requests)
        self.submissions.reclaim = self.scheduler.reclaim
        self.inquiries = Inquiries(s, self.directory)
        self.directory.add(self.inquiries.requests)
        self._jobs = 0
        self._unheard: dict[bytes, tuple[Worker, Exit, float]] = {}  # exits of workers that links still name
        # The records of an earlier life: until all that lived on is heard, nothing else is done.
        self.recovery = Recovery(s, records) if records else None
        self._agent: dict[int, Callable[[Node, list[Any], Any], None]] = {
            wire.HEARTBEAT: lambda node, message, payload: None,
            wire.WORKER_EXIT: self._on_worker_exit,
            wire.AGENT_REPORT: self._on_agent_report,
            wire.PREPARED: lambda node, m, _: self.groups.prepares.answered(node, m),
            wire.LOG_LINES: self._on_log_lines,
            wire.DEVICES: lambda node, message, payload: self.nodes.devices(node, message[1]),
            wire.DEVICES_HELD: lambda node, message, payload: self.nodes.held(node, message[1]),
            wire.SHUTDOWN: self._on_shutdown,
            wire.ENV_STATE: lambda node, m, _: self.environments.said(node, *m[1:]),
            wire.JOB_STATE: lambda node, m, _: self.submissions.reported(node, m[1], m[2], m[3], m[4]),
            wire.JOBS_RUNNING: lambda node, m, _: self.submissions.resume(node, m[1]),
            wire.LOG_CHUNK: lambda node, m, _: self.submissions.logs.read(node, m[1], m[2], m[3]),
        }
        self._client: dict[int, Callable[[Client, list[Any], Any], None]] = {
            wire.WANT: lambda client, m, _: self.leases.want(client, m[1], m[2], m[3]),
            wire.GIVE_BACK: self._on_give_back,
            wire.BLOCKED: self._on_blocked,
            wire.SPECIALIZED: self._on_specialized,
            wire.CREATE_ACTOR: lambda client, m, payload: self.actors.create(client, m[1], m[2], payload),
            wire.ACTOR_READY: lambda client, m, _: self.actors.ready(client.worker, m[1], m[2]),
            wire.ACTOR_FAILED: lambda client, m, payload: self.actors.failed(
                client.worker, m[1], m[2], m[3], payload
            ),
            wire.WATCH_ACTOR: lambda client, m, _: self.actors.watch(client, m[1]),
            wire.KILL_ACTOR: lambda client, m, _: self.actors.kill(client, m[1], m[2], m[3], m[4]),
            wire.CREATE_GROUP: lambda client, m, _: self.groups.create(client, m[1], m[2]),
            wire.REMOVE_GROUP: self._on_remove_group,
            wire.REQUEST: self._on_request,
            wire.INSPECTED: lambda client, m, _: self.inspections.answered(client, m[1], m[2]),
        }

    # -- the machine

    def step(self, now: float, event: Event) -> list[Command]:
        """Take one event, answer with what to do.  `now` is monotonic seconds."""
        s = self.state
        s.now = now
        out: list[Command] = []
        s.out = out
        if self.recovery is None:
            self._take(event)
        elif self.recovery.feed(event):
            found, self.recovery = self.recovery, None
            rebuild(self, found)
            for late in found.backlog:
                self._take(late)
        if self.recovery is None:
            if s.next_check is not None and s.next_check <= now:
                self._check()
            if s.dirty or s.touched:
                self.scheduler.run()
        if s.changed:
            out[:0] = flush(s)
        s.out = []
        return out

    def _take(self, event: Event) -> None:
        if type(event) is Received:
            self._received(event)
        elif type(event) is Lost:
            self._lost(event.peer, event.reason)
        elif type(event) is Joined:
            pass  # its first message says what it is

    def next_deadline(self) -> float | None:
        """When the next Tick is due; None: never, as nothing waits."""
        if self.recovery is not None:
            return self.recovery.deadline
        return self.state.next_check

    def validate(self) -> None:
        """Assert that all tables agree (slow; for tests)."""
        audit(self.state)
        self.nodes.index.validate(self.state.alive)

    def snapshot(self) -> Snapshot:
        """Figures of the present state."""
        return take_snapshot(self.state)

    def _received(self, event: Received) -> None:
        s = self.state
        peer, message = event.peer, event.message
        kind = message[0]
        client = s.clients.get(peer)
        if client is not None:
            handler = self._client.get(kind)
            if handler is not None:
                handler(client, message, event.payload)
                return
        else:
            node = s.nodes.get(peer)
            if node is not None and node.alive:
                node.last_heard = s.now
                node_handler = self._agent.get(kind)
                if node_handler is not None:
                    node_handler(node, message, event.payload)
                    return
            elif kind == wire.AGENT_UP:
                if message[1] == peer:
                    self.nodes.up(peer, *message[2:])
                    return
            elif kind == wire.CLIENT_UP:
                self._on_client_up(peer, message)
                return
            elif node is not None or peer in s.fenced:
                s.log("debug", "message of a fenced peer ignored", kind=wire.name_of(kind))
                return
        s.log("warning", "unexpected message", kind=wire.name_of(kind), peer=peer.hex())
        if client is None and peer not in s.nodes:
            s.out.append(Drop(peer, f"{wire.name_of(kind)} before AGENT_UP or CLIENT_UP"))

    def _lost(self, peer: bytes, reason: str) -> None:
        s = self.state
        node = s.nodes.get(peer)
        if node is not None and node.alive:
            self._node_died(node, f"its agent's connection ended{': ' + reason if reason else ''}")
            return
        client = s.clients.get(peer)
        if client is None:
            return
        worker = client.worker
        if worker is not None:
            # What it held comes back when its agent reports the exit, with the cause.
            self.pool.leaves(worker, LINK_LOST_S)
        self.client_lost(client)
        if peer in self._unheard:
            self._worker_gone(*self._unheard[peer][:2])

    def _check(self) -> None:
        """Periodic work: silence, starts and exits that take too long, idle workers, old requests."""
        s = self.state
        due = s.next_check
        assert due is not None
        period = s.config.heartbeat_s
        if s.now - due > period:
            self.nodes.forgive(s.now - due)
        s.next_check = s.now + period if s.alive else None
        for node, reason in self.nodes.silent():
            self._node_died(node, reason)
        for node in s.alive:
            if node.workers:
                self.pool.check(node)
            for retry_at in node.retry_at.values():
                if retry_at <= s.now:
                    s.touched[node.node_id] = node
                else:
                    s.wake_at(retry_at)
        for worker, exit_, due in list(self._unheard.values()):
            if due <= s.now:
                self._worker_gone(worker, exit_)
        self.actors.check()
        self.groups.check()
        self.submissions.check()
        self.inspections.check()
        self.inquiries.check()
        self.scheduler.check()

    # -- agents

    def _on_worker_exit(self, node: Node, message: list[Any], payload: Any) -> None:
        _, worker_id, pid, code, signal, tail, memory = message
        worker = self.state.workers.get(worker_id)
        if worker is None or worker.node is not node:
            self.state.log("debug", "exit of an unknown worker", worker_id=worker_id.hex())
            return
        if worker.env_error:
            exit_ = environment_exit(node.host, worker.env_error, pid)
        else:
            exit_ = worker_exit(pid, node.host, code, signal, tail, memory, worker.why)
        user = worker.holding.user if worker.holding is not None else None
        if isinstance(user, Actor) and user.state == CONSTRUCTING and worker_id in self.state.clients:
            # The last that it said may be that the constructor returned: its link is read to the end first.
            self._unheard[worker_id] = (worker, exit_, self.state.now + LINK_LOST_S)
            self.state.wake_at(self.state.now + LINK_LOST_S)
        else:
            self._worker_gone(worker, exit_)

    def _on_agent_report(self, node: Node, message: list[Any], payload: Any) -> None:
        """It was of a hub whose records are lost: nobody can use its workers any more."""
        for worker_id, _ in message[1]:
            if worker_id not in self.state.workers:
                self.state.send(node.node_id, wire.STOP_WORKER, worker_id, True)
        for group_id, attempt in message[3]:
            if group_id not in self.state.groups:
                self.state.send(node.node_id, wire.RELEASE_SLOTS, group_id, attempt)

    def _worker_gone(self, worker: Worker, exit_: Exit) -> None:
        """A worker is reaped: its resources come back, its users and its own calls hear of it."""
        s = self.state
        self._unheard.pop(worker.worker_id, None)
        exit_.heard = worker.worker_id not in s.clients
        self.endings.worker_gone(worker, exit_)
        hopeless = self.pool.gone(worker, exit_.kind)
        holding, worker.holding = worker.holding, None
        if holding is not None:
            user, holding.user = holding.user, None
            s.release(holding)
            if isinstance(user, Lease):
                self.leases.lost(user, exit_)
            elif isinstance(user, Actor):
                self.actors.worker_died(user, exit_)
            self._record_death(worker, user, exit_)
        self.inspections.keep(worker)
        for waiting in hopeless:
            self._start_failed(waiting, exit_)
        s.remember(s.fenced, worker.worker_id, True, 4 * MAX_DEAD_RECORDS)
        client = s.clients.get(worker.worker_id)
        if client is not None:
            self.client_lost(client)
            s.out.append(Drop(worker.worker_id, "its process ended"))

    def _record_death(self, worker: Worker, user: Lease | Actor | None, exit_: Exit) -> None:
        """One record of every death that nobody asked for: of a task's worker, of an actor that restarts.

        The death of an actor for good, or of a node, is on the record of that.
        """
        if exit_.kind != "worker_died" or worker.why or (isinstance(user, Actor) and user.state == "DEAD"):
            return
        if user is not None:
            actor = user if isinstance(user, Actor) else None
            record = {
                **exit_.info(),
                "actor_id": actor.actor_id if actor is not None else None,
                "name": (actor.name or actor.spec.get("class_name") or "") if actor is not None else "",
                "rank": rank_of(actor) if actor is not None else None,
            }
            self.state.remember(self.state.deaths, worker.worker_id, record, MAX_DEAD_RECORDS)

    def _start_failed(self, holding: Holding, exit_: Exit) -> None:
        user = holding.user
        ours = exit_.kind == "runtime_env" or REST_VARIABLE in holding.shape.env_vars
        reason = f"its worker process cannot be started: {exit_.reason}"
        reason = exit_.text if exit_.kind == "runtime_env" else reason
        if isinstance(user, Lease):
            want = user.want
            self.leases.lost(user, exit_)
            self.state.release(holding)
            self.leases.fail(want, reason, "environment" if ours else "class")
        elif isinstance(user, Actor):
            hooked = exit_.kind == "runtime_env" and exit_.pid  # its setup hook failed, in the process
            how = "runtime_env" if ours and not hooked else "start_failed"
            self.actors.end(user, how, reason, exit_.info())

    def _node_died(self, node: Node, reason: str) -> None:
        s = self.state
        s.log("warning", "node died", node_id=node.node_id.hex(), host=node.host, reason=reason)
        self.nodes.died(node, reason)
        exit_ = node_exit(node.node_id, node.host, reason)
        waiting = [holding for queue in node.waiting.values() for holding in queue]
        node.waiting = {}
        there = [client.peer for client in s.clients.values() if client.node_id == node.node_id]
        processes = list(dict.fromkeys([*node.workers, *there]))
        for worker in list(node.workers.values()):
            self._worker_gone(worker, exit_)
        for holding in waiting:
            user, holding.user = holding.user, None
            if user is None:
                continue  # the end of another that was here ended it, too
            s.release(holding)
            if isinstance(user, Lease):
                self.leases.lost(user, exit_)
            elif isinstance(user, Actor):
                self.actors.worker_died(user, exit_)
        for client in list(s.clients.values()):  # a driver there is dead, too, or has lost its agent
            if client.worker is None and client.node_id == node.node_id:
                self.client_lost(client)
                s.out.append(Drop(client.peer, "its node died"))
        self.groups.node_died(node)
        self.submissions.node_died(node, reason)
        for client in s.clients.values():
            s.send(client.peer, wire.NODE_STATE, node.node_id, False, reason, processes)

    def _on_shutdown(self, node: Node, message: list[Any], payload: Any) -> None:
        self._node_died(node, f"{LEFT}: {message[1]}")

    def _on_log_lines(self, node: Node, message: list[Any], payload: Any) -> None:
        """Forward lines of a worker to the driver whose code it runs, with a name for the prefix."""
        _, node_id, pid, name, stream, lines = message
        for worker in node.workers.values():
            if worker.pid == pid:
                job = self.state.jobs.get(worker.job)
                if job is None or job.driver is None:
                    return
                user = worker.holding.user if worker.holding is not None else None
                if not name and isinstance(user, Actor):
                    name = user.spec.get("class_name") or ""
                self.state.send(job.driver.peer, wire.LOG_LINES, node_id, pid, name, stream, lines)
                return

    # -- clients

    def _on_client_up(self, peer: bytes, message: list[Any]) -> None:
        s = self.state
        _, role, address, pid, info = message
        worker = s.workers.get(peer)
        if role == "worker" and (worker is None or worker.state not in (STARTING, STOPPING)):
            s.out.append(Drop(peer, "this worker is not expected"))
            return
        if peer in s.fenced or len(address) != 4:
            s.out.append(Drop(peer, "this process was declared dead"))
            return
        if "report" in info:  # of an earlier life of the hub, of which this one knows nothing
            s.send(peer, wire.SHUTDOWN, LATE)
            s.out.append(Drop(peer, LATE))
            return
        node = s.nodes.get(address[1])
        if node is not None and not node.alive:  # its word was long under way
            s.out.append(Drop(peer, "its node was declared dead"))
            return
        client = s.clients[peer] = Client(peer, role, address, pid, info)
        client.worker = worker
        if worker is not None:
            holding = self.pool.worker_up(worker, address, pid)
            s.send(peer, wire.WELCOME, self.welcome(client))
            if holding is not None:
                self.scheduler.bind(holding, worker)
            return
        if role == "driver":
            self._start_job(client)
        s.send(peer, wire.WELCOME, self.welcome(client))

    def _start_job(self, client: Client) -> None:
        s = self.state
        job_id = client.info.get("job_id")
        if type(job_id) is not bytes or len(job_id) != JOB_ID_BYTES or job_id in s.jobs:
            job_id = self._next_job()
        client.job = job_id
        if not client.info.get("namespace"):
            digest = blake2b(s.config.seed + job_id, digest_size=16, salt=b"namespace")
            client.info["namespace"] = digest.hexdigest()
        client.info["pid"] = client.pid
        s.jobs[job_id] = Job(job_id, client, client.info, s.now)
        s.note("job", job_id, s.jobs[job_id])
        if len(s.jobs) > MAX_DEAD_RECORDS:
            for old in list(s.jobs.values()):
                if not old.live:
                    del s.jobs[old.job_id]
                    s.note("job", old.job_id, None)
                    break

    def _next_job(self) -> bytes:
        while True:
            self._jobs += 1
            job_id = self._jobs.to_bytes(JOB_ID_BYTES, "little")
            if job_id not in self.state.jobs:
                return job_id

    def welcome(self, client: Client) -> dict[str, Any]:
        """What a client is told of the cluster and of itself."""
        s = self.state
        head = next((node for node in s.alive if node.is_head), None)
        job = s.jobs.get(client.job)
        return {
            "session": s.config.session,
            "job_id": client.job,
            "namespace": job.info.get("namespace", "") if job is not None else "",
            "node_id": client.node_id,
            "head_node_id": head.node_id if head is not None else b"",
            "nodes": len(s.alive),
            "durable": s.config.durable,
            "address": f"{head.host}:{head.port}" if head is not None and head.port else "",
        }

    def client_lost(self, client: Client) -> None:
        """A caller is gone: everything it owned or waited for ends."""
        s = self.state
        del s.clients[client.peer]
        self.leases.client_lost(client)
        self.actors.client_lost(client)
        self.groups.client_lost(client)
        self.endpoints.client_lost(client)
        self.inspections.client_lost(client)
        self.submissions.client_lost(client.peer)
        self.inquiries.client_lost(client.peer)
        client.watching = {}
        job = s.jobs.get(client.job)
        if job is not None and job.driver is client:
            job.driver = None
            job.ended_at = s.now
            self.endings.driver_left(client)
            s.note("job", job.job_id, job)
            if not job.live:
                self.pool.job_ended(job.job_id)
        if self.packages.table:
            self.packages.purge()

    def _on_give_back(self, client: Client, message: list[Any], payload: Any) -> None:
        holding = self.leases.give_back(client, message[1], message[2])
        if holding is not None and holding.worker is not None:
            self.scheduler.bind(holding, holding.worker)

    def _on_specialized(self, client: Client, message: list[Any], payload: Any) -> None:
        worker = client.worker
        holding = self.pool.specialized(worker) if worker is not None else None
        if worker is not None and holding is not None:
            self.scheduler.bind(holding, worker)

    def _on_blocked(self, client: Client, message: list[Any], payload: Any) -> None:
        if client.worker is not None:
            self.leases.blocked(client.worker, message[1])

    def _on_remove_group(self, client: Client, message: list[Any], payload: Any) -> None:
        group = self.state.groups.get(message[1])
        if group is not None and (foreign := group.foreign(client.job)):
            self.state.log("warning", f"a group is not removed: {foreign}")
        elif group is not None:
            self.groups.remove(group, "removed by a client")

    def _on_request(self, client: Client, message: list[Any], payload: Any) -> None:
        s = self.state
        _, request_id, what, args = message
        s.request_id = request_id
        try:
            if what == "watch_group":
                group = self.directory.find_group(client, args)
                self.groups.watch(client, group)
                value = self.directory.answer(client, "group", args)
            else:
                value = self.directory.answer(client, what, args)
        except RequestError as error:
            s.out.append(Send(client.peer, (wire.RESPONSE, request_id, [error.name, error.text], None)))
            return
        if value is not DEFERRED:
            s.out.append(Send(client.peer, (wire.RESPONSE, request_id, None, value)))
