"""The hub looked at as a whole: do the tables agree, and what do they hold.

Rules of this module: reads everything, changes nothing.  `audit` costs time in proportion to the
cluster and is for tests; `take_snapshot` is for status displays.
"""

from __future__ import annotations

from typing import NamedTuple

from spoke.core.ledger import GPU, to_floats
from spoke.core.pool import GENERIC
from spoke.core.state import BUSY, IDLE, STARTING, STOPPING, Actor, Group, Holding, Lease, Node, State, Want


class NodeFigures(NamedTuple):
    """One node in a `Snapshot`."""

    node_id: bytes
    host: str
    alive: bool
    total: dict[str, float]
    free: dict[str, float]
    workers: int
    idle: int
    starting: int


class Snapshot(NamedTuple):
    """Figures of the whole cluster."""

    nodes: list[NodeFigures]
    clients: int
    workers: int
    leases: int
    actors: dict[str, int]
    groups: dict[str, int]
    waiting: int
    infeasible: int


def take_snapshot(s: State) -> Snapshot:
    """Figures of the present state."""
    actors: dict[str, int] = {}
    for actor in s.actors.values():
        actors[actor.state] = actors.get(actor.state, 0) + 1
    groups: dict[str, int] = {}
    for group in s.groups.values():
        groups[group.state] = groups.get(group.state, 0) + 1
    nodes = [
        NodeFigures(
            node.node_id,
            node.host,
            node.alive,
            to_floats(node.ledger.total),
            to_floats(node.ledger.free),
            len(node.workers),
            node.idle_count,
            node.starting_count,
        )
        for node in s.nodes.values()
    ]
    return Snapshot(
        nodes,
        len(s.clients),
        len(s.workers),
        len(s.leases),
        actors,
        groups,
        sum(line.live for line in s.lines.values()),
        sum(line.live for line in s.lines.values() if line.infeasible),
    )


def audit(s: State) -> None:
    """Assert every cross-link and every sum."""
    assert not s.out and not s.dirty and not s.touched
    holdings = _holdings(s)
    for node in s.nodes.values():
        _audit_node(s, node)
        if node.alive:
            _audit_sums(node, holdings, s)
    assert [node for node in s.nodes.values() if node.alive] == s.alive
    _audit_clients(s)
    _audit_leases(s)
    _audit_actors(s)
    _audit_groups(s, holdings)
    _audit_lines(s)
    assert s.kv_bytes == sum(len(key) + len(value) for (_, key), value in s.kv.items())


def _holdings(s: State) -> list[Holding]:
    found = [worker.holding for worker in s.workers.values() if worker.holding is not None]
    for node in s.alive:
        for queue in node.waiting.values():
            found.extend(queue)
    assert len({holding.serial for holding in found}) == len(found), "a holding is listed twice"
    return found


def _audit_node(s: State, node: Node) -> None:
    starting: dict[object, int] = {}
    idle = preparing = 0
    for worker_id, worker in node.workers.items():
        assert s.workers[worker_id] is worker and worker.node is node
        if worker.state == STARTING:
            starting[worker.key] = starting.get(worker.key, 0) + 1
            preparing += worker.preparing
            assert worker.holding is None
            assert worker_id not in s.clients or worker.address is not None, "neither new nor specialized"
        elif worker.state == IDLE:
            idle += 1
            assert worker in node.idle[worker.key, worker.job] and worker.holding is None
        elif worker.state == BUSY:
            assert worker.holding is not None and worker.holding.worker is worker
            assert worker.holding.user is not None, "a busy worker that works for nobody"
            assert worker.key == worker.holding.key and worker.job == worker.holding.job
        else:
            assert worker.state == STOPPING
    assert starting == node.starting and sum(starting.values()) - preparing == node.starting_count
    assert idle == node.idle_count == sum(map(len, node.idle.values()))
    assert node.alive or not (node.workers or node.waiting)
    for key, queue in node.waiting.items():
        assert queue and all(holding.key == key and holding.worker is None for holding in queue)
        assert all(holding.user is not None for holding in queue)


def _audit_sums(node: Node, holdings: list[Holding], s: State) -> None:
    node.ledger.validate()
    used: dict[str, int] = {}
    devices: dict[int, int] = {}
    shares = [one.share for one in holdings if one.bundle is None and one.node is node]
    for holding in holdings:
        if holding.blocked and holding.bundle is None and holding.node is node:
            used["CPU"] = used.get("CPU", 0) - holding.shape.cpu
    load = sum(holding.node is node for holding in holdings)
    for group in [*s.groups.values(), *s.removed_groups.values()]:
        for bundle in group.bundles:
            if bundle.node is node and bundle.share is not None:
                shares.append(bundle.share)
                load += 1
    shares += [job.share for job in s.submissions.values() if job.node is node and job.share is not None]
    for share in shares:
        for name, units in share.amounts.items():
            used[name] = used.get(name, 0) + units
        for index, units in share.devices:
            devices[index] = devices.get(index, 0) + units
        assert share.amounts.get(GPU, 0) == sum(units for _, units in share.devices)
    used[GPU] = used.get(GPU, 0) + sum(node.ledger.withheld.values())
    for index, units in node.ledger.withheld.items():
        devices[index] = devices.get(index, 0) + units
    assert sorted(node.ledger.withheld) == sorted(node.held), "GANG-3: a held device is in the pool"
    for name, total in node.ledger.total.items():
        assert node.ledger.free[name] == total - used.get(name, 0), f"{name} does not add up"
    for index, total in node.ledger.device_total.items():
        assert node.ledger.device_free[index] == total - devices.get(index, 0), f"device {index}"
    assert node.load == load


def _audit_clients(s: State) -> None:
    for peer, client in s.clients.items():
        assert client.peer == peer
        assert client.worker is None or s.workers[peer] is client.worker
        for class_id, want in client.wants.items():
            assert want.client is client and want.class_id == class_id
            assert want.count or want.leases
            assert (want.line is not None) == (want.count > len(want.leases)), "a want out of line"
        for lease_id, lease in client.leases.items():
            assert s.leases[lease_id] is lease and lease.granted and lease.want.client is client
        for actor_id, actor in client.actors.items():
            assert s.actors[actor_id] is actor and actor.owner is client
        for name, watched in client.watching.items():
            assert isinstance(watched, (Actor, Group)) and watched.watchers[peer] is client
            assert s.actors.get(name) is watched or s.groups.get(name) is watched


def _audit_leases(s: State) -> None:
    for lease_id, lease in s.leases.items():
        want = lease.want
        assert want.leases[lease_id] is lease and want.client.wants[want.class_id] is want
        assert s.clients[want.client.peer] is want.client
        assert lease.holding.user is lease
        if lease.granted:
            assert want.client.leases[lease_id] is lease and lease.holding.worker is not None
        else:
            assert lease.holding.worker is None


def _audit_actors(s: State) -> None:
    for actor_id, actor in s.actors.items():
        assert actor.actor_id == actor_id and actor.state != "DEAD"
        holding = actor.holding
        if holding is not None:
            assert holding.user is actor and actor.line is None
            bound = holding.worker is not None
            assert bound == (actor.state in ("STARTING", "ALIVE")), actor.state
        else:
            assert actor.line is not None, f"actor {actor_id.hex()} {actor.state} waits nowhere"
        if actor.owner is not None:
            assert actor.owner.actors[actor_id] is actor
        if actor.name:
            assert s.actor_names[actor.namespace, actor.name] is actor
        for peer, watcher in actor.watchers.items():
            assert s.clients[peer] is watcher and watcher.watching[actor_id] is actor
    assert all(s.actors[actor.actor_id] is actor for actor in s.actor_names.values())
    for job in s.jobs.values():
        keepers = sum(actor.owner is None and actor.job == job.job_id for actor in s.actors.values())
        keepers += sum(group.owner is None and group.job == job.job_id for group in s.groups.values())
        assert job.keepers == keepers


def _audit_groups(s: State, holdings: list[Holding]) -> None:
    for group in [*s.groups.values(), *s.removed_groups.values()]:
        inside = [one for one in holdings if one.bundle is not None and one.bundle.group is group]
        assert sorted(group.holdings) == sorted(one.serial for one in inside)
        placed = [bundle for bundle in group.bundles if bundle.node is not None]
        if group.state == "CREATED":
            assert len(placed) == len(group.bundles), "GANG-2"
            assert group.line is None
        elif group.state == "PENDING" and group.preparing is not None:
            assert len(placed) == len(group.bundles) and group.line is None, "GANG-2"
        elif group.state == "PENDING":
            assert not placed and group.line is not None, "GANG-2"
        elif group.state == "REMOVED":
            assert all(bundle.ledger is not None and not bundle.ledger.idle() for bundle in placed), "GANG-3"
        for bundle in placed:
            assert bundle.node is not None and bundle.node.alive
            assert bundle.ledger is not None and bundle.share is not None
            bundle.ledger.validate()


def _audit_lines(s: State) -> None:
    for key, line in s.lines.items():
        items = line.all()
        assert line.key == key and len(items) == line.live > 0
        assert [item.seq for item in items] == sorted(item.seq for item in items)
        for item in items:
            assert isinstance(item, (Want, Actor, Group))
            assert item.line is line
    for item in s.earmarked:
        assert item.line is not None and item.earmark is not None
    for lease in s.leases.values():
        assert isinstance(lease, Lease)
    assert GENERIC not in s.lines
