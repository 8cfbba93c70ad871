"""Who gets resources next: one pass over the waiting lines after each event.

Rules of this module: requests that fit on exactly the same nodes stand in one line; lines are tried
in order of their heads' arrival, and one that does not fit is skipped, not waited for.  Callers of
one line take turns: a want that got a lease goes to the end.  A request that was passed over for
`reserve_after_s` gets room kept free (an earmark) on nodes that leases will leave, so the small do
not starve the large.  A line that did not fit is not tried again until capacity grew.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from spoke import wire
from spoke.core import placement
from spoke.core.actors import Actors
from spoke.core.choice import GroupGone, Unplaceable, choose_bundle, choose_node, infeasible, visible
from spoke.core.fit import FitIndex
from spoke.core.groups import Groups
from spoke.core.leases import Leases
from spoke.core.ledger import Amounts, Ledger
from spoke.core.pool import Pool
from spoke.core.shape import Shape
from spoke.core.state import Actor, Bundle, Group, Holding, Item, Lease, Line, Node, State, Want, Worker

EARMARKS_MAX: Final = 4
# Room is kept free with pauses: what is waited for may, through ways the hub cannot see (an actor's
# method, a file), depend on the small ones that are held back.
KEEP_S: Final = 8.0
PAUSE_S: Final = 2.0
SPAN_MAX_S: Final = 1024.0  # of room that is kept where groups and actors must leave first


class Scheduler:
    """Commits resources, the only place that does so for leases, actors and groups."""

    def __init__(
        self, state: State, pool: Pool, leases: Leases, actors: Actors, groups: Groups, index: FitIndex
    ) -> None:
        self.s = state
        self.index = index
        self.place_jobs: Callable[[], None] = lambda: None
        self.pool = pool
        self.leases = leases
        self.actors = actors
        self.groups = groups

    def run(self) -> None:
        """Place what fits, then look after the pools."""
        s = self.s
        while s.dirty or s.touched:
            if s.dirty:
                s.dirty = False
                self.place_jobs()  # first: a job waits for nothing that a task holds
                self._pass()
            touched, s.touched = s.touched, {}
            for node in touched.values():
                for holding, worker in self.pool.refill(node):
                    self.bind(holding, worker)

    def bind(self, holding: Holding, worker: Worker) -> None:
        """A holding found its worker."""
        user = holding.user
        if isinstance(user, Lease):
            self.leases.bind(user, worker)
        elif isinstance(user, Actor):
            self.actors.bind(user, worker)

    def _pass(self) -> None:
        s = self.s
        heap: list[tuple[int, Line]] = []
        for line in s.lines.values():
            if line.blocked_at != s.version:
                head = line.head()
                if head is not None:
                    heap.append((head.seq, line))
            elif line.infeasible:
                self._report(line)
        heapq.heapify(heap)
        while heap:
            _, line = heapq.heappop(heap)
            item = line.head()
            if item is None:
                continue
            try:
                placed = self._place(item)
            except Unplaceable as error:
                for hopeless in line.all():
                    self._fail(hopeless, error)
                continue
            if not placed:
                line.blocked_at = s.version
                self._blocked(line, item)
                continue
            head = line.head()
            if head is not None:
                heapq.heappush(heap, (head.seq, line))

    # -- placing one item

    def _place(self, item: Item) -> bool:
        s = self.s
        if isinstance(item, Group):
            return self._place_group(item)
        if isinstance(item, Want):
            shape, job, origin = item.shape, item.client.job, item.client.node_id
        elif isinstance(item, Actor):
            shape, job = item.shape, item.job
            origin = item.owner.node_id if item.owner is not None else b""
        else:
            raise AssertionError(f"{item!r} in a line")
        holding = self._take(item, shape, job, origin)
        if holding is None:
            return False
        if isinstance(item, Want):
            self.leases.placed(item, holding)
            if item.count > len(item.leases):
                s.requeue(item)
            else:
                s.dequeue(item)
        else:
            s.dequeue(item)
            self.actors.placed(item, holding)
        worker = self.pool.claim(holding)
        if worker is not None:
            self.bind(holding, worker)
        return True

    def _take(self, item: Item, shape: Shape, job: bytes, origin: bytes) -> Holding | None:
        """Take the resources of a request, or None."""
        s = self.s
        bundle: Bundle | None = None
        node: Node | None
        if shape.group_id is not None:
            group = self._group(item, shape.group_id)
            if group is not None and (foreign := group.foreign(job)):
                raise Unplaceable(foreign)
            if group is None or group.preparing is not None:
                return None
            bundle = choose_bundle(group, shape)
            if bundle is None or bundle.ledger is None or bundle.node is None:
                return None
            node, ledger = bundle.node, bundle.ledger
        else:
            node = choose_node(s, self.index, shape, item, origin)
            if node is None:
                return None
            ledger = node.ledger
        if shape.spread:
            node.spread_at = item.seq
        share = ledger.take(shape.need)
        return s.hold(node, share, bundle, shape, job) if share is not None else None

    def _group(self, item: Item, group_id: bytes) -> Group | None:
        """The group an item names; one that is unknown gets some time to appear."""
        s = self.s
        group = s.groups.get(group_id)
        if group is not None:
            return group
        removed = s.removed_groups.get(group_id)
        if removed is not None:
            raise GroupGone(f"its placement group was removed: {removed.reason} ({group_id.hex()})")
        if item.unknown_since is None:
            item.unknown_since = s.now
        if item.unknown_since + s.config.unknown_s <= s.now:
            raise Unplaceable(f"no placement group {group_id.hex()} is known to this cluster")
        s.wake_at(item.unknown_since + s.config.unknown_s)
        return None

    def _place_group(self, group: Group) -> bool:
        s = self.s
        group.tries += 1
        homes = self.index.choose(group.request, self._kept(group))
        if homes is None or not self.groups.reserve(group, homes):
            return False
        s.dequeue(group)
        return True

    def _kept(self, item: Item) -> dict[bytes, Ledger]:
        """The nodes on which room is kept free for older requests, as this one sees them."""
        s = self.s
        found: dict[bytes, Ledger] = {}
        if isinstance(item, Group):
            for node_id in item.avoid:
                if (node := s.nodes.get(node_id)) is not None and node.alive:
                    found[node_id] = node.ledger.copy()
                    found[node_id].subtract(node.ledger.free)
        for older in s.earmarked:
            if older.seq < item.seq and older.earmark is not None:
                for node_id in older.earmark:
                    node = s.nodes.get(node_id)
                    if node_id not in found and node is not None and node.alive:
                        found[node_id] = visible(s, node, item)
        return found

    # -- what does not fit

    def _fail(self, item: Item, error: Unplaceable) -> None:
        if isinstance(item, Want):
            self.leases.fail(item, str(error))
        elif isinstance(item, Actor):
            self.actors.end(item, error.kind, str(error))

    def _blocked(self, line: Line, head: Item) -> None:
        """Say once if it can never fit; else ask holders of leases to return what idles."""
        s = self.s
        if head.blocked_since is None:
            head.blocked_since = s.now
            s.wake_at(s.now + s.config.reserve_after_s)
        if line.infeasible_at != s.topology:
            line.infeasible_at = s.topology
            line.infeasible = self._infeasible(head)
        if line.infeasible:
            self._report(line)
        else:
            self.reclaim(head)

    def _infeasible(self, item: Item) -> str:
        if isinstance(item, Group):
            if self.index.possible(item.request):
                return ""
            why = placement.explain(self.s.alive, item.request)
            return f"The placement group can never be placed on the present nodes: {why}" if why else ""
        if isinstance(item, (Want, Actor)) and item.shape.group_id is None:
            return infeasible(self.s, item.shape)
        return ""

    def _report(self, line: Line) -> None:
        for item in reversed(line.items):  # the unreported are the latest
            one = item[1]
            if one.line is not line or one.seq != item[0]:
                continue
            if one.reported:
                break
            one.reported = True
            if isinstance(one, Want):
                self._tell(one.client.peer, "class", one.class_id, line.infeasible)
            elif isinstance(one, Actor) and one.owner is not None:
                self._tell(one.owner.peer, "actor", one.actor_id, line.infeasible)
            elif isinstance(one, Group):
                one.reason = line.infeasible
                if one.owner is not None:
                    self._tell(one.owner.peer, "group", one.group_id, line.infeasible)

    def _tell(self, peer: bytes, what: str, name: int | bytes, reason: str) -> None:
        self.s.send(peer, wire.PENDING_REASON, what, name, reason, False)

    def reclaim(self, head: Item) -> None:
        """Ask each client that holds leases of another kind; again after a pause, while it lasts."""
        s = self.s
        if not s.leases:
            return
        if head.reclaim_at > s.now:
            s.wake_at(head.reclaim_at)
            return
        head.reclaim_at = s.now + s.config.reclaim_every_s
        s.wake_at(head.reclaim_at)
        group_id = head.shape.group_id if isinstance(head, (Want, Actor)) else None
        for client in s.clients.values():
            for lease in client.leases.values():
                if lease.want is not head and lease.holding.shape.group_id == group_id:
                    s.send(client.peer, wire.RECLAIM)
                    break

    # -- time

    def check(self) -> None:
        """Keep room free for those who wait longest, and repeat what was asked."""
        s = self.s
        if not s.lines:
            return
        old: list[tuple[int, Item]] = []
        for line in list(s.lines.values()):
            head = line.head()
            if head is None or head.blocked_since is None or line.infeasible:
                continue
            if head.unknown_since is not None:
                line.blocked_at = -1
                s.dirty = True
            self.reclaim(head)
            due = head.blocked_since + s.config.reserve_after_s
            if due <= s.now:
                old.append((head.seq, head))
                s.wake_at(s.now + s.config.reclaim_every_s)
            else:
                s.wake_at(due)
        old.sort(key=lambda entry: entry[0])
        before = [(item, item.earmark) for item in s.earmarked]
        for item in s.earmarked:
            item.earmark = None
        s.earmarked = []
        for _, item in old[:EARMARKS_MAX]:
            assert item.blocked_since is not None
            item.earmark = self._earmark(item, s.now - item.blocked_since - s.config.reserve_after_s)
            if item.earmark is not None:
                s.earmarked.append(item)
        if before != [(item, item.earmark) for item in s.earmarked]:
            s.grew()

    def _earmark(self, item: Item, waited: float) -> dict[bytes, Amounts] | None:
        """Where room is kept now for a request that has waited so long beyond its patience."""
        views = self._without_leases(item)
        if isinstance(item, Group):
            homes = self.index.choose(item.request, views)
            if homes is None:
                return self._kept_for_long(item, waited)
            item.kept = None
            return _room(item, homes) if waited % (KEEP_S + PAUSE_S) < KEEP_S else None
        if waited % (KEEP_S + PAUSE_S) >= KEEP_S:
            return None
        if not isinstance(item, (Want, Actor)) or item.shape.group_id is not None:
            return None
        shape = item.shape
        bundle, selector = shape.place, [shape.hard]
        if shape.node_id is not None and not shape.node_soft:
            node = self.s.nodes.get(shape.node_id)
            if node is None or not node.alive:
                return None
            here = views.get(shape.node_id, node.ledger)
            return {shape.node_id: bundle} if here.fits(bundle) else None
        if not bundle:
            return None
        homes = self.index.choose(placement.Request([bundle], "PACK", selectors=selector), views)
        return None if homes is None else {homes[0]: bundle}

    def _kept_for_long(self, group: Group, waited: float) -> dict[bytes, Amounts] | None:
        """Room on nodes that other groups or actors must leave, which may take for ever.

        It is kept in growing spans, each followed by as long a pause: in the end a span outlasts what
        lives there, and until then nobody else waits for more than half of the time.  The nodes are
        chosen at the start of a span: those whose oldest occupant came latest.
        """
        span, keep = _span(waited)
        if not keep:
            group.kept = None
            return None
        known = group.kept
        if known is not None and known[0] == span and all(self._alive(node_id) for node_id in known[1]):
            return known[1]
        oldest = self._oldest_occupants()
        vacant = [self.index.vacant_node(node) for node in self.s.alive]
        vacant.sort(key=lambda node: -oldest.get(node.node_id, self.s.now))
        homes = placement.choose(vacant, group.request)
        group.kept = None if homes is None else (span, _room(group, homes))
        return None if group.kept is None else group.kept[1]

    def _alive(self, node_id: bytes) -> bool:
        node = self.s.nodes.get(node_id)
        return node is not None and node.alive

    def _oldest_occupants(self) -> dict[bytes, float]:
        """Since when the oldest of what is on each node is there."""
        s = self.s
        found: dict[bytes, float] = {}
        for node in s.alive:
            for worker in node.workers.values():
                if worker.holding is not None and worker.holding.bundle is None:
                    since = worker.holding.since
                    found[node.node_id] = min(since, found.get(node.node_id, since))
        for group in [*s.groups.values(), *s.removed_groups.values()]:
            for bundle in group.bundles:
                if bundle.node is not None:
                    node_id = bundle.node.node_id
                    found[node_id] = min(group.placed_at, found.get(node_id, group.placed_at))
        return found

    def _without_leases(self, item: Item) -> dict[bytes, Ledger]:
        """The nodes as this item would see them if all leases ended, where that makes a difference."""
        s = self.s
        views = {node_id: ledger.copy() for node_id, ledger in self._kept(item).items()}
        for lease in s.leases.values():
            holding = lease.holding
            node = holding.node
            if holding.bundle is not None or not node.alive:
                continue
            ledger = views.get(node.node_id)
            if ledger is None:
                ledger = views[node.node_id] = node.ledger.copy()
            ledger.give(holding.share)
            if holding.blocked:
                ledger.overdraw(holding.shape.cpu)
        return views


def _room(group: Group, homes: list[bytes]) -> dict[bytes, Amounts]:
    """What the open bundles of a group take of each node."""
    room: dict[bytes, Amounts] = {}
    for index, home in enumerate(homes):
        if group.request.fixed[index] is None:
            kept = room.setdefault(home, {})
            for name, units in group.request.bundles[index].items():
                kept[name] = kept.get(name, 0) + units
    return room


def _span(waited: float) -> tuple[int, bool]:
    """The number of the span after so many seconds, and whether room is kept in it or it is a pause."""
    number, length = 0, KEEP_S
    while waited >= 2 * length:
        waited -= 2 * length
        number += 1
        length = min(2 * length, SPAN_MAX_S)
    return number, waited < length
