"""Placement groups: several slots reserved in one step, all or none (GANG-2).

Rules of this module: a group takes its slots out of the nodes' ledgers whole; leases and actors in
it draw from a slot only.  Removing it ends what runs in it at once and returns a slot to its node
when the last process in that slot was reaped (GANG-3); removing twice does nothing.  When a node
dies, its slots are placed again elsewhere while the others stand (RESCHEDULING).

The spec of a CREATE_GROUP: bundles [{resource: amount}], strategy, name, namespace, detached,
selectors [selector per bundle] or None, target_node (soft, node id) or None, request_id; of a gang
also per_node (so many consecutive bundles share a node) and gang (see `spoke.core.gangs`).  Further
same, prefer (see `spoke.core.request`) and devices [indices of GPUs per bundle] or None.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import wire
from spoke.core import placement, reached
from spoke.core.actors import Actors
from spoke.core.exits import Exit
from spoke.core.gangs import GangPolicy, Gangs
from spoke.core.leases import Leases
from spoke.core.ledger import Ledger, to_floats, to_units
from spoke.core.pool import Pool
from spoke.core.prepare import Prepares
from spoke.core.selectors import parse
from spoke.core.state import STOPPING, Actor, Bundle, Client, Group, Lease, Node, State, Worker
from spoke.limits import MAX_BUNDLES, MAX_DEAD_RECORDS, MAX_GROUPS

PENDING: Final = "PENDING"
CREATED: Final = "CREATED"
RESCHEDULING: Final = "RESCHEDULING"
REMOVED: Final = "REMOVED"


class Groups:
    """All placement groups."""

    def __init__(self, state: State, pool: Pool, leases: Leases, actors: Actors) -> None:
        self.s = state
        self.pool = pool
        self.leases = leases
        self.actors = actors
        self.gangs = Gangs(state, actors, self)
        self.prepares = Prepares(state, self)

    def create(self, client: Client, group_id: bytes, spec: dict[str, Any]) -> None:
        """A client asks for a group."""
        s = self.s
        known = s.groups.get(group_id) or s.removed_groups.get(group_id)
        if known is not None:  # said again, as the answer was lost with an earlier life of the hub
            self._respond(client, spec, None)
            self.tell(client, known)
            return
        if group_id in s.refused:
            self._answer_refused(client, group_id, spec)
            return
        group = Group(group_id, spec)
        job = s.jobs.get(client.job)
        group.namespace = group.namespace or (job.info.get("namespace", "") if job else "")
        try:
            group.request = parse_request(spec)
            group.gang = GangPolicy(spec["gang"]) if spec.get("gang") is not None else None
            if len(s.groups) >= MAX_GROUPS:
                raise ValueError(f"the cluster has {MAX_GROUPS} placement groups, its limit")
            if group.name and (group.namespace, group.name) in s.group_names:
                raise ValueError(f"a placement group named {group.name!r} exists in {group.namespace!r}")
        except (ValueError, TypeError, AttributeError) as error:
            s.refuse(group_id, ["ValueError", str(error)])
            self._answer_refused(client, group_id, spec)
            return
        group.bundles = [Bundle(group, index) for index in range(len(group.request.bundles))]
        group.ports = [0] * len(group.bundles)
        group.job = client.job
        group.creator = client.peer
        s.groups[group_id] = group
        if group.name:
            s.group_names[group.namespace, group.name] = group
        if not spec.get("detached"):
            group.owner = client
            client.groups[group_id] = group
        elif job is not None:
            job.keepers += 1
        group.watchers[client.peer] = client
        client.watching[group_id] = group
        s.note("group", group_id, group)
        self._respond(client, spec, None)
        if group.gang is not None:
            self.gangs.expire(group, group.gang.pending_timeout_s)
        s.grew()  # leases and actors may have named it before it arrived
        s.enqueue(group, group.request.key)

    def _answer_refused(self, client: Client, group_id: bytes, spec: dict[str, Any]) -> None:
        error = self.s.refused[group_id][0]
        self._respond(client, spec, error)
        info = {"nodes": [], "gpu_ids": [], "reason": error[1]}
        self.s.send(client.peer, wire.GROUP_STATE, group_id, REMOVED, info)

    def _respond(self, client: Client, spec: dict[str, Any], error: list[str] | None) -> None:
        request_id = spec.get("request_id")
        if type(request_id) is int:
            self.s.send(client.peer, wire.RESPONSE, request_id, error, None)

    def reserve(self, group: Group, homes: list[bytes]) -> bool:
        """Take the slots that have no node yet; False and nothing taken if they do not fit."""
        s = self.s
        by_node: dict[bytes, list[Bundle]] = {}
        for bundle, home in zip(group.bundles, homes, strict=True):
            if bundle.node is None:
                by_node.setdefault(home, []).append(bundle)
        done: list[Bundle] = []
        for home, bundles in by_node.items():
            node = s.nodes[home]
            shares = placement.reserve(node.ledger, group.request, [one.index for one in bundles])
            if shares is None:
                for bundle in done:
                    self.unreserve(bundle)
                return False
            for bundle, share in zip(bundles, shares, strict=True):
                bundle.node, bundle.share = node, share
                bundle.ledger = Ledger(share.amounts, dict(share.devices), node.ledger.domains)
                node.load += 1
                s.touched[home] = node
                done.append(bundle)
        if group.gang is not None:
            self.prepares.begin(group, done)
            return True
        self._created(group)
        s.grew()  # what waits for this group's slots
        return True

    def _created(self, group: Group) -> None:
        group.reason = ""
        group.placed_at = self.s.now
        self.gangs.placed(group)
        self._move(group, CREATED)
        self.gangs.renewed(group)

    def agreed(self, group: Group) -> None:
        """All nodes have prepared what was asked."""
        if group.state == CREATED:
            self.gangs.renewed(group)
            self.announce(group)
        else:
            self._created(group)

    def wait_again(self, group: Group) -> None:
        """Back into its line."""
        key = group.request.key if group.state == PENDING else ("group", group.group_id)
        self.s.note("group", group.group_id, group)
        self.s.enqueue(group, key)

    @staticmethod
    def unreserve(bundle: Bundle) -> None:
        """Give back a slot that nothing runs in."""
        assert bundle.node is not None and bundle.share is not None
        bundle.node.ledger.give(bundle.share)
        bundle.node.load -= 1
        bundle.node = bundle.share = bundle.ledger = None

    # -- telling

    def _move(self, group: Group, state: str) -> None:
        group.state = state
        self.announce(group)

    def announce(self, group: Group) -> None:
        """Push the present state to all watchers."""
        self.s.note("group", group.group_id, group)
        message = self.message(group)
        for watcher in group.watchers.values():
            self.s.send(watcher.peer, *message)

    @staticmethod
    def message(group: Group) -> tuple[Any, ...]:
        info = {
            "nodes": [bundle.node.node_id if bundle.node is not None else None for bundle in group.bundles],
            "gpu_ids": [list(bundle.share.gpu_ids) if bundle.share else [] for bundle in group.bundles],
            "reason": group.reason,
        }
        if group.gang is not None:
            info["hosts"] = [bundle.node.host if bundle.node is not None else "" for bundle in group.bundles]
            info["incarnation"] = group.incarnation
            info["lost"] = group.lost
            info["ports"] = list(group.ports) if group.ports_of == group.incarnation else None
            info["nics"] = reached.nics(group)
            info["reached"] = reached.closeness(group)
            info["shown"] = reached.shown(group)
            info["variables"] = reached.variables(group)
        return (wire.GROUP_STATE, group.group_id, group.state, info)

    def tell(self, client: Client, group: Group) -> None:
        """The present state now, unless there is nothing to say, and later ones as they come."""
        self.watch(client, group)
        if group.state != PENDING:
            self.s.send(client.peer, *self.message(group))

    def watch(self, client: Client, group: Group) -> None:
        """Later states are pushed to this client, too."""
        if group.state != REMOVED:
            group.watchers[client.peer] = client
            client.watching[group.group_id] = group

    # -- ending

    def remove(self, group: Group, reason: str) -> None:
        """End what runs in the group; its slots return to their nodes as processes are reaped."""
        s = self.s
        if group.state == REMOVED:
            return
        s.dequeue(group)
        if group.gang is not None:
            self.prepares.release(group)
        group.reason = reason
        group.expires_at = None
        self._move(group, REMOVED)
        del s.groups[group.group_id]
        if s.group_names.get((group.namespace, group.name)) is group:
            del s.group_names[group.namespace, group.name]
        s.remember(s.removed_groups, group.group_id, group, MAX_DEAD_RECORDS, "group")
        for watcher in group.watchers.values():
            watcher.watching.pop(group.group_id, None)
        group.watchers = {}
        job = s.jobs.get(group.job)
        if group.owner is not None:
            group.owner.groups.pop(group.group_id, None)
            group.owner = None
        elif job is not None:
            job.keepers -= 1
        text = f"its placement group was removed: {reason} ({group.group_id.hex()})"
        for holding in list(group.holdings.values()):
            user, worker = holding.user, holding.worker
            if isinstance(user, Actor):
                self.actors.end(user, "group_removed", text)
            elif isinstance(user, Lease) and worker is not None:
                self.leases.lost(user, Exit("group_removed", text))
            if worker is not None:
                if user is not None or not asked_to_stop(worker):
                    self.pool.stop(worker, True, text)
            elif isinstance(user, Lease):
                self.pool.cancel(holding)
                self.leases.lost(user, Exit("group_removed", text))
                s.release(holding)
        for bundle in group.bundles:
            s.settle(bundle)
        s.grew()  # what waits for this group must hear that it is gone
        if job is not None and not job.live:
            self.pool.job_ended(job.job_id)

    def node_died(self, node: Node) -> None:
        """Slots on a dead node are placed anew (its holdings were released before)."""
        s = self.s
        for group in list(s.groups.values()):
            lost = [bundle for bundle in group.bundles if bundle.node is node]
            if lost and group.preparing is not None:
                self.prepares.abort(group)
                self.wait_again(group)
                lost = [bundle for bundle in lost if bundle.node is node]
            if lost:
                self.displaced(group, lost, f"node {node.node_id.hex()} died")
        for group in list(s.removed_groups.values()):
            for bundle in group.bundles:
                if bundle.node is node:
                    bundle.node = bundle.share = bundle.ledger = None

    def displaced(self, group: Group, lost: list[Bundle], reason: str) -> None:
        """These slots have no node any more: find them another."""
        s = self.s
        for bundle in lost:
            bundle.node = bundle.share = bundle.ledger = None
        s.dequeue(group)
        group.reason = reason
        group.request.refix(
            [bundle.node.node_id if bundle.node is not None else None for bundle in group.bundles]
        )
        self._move(group, RESCHEDULING)
        s.enqueue(group, ("group", group.group_id))

    def check(self) -> None:
        """What is due by now."""
        self.gangs.check()
        self.prepares.check()

    def client_lost(self, client: Client) -> None:
        """Its groups are released; it watches no more."""
        for group in list(self.s.groups.values()):
            if group.relaunch and group.creator == client.peer:
                self.gangs.renewed(group)
        for group in list(client.groups.values()):
            self.remove(group, "its owner (the process that created it) died")
        for watched in client.watching.values():
            if isinstance(watched, Group):
                watched.watchers.pop(client.peer, None)


def asked_to_stop(worker: Worker) -> bool:
    """Whether its agent lets it clean up, and kills it if that takes too long."""
    return worker.state == STOPPING and not worker.forced and worker.stop_at is None


def parse_request(spec: dict[str, Any]) -> placement.Request:
    """Check a spec that came from a peer.

    Raises:
        ValueError: anything malformed.
    """
    bundles = [to_units(bundle) for bundle in spec.get("bundles") or []]
    if not bundles or not all(bundles):
        raise ValueError("a placement group needs bundles, and every bundle an amount above zero")
    if len(bundles) > MAX_BUNDLES:
        raise ValueError(f"a placement group has at most {MAX_BUNDLES} bundles")
    selectors = spec.get("selectors")
    parsed = [parse(selector) for selector in selectors] if selectors else None
    if parsed is not None and len(parsed) != len(bundles):
        raise ValueError("one label selector per bundle")
    strategy = spec.get("strategy") or "PACK"
    per_node = spec.get("per_node", 1)
    if type(per_node) is not int or per_node < 1 or len(bundles) % per_node:
        raise ValueError(f"{per_node!r} bundles per node do not divide {len(bundles)} bundles")
    return placement.Request(
        bundles,
        strategy,
        selectors=parsed,
        target=spec.get("target_node"),
        per_node=per_node,
        ranked=spec.get("gang") is not None,
        same=_name(spec, "same"),
        prefer=_name(spec, "prefer"),
        devices=_devices(spec.get("devices"), len(bundles)),
    )


def _name(spec: dict[str, Any], name: str) -> str:
    value = spec.get(name) or ""
    if type(value) is not str:
        raise ValueError(f"{name} must be text, not {value!r}")
    return value


def _devices(given: Any, count: int) -> list[tuple[int, ...]] | None:
    if given is None:
        return None
    if len(given) != count or not all(type(index) is int for ids in given for index in ids):
        raise ValueError("devices must name the GPUs of every bundle by their indices")
    return [tuple(ids) for ids in given]


def describe(group: Group) -> dict[str, Any]:
    """One row of the table of groups."""
    _, _, state, info = Groups.message(group)
    return {
        "group_id": group.group_id,
        "name": group.name,
        "namespace": group.namespace,
        "strategy": group.request.strategy,
        "state": state,
        "bundles": [to_floats(bundle) for bundle in group.request.bundles],
        "detached": bool(group.spec.get("detached")),
        "gang": group.gang.restart if group.gang is not None else None,
        "restarts": len(group.restarts),
        "job_id": group.job,
        **info,
    }
