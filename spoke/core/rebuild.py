"""A hub's next life, second part: the tables as they were, from records and reports.

Rules of this module: it runs once, in one step, when `spoke.core.recovery` has heard everybody.  What
lived on is attached again with exactly what it holds: slots first, then actors, then leases; then those
who did not come back are dead, with all that follows from it, as if they had died just now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke import wire
from spoke.core import Drop
from spoke.core import groups as group_states
from spoke.core.exits import Exit, node_exit
from spoke.core.gangs import GangPolicy
from spoke.core.ledger import CPU, GPU, UNIT, Amounts, Ledger, Share
from spoke.core.shape import Shape
from spoke.core.state import (
    BUSY,
    Actor,
    Bundle,
    Client,
    Group,
    Holding,
    Job,
    Lease,
    Want,
    Worker,
)

if TYPE_CHECKING:
    from spoke.core.hub import HubCore
    from spoke.core.recovery import Recovery

UNKNOWN_KEY = "?"  # of a worker that served nobody: whatever it was started with, nobody gets it
GONE = "it did not come back when the hub was restarted"

Devices = tuple[tuple[int, int], ...]


def rebuild(hub: HubCore, found: Recovery) -> None:
    """Fill the empty tables of `hub`."""
    Rebuild(hub, found).run()


class Rebuild:
    """One run of `rebuild`."""

    def __init__(self, hub: HubCore, found: Recovery) -> None:
        self.hub = hub
        self.s = hub.state
        self.found = found
        self.broken: list[tuple[Group, list[Bundle]]] = []  # slots that stood on nodes which are gone
        self.ghosts: dict[bytes, Client] = {}  # owners that are gone

    def run(self) -> None:
        """All of it, in the one order that works."""
        self.found.refuse_unknown()
        self.found.judge()
        self._jobs_and_keys()
        self._nodes_and_workers()
        self._clients()
        for group_id, record in self.found.table("group").items():
            self._group(group_id, record)
        lost = [
            actor
            for actor_id, record in self.found.table("actor").items()
            if (actor := self._actor(actor_id, record)) is not None
        ]
        for client in list(self.s.clients.values()):
            self._leases(client)
        for node_id, held in self.found.held.items():
            if node_id in self.s.nodes:  # after what lives took its devices, before anything is placed
                self.hub.nodes.held(self.s.nodes[node_id], held)
        self._keepers()
        self._submissions_and_endpoints()
        self._idle_workers()
        self._nodes_gone()
        for actor in lost:
            self._worker_gone(actor)
        for group, bundles in self.broken:
            if group.group_id in self.s.groups:
                self.hub.groups.displaced(group, bundles, "its node is gone")
        for ghost in self.ghosts.values():
            self.s.clients[ghost.peer] = ghost
            self.hub.client_lost(ghost)
        for client in list(self.s.clients.values()):
            self._watches(client)
        self._jobs_gone()
        self._let_go()
        self.s.grew()

    # -- what stands for itself

    def _submissions_and_endpoints(self) -> None:
        self.hub.submissions.restore(list(self.found.table("submission").values()))
        watched = {
            peer: message[4].get("report", {}).get("endpoints", [])
            for peer, message in self.found.clients.items()
        }
        self.hub.endpoints.restore(list(self.found.table("endpoint").values()), watched)
        users: list[bytes | str] = [*self.s.jobs, *self.s.submissions]
        for record in self.found.table("package").values():
            self.hub.packages.restore(record, users)

    def _jobs_and_keys(self) -> None:
        s = self.s
        for job_id, record in self.found.table("job").items():
            job = s.jobs[job_id] = Job(job_id, None, record["info"], min(record["started_at"], s.now))
            job.ended_at = record["ended_at"]
        s.refused.update(self.found.table("refused"))
        for (space, key), value in self.found.table("kv").values():
            s.kv[space, key] = value
            s.kv_bytes += len(key) + len(value)

    def _nodes_and_workers(self) -> None:
        s = self.s
        for node_id, message in self.found.agents.items():
            self.hub.nodes.up(node_id, *message[2:])
            node = s.nodes.get(node_id)
            if node is not None and node_id in self.found.devices:
                self.hub.nodes.devices(node, self.found.devices[node_id])
        for one in self.found.workers.values():
            node = s.nodes.get(one.node_id)
            if node is None or not node.alive:
                continue
            worker = Worker(one.worker_id, node, (UNKNOWN_KEY, None), s.now)
            worker.state = BUSY
            worker.pid = one.pid
            s.workers[worker.worker_id] = node.workers[worker.worker_id] = worker

    def _clients(self) -> None:
        s = self.s
        drivers = {record["driver"]: job_id for job_id, record in self.found.table("job").items()}
        for peer, (_, role, address, pid, info) in self.found.clients.items():
            report = info.get("report") or {}
            client = s.clients[peer] = Client(peer, role, address, pid, info)
            worker = s.workers.get(peer)
            if worker is not None:
                client.worker, worker.address = worker, address
                worker.job = client.job = report.get("job") or b""
                worker.owns = report.get("owns") or 0
            elif peer not in drivers:  # its node would not have it
                del s.clients[peer]
                s.out.append(Drop(peer, GONE))
                continue
            else:
                client.job = drivers[peer]
                s.jobs[client.job].driver = client
                client.info = s.jobs[client.job].info
            s.send(peer, wire.WELCOME, self.hub.welcome(client))

    def _owner(self, peer: bytes) -> Client | None:
        if not peer:
            return None
        client = self.s.clients.get(peer) or self.ghosts.get(peer)
        if client is None:
            client = self.ghosts[peer] = Client(peer, "gone", [], 0, {})
        return client

    # -- groups

    def _group(self, group_id: bytes, record: dict[str, Any]) -> None:
        s = self.s
        group = Group(group_id, record["spec"])
        for name in ("state", "reason", "namespace", "creator", "job", "incarnation", "lost", "restarts",
                     "attempt", "ports", "ports_of", "relaunch"):  # fmt: skip
            setattr(group, name, record[name])
        group.request = group_states.parse_request(group.spec)
        group.gang = GangPolicy(group.spec["gang"]) if group.spec.get("gang") is not None else None
        group.bundles = [Bundle(group, index) for index in range(len(group.request.bundles))]
        if group.state == group_states.REMOVED:
            s.removed_groups[group_id] = group
            return
        s.groups[group_id] = group
        if group.name:
            s.group_names[group.namespace, group.name] = group
        group.owner = self._owner(record["owner"])
        if group.owner is not None:
            group.owner.groups[group_id] = group
            self.hub.groups.watch(group.owner, group)
        for bundle, slot in zip(group.bundles, record["slots"], strict=True):
            if slot is not None:
                self._slot(group, bundle, *slot)
        missing = [bundle for bundle in group.bundles if bundle.node is None]
        if group.state == group_states.PENDING:
            if group.gang is not None:
                self.hub.groups.gangs.expire(group, group.gang.pending_timeout_s)
            s.enqueue(group, group.request.key)
        elif missing:
            group.state = group_states.RESCHEDULING
            self.broken.append((group, missing))
        else:
            self.hub.groups.gangs.placed(group)
            if group.gang is not None:
                self.hub.groups.prepares.restored(group, self.found.agreed)

    def _slot(self, group: Group, bundle: Bundle, node_id: bytes, devices: Any) -> None:
        node = self.s.nodes.get(node_id)
        if node is None or not node.alive:
            return
        share = _take(node.ledger, group.request.bundles[bundle.index], _devices(devices))
        if share is not None:
            bundle.node, bundle.share = node, share
            bundle.ledger = Ledger(share.amounts, dict(share.devices), node.ledger.domains)
            node.load += 1

    # -- actors

    def _actor(self, actor_id: bytes, record: dict[str, Any]) -> Actor | None:
        """Restore one; returned if it lost its worker."""
        s = self.s
        actor = Actor(actor_id, record["spec"], b"", Shape(record["spec"]))
        for name in ("state", "incarnation", "restarts_left", "namespace", "job", "info", "error"):
            setattr(actor, name, record[name])
        actor.workers = [tuple(one) for one in record["workers"]]
        if actor.state == "DEAD":
            s.dead_actors[actor_id] = actor
            return None
        actor.blob = self.found.table("blob").get(actor_id, b"")
        s.actors[actor_id] = actor
        if actor.name:
            s.actor_names[actor.namespace, actor.name] = actor
        actor.owner = self._owner(record["owner"])
        if actor.owner is not None:
            actor.owner.actors[actor_id] = actor
        claim = record["claim"]
        if actor.state not in ("STARTING", "ALIVE"):
            s.enqueue(actor, actor.shape.fit_key)
            return None
        worker = s.workers.get(claim["worker_id"])
        if worker is None or worker.worker_id not in s.clients or not self._hosts(worker, actor):
            return actor
        holding = self._hold(worker, actor.shape, actor.job, claim["slot"], _devices(claim["devices"]))
        if holding is None:
            return actor
        holding.user, actor.holding = actor, holding
        if self._report(worker).get("actor") is None:
            self.hub.actors.start(actor, worker)
        return None

    def _report(self, worker: Worker) -> dict[str, Any]:
        message = self.found.clients.get(worker.worker_id)
        report: dict[str, Any] = message[4].get("report") or {} if message is not None else {}
        return report

    def _hosts(self, worker: Worker, actor: Actor) -> bool:
        """Whether it runs this actor, or waits for the order to."""
        hosted = self._report(worker).get("actor")
        return worker.holding is None and (
            hosted is None or (hosted[0] == actor.actor_id and hosted[1] == actor.incarnation)
        )

    def _hold(self, worker: Worker, shape: Shape, job: bytes, slot: int, devices: Devices) -> Holding | None:
        """Take again what a living process holds; None where its slot is gone."""
        node, bundle, ledger = worker.node, None, worker.node.ledger
        if shape.group_id is not None:
            group = self.s.groups.get(shape.group_id)
            if group is None or not 0 <= slot < len(group.bundles):
                return None
            bundle = group.bundles[slot]
            if bundle.node is not node or bundle.ledger is None:
                return None
            ledger = bundle.ledger
        share = _take(ledger, shape.need, devices)
        if share is None:
            return None
        holding = self.s.hold(node, share, bundle, shape, job)
        holding.worker, worker.holding = worker, holding
        worker.key, worker.job = holding.key, job
        client = self.s.clients.get(worker.worker_id)
        if client is not None:
            client.job = job
        return holding

    def _worker_gone(self, actor: Actor) -> None:
        claim = self.found.table("actor")[actor.actor_id]["claim"]
        node_id, worker_id = claim["node_id"], claim["worker_id"]
        exit_ = self.found.exits.get(worker_id)
        if exit_ is None and node_id in self.found.agents:
            exit_ = Exit("worker_died", "its worker process ended while the hub was away")
        elif exit_ is None:
            exit_ = self._node_exit(node_id)
        if actor.actor_id in self.s.actors:
            self.hub.actors.worker_died(actor, exit_)

    # -- leases

    def _leases(self, client: Client) -> None:
        report = self.found.clients[client.peer][4].get("report") or {}
        leases = self.hub.leases
        for class_id, spec, count in report.get("wants") or ():
            want = leases.restore(client, class_id, spec, count)
            for lease_id, of_class, worker_id, gpu_ids, slot in report.get("leases") or ():
                if want is not None and of_class == class_id:
                    self._lease(want, lease_id, worker_id, gpu_ids, slot)
            if want is not None:
                leases.settle(want)
        for lease_id, _, worker_id, _, _ in report.get("leases") or ():
            if lease_id not in client.leases:
                exit_ = self.found.exits.get(worker_id) or Exit("worker_died", GONE)
                self.s.send(client.peer, wire.LEASE_LOST, lease_id, exit_.reason, exit_.kind)

    def _lease(self, want: Want, lease_id: int, worker_id: bytes, gpu_ids: list[int], slot: int) -> None:
        s = self.s
        worker = s.workers.get(worker_id)
        if worker is None or worker.holding is not None or worker_id not in s.clients:
            return
        units = min(UNIT, want.shape.gpu)
        devices = tuple((index, units) for index in gpu_ids)
        holding = self._hold(worker, want.shape, want.client.job, slot, devices)
        if holding is None:
            return
        lease = Lease(lease_id, want, holding)
        lease.granted = True
        holding.user = lease
        want.leases[lease_id] = s.leases[lease_id] = want.client.leases[lease_id] = lease
        if self._report(worker).get("blocked"):
            s.block(holding, True)

    # -- who is not there

    def _keepers(self) -> None:
        s = self.s
        items: list[Actor | Group] = [*s.actors.values(), *s.groups.values()]
        for item in items:
            job = s.jobs.get(item.job)
            if item.owner is None and job is not None:
                job.keepers += 1

    def _idle_workers(self) -> None:
        s, pool = self.s, self.hub.pool
        for worker in list(s.workers.values()):
            if worker.holding is not None:
                continue
            job = s.jobs.get(worker.job)
            found, report = self.found.workers[worker.worker_id], self._report(worker)
            free = found.kept and report.get("actor") is None and not report.get("busy")
            if free and job is not None and job.live and worker.worker_id in s.clients:
                pool.adopt(worker)
            else:
                pool.stop(worker, True, "it served nobody when the hub was restarted")

    def _watches(self, client: Client) -> None:
        report = self.found.clients[client.peer][4].get("report") or {}
        for actor in client.actors.values():
            self.hub.actors.watch(client, actor.actor_id)
        for actor_id in report.get("watching") or ():
            if actor_id not in client.actors:
                self.hub.actors.watch(client, actor_id)
        for group_id in dict.fromkeys([*client.groups, *(report.get("groups") or ())]):
            group = self.s.groups.get(group_id) or self.s.removed_groups.get(group_id)
            if group is not None:
                self.hub.groups.tell(client, group)

    def _node_exit(self, node_id: bytes) -> Exit:
        record = self.found.table("node").get(node_id) or {}
        return node_exit(node_id, str(record.get("host") or "unknown"), GONE)

    def _nodes_gone(self) -> None:
        s = self.s
        for node_id in self.found.table("node"):
            if node_id in self.found.agents:
                continue
            self.hub.nodes.fence(node_id, GONE)
            s.note("node", node_id, None)
            processes = [
                record["claim"]["worker_id"]
                for record in self.found.table("actor").values()
                if record["claim"] and record["claim"]["node_id"] == node_id
            ]
            for client in s.clients.values():
                s.send(client.peer, wire.NODE_STATE, node_id, False, GONE, [node_id, *processes])

    def _let_go(self) -> None:
        """Nodes hold slots of gangs that are no more."""
        s = self.s
        for node_id, held in self.found.agreed.items():
            for group_id, _ in held:
                if group_id not in s.groups:
                    s.send(node_id, wire.RELEASE_SLOTS, group_id, -1)

    def _jobs_gone(self) -> None:
        s = self.s
        for job in s.jobs.values():
            if job.driver is None and job.ended_at is None:
                job.ended_at = s.now
                s.note("job", job.job_id, job)
                if not job.live:
                    self.hub.pool.job_ended(job.job_id)


def _devices(plain: Any) -> Devices:
    return tuple((int(index), int(units)) for index, units in plain)


def _take(ledger: Ledger, need: Amounts, devices: Devices) -> Share | None:
    """Take what is held in fact; CPUs may be overdrawn, by those that woke up from a wait."""
    short = max(0, need.get(CPU, 0) - ledger.free.get(CPU, 0)) if CPU in ledger.free else 0
    if any(ledger.device_free.get(index, 0) < units for index, units in devices):
        return None
    if need.get(GPU) and not devices:
        return None
    if short:
        ledger.lend(short)
    share = ledger.take(need, devices)
    if short:
        ledger.overdraw(short)
    return share
