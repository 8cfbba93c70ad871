"""Where bundles go: pure functions from nodes and a request to one node per bundle, and its devices.

Rules of this module: nothing is changed, the answer depends on the arguments only, and all bundles
are placed or none (GANG-2).  STRICT_PACK, STRICT_SPREAD and what `same` requires find a placement
whenever one exists; PACK uses few nodes and SPREAD many as far as a greedy search sees, and both fall
back to any placement that search finds.  It looks at every node: `spoke.core.fit` asks it where
looking at kinds of nodes does not do.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spoke.core.ledger import GPU, UNIT, Ledger, Share, show
from spoke.core.request import NODE, STRATEGIES, Request
from spoke.core.topology import KINDS, Domains, groups_of, largest, pick

__all__ = ["STRATEGIES", "Request", "choose", "explain", "ranked", "reserve"]

if TYPE_CHECKING:
    from typing import Protocol

    class Candidate(Protocol):
        """What a placement needs to know of a node."""

        @property
        def node_id(self) -> bytes: ...
        @property
        def ledger(self) -> Ledger: ...
        @property
        def labels(self) -> dict[str, str]: ...


_SEARCH_STEPS_MAX: Final = 20_000  # of the exact search for shares of GPUs
_SEARCH_PARTS_MAX: Final = 400  # it recurses once per share


def choose(nodes: Sequence[Candidate], request: Request) -> list[bytes] | None:
    """A node id per bundle, or None when the bundles do not fit now."""
    indices = request.open()
    ordered = _preference(nodes, request)
    for labels, kinds in request.attempts(largest(node.ledger.domains for node in nodes)):
        for chosen in _sharing(ordered, request, labels):
            placed = _attempt(chosen, request, indices, kinds)
            if placed is None:
                continue
            if request.ranked and len(placed) == len(request.bundles):
                return ranked(placed, request)
            return [placed[index] if home is None else home for index, home in enumerate(request.fixed)]
    return None


def _attempt(
    nodes: list[Candidate], request: Request, indices: list[int], kinds: tuple[str, ...]
) -> dict[int, bytes] | None:
    if request.strategy == "STRICT_SPREAD":
        return _strict_spread(nodes, request, indices, kinds)
    if kinds or request.strategy == "STRICT_PACK":
        return _strict_pack(nodes, request, indices, kinds)
    if request.strategy == "PACK":
        return _pack(nodes, request, indices)
    return _spread(nodes, request, indices)


def _sharing(nodes: list[Candidate], request: Request, keys: tuple[str, ...]) -> list[list[Candidate]]:
    """The nodes by the values that they have for these labels; those that lack one are left out."""
    if not keys:
        return [nodes]
    parts: dict[tuple[str, ...], list[Candidate]] = {}
    homes = [home for home in request.fixed if home is not None]
    standing: dict[tuple[str, ...], bool] = {}
    for node in nodes:
        if all(key in node.labels for key in keys):
            values = tuple(node.labels[key] for key in keys)
            parts.setdefault(values, []).append(node)
            if node.node_id in homes:
                standing[values] = True
    return [
        part for values, part in parts.items() if not standing or (len(standing) == 1 and values in standing)
    ]


def ranked(placed: dict[int, bytes], request: Request) -> list[bytes]:
    """The homes of equal bundles in the order of their nodes, the target first."""
    order: dict[bytes, int] = {}
    for index in range(len(placed)):
        order.setdefault(placed[index], 0 if placed[index] == request.target else index + 1)
    return sorted(placed.values(), key=lambda home: order[home])


def explain(nodes: Sequence[Candidate], request: Request) -> str | None:
    """Why no cluster state would ever admit the request on these nodes; None if one would."""
    empty = [_Empty(node) for node in nodes]
    if choose(empty, request) is not None:
        return None
    for index in request.open():
        bundle = request.bundles[index]
        if not any(node.ledger.fits(bundle) for node in empty):
            return f"bundle {index} {show(bundle)} is larger than every node"
        if not any(request.admits(node.labels, index) and node.ledger.fits(bundle) for node in empty):
            return f"bundle {index} {show(bundle)}: no node that fits has the labels it selects"
    count, size = len(request.bundles), request.per_node
    runs = f"{count} bundles" if size == 1 else f"{count // size} runs of {size} bundles"
    if request.same:
        return _explain_same(empty, request, runs)
    return {
        "STRICT_PACK": f"no single node holds all {count} bundles (STRICT_PACK)",
        "STRICT_SPREAD": f"{runs} need as many different nodes that fit (STRICT_SPREAD); "
        f"the cluster has {len(nodes)} nodes",
    }.get(request.strategy, f"{count} bundles together are larger than the cluster")


def _explain_same(nodes: Sequence[Candidate], request: Request, runs: str) -> str:
    same, strategy = request.same, request.strategy
    if same in KINDS:
        sizes = [len(group) for node in nodes for group in groups_of(node.ledger.domains, same)]
        if not sizes:
            return f"no node has reported GPUs of one {same} domain (same={same!r})"
        return f"no {same} domain holds {runs} (same={same!r}); the largest has {max(sizes)} GPUs"
    if same == NODE:
        return f"no single node holds all {len(request.bundles)} bundles (same='node')"
    values = dict.fromkeys(node.labels[same] for node in nodes if same in node.labels)
    if not values:
        return f"no node has the label {same!r} (same={same!r})"
    listed = ", ".join(values)
    return f"no nodes with one value of the label {same!r} hold {runs} ({strategy}); its values: {listed}"


class _Empty:
    """A node with nothing taken."""

    __slots__ = ("labels", "ledger", "node_id")

    def __init__(self, node: Candidate) -> None:
        self.node_id = node.node_id
        self.labels = node.labels
        self.ledger = node.ledger.empty_copy()


def _preference(nodes: Sequence[Candidate], request: Request) -> list[Candidate]:
    """The target first, nodes without GPUs first where no GPU is asked for, else as given."""
    wants_gpu = any(GPU in bundle for bundle in request.bundles)

    def rank(node: Candidate) -> int:
        if node.node_id == request.target:
            return 0
        return 1 if wants_gpu or GPU not in node.ledger.total else 2

    return sorted(nodes, key=rank)


# -- all on one node


def _strict_pack(
    nodes: list[Candidate], request: Request, indices: list[int], kinds: tuple[str, ...]
) -> dict[int, bytes] | None:
    homes = [home for home in request.fixed if home is not None]
    if any(home != homes[0] for home in homes):
        return None
    for node in nodes:
        if homes and node.node_id != homes[0]:
            continue
        if all(request.admits(node.labels, index) for index in indices) and holds(
            node.ledger, request, indices, kinds
        ):
            return dict.fromkeys(indices, node.node_id)
    return None


def holds(ledger: Ledger, request: Request, indices: Sequence[int], kinds: tuple[str, ...] = ()) -> bool:
    """Whether a node takes these bundles together now, in one domain of each of these kinds."""
    need = request.need(indices)
    free = ledger.free
    for name, units in need.items():
        if free.get(name, 0) < units:
            return False
    gpus = need.get(GPU, 0)
    if not gpus:
        return all(kind == NODE for kind in kinds)
    wanted = [request.bundles[index].get(GPU, 0) for index in indices]
    named = [request.devices[index] for index in indices] if request.devices else None
    for devices in within(ledger, kinds):
        if sum(devices.values()) < gpus:
            continue
        if named is None and min(wanted) >= UNIT:  # whole devices only: counting them will do
            if sum(room >= UNIT for room in devices.values()) >= gpus // UNIT:
                return True
        elif _assign_devices(devices, ledger.domains, wanted, named) is not None:
            return True
    return False


def within(ledger: Ledger, kinds: Sequence[str]) -> list[dict[int, int]]:
    """What is free of the devices in each domain of these kinds, the fullest domain first."""
    found = [ledger.device_free]
    for kind in kinds:
        if kind in KINDS:
            groups = groups_of(ledger.domains, kind)
            found = [
                {index: devices[index] for index in group if index in devices}
                for devices in found
                for group in groups
            ]
    return sorted(found, key=lambda one: sum(one.values())) if len(found) > 1 else found


def reserve(ledger: Ledger, request: Request, indices: Sequence[int]) -> list[Share] | None:
    """Take these bundles from one node, or nothing; finds the devices whenever they exist.

    They are close to each other where they can be: in one domain of the closest kind that has room.
    """
    if len(indices) == 1 and not request.same and request.devices is None:
        one = ledger.take(request.bundles[indices[0]])
        return None if one is None else [one]
    gpus = [request.bundles[index].get(GPU, 0) for index in indices]
    named = [request.devices[index] for index in indices] if request.devices else None
    devices = _close_devices(ledger, gpus, named, request)
    if devices is None:
        return None
    shares: list[Share] = []
    for index, chosen in zip(indices, devices, strict=True):
        share = ledger.take(request.bundles[index], chosen)
        if share is None:
            for taken in shares:
                ledger.give(taken)
            return None
        shares.append(share)
    return shares


_Devices = list[tuple[tuple[int, int], ...]]  # (index, units) of each GPU, per bundle
_Named = Sequence[tuple[int, ...]] | None


def _close_devices(ledger: Ledger, gpus: list[int], named: _Named, request: Request) -> _Devices | None:
    required = tuple(kind for kind in request.required[1] if kind in KINDS)
    wishes = [kind for kind in KINDS if kind not in required] if ledger.domains and any(gpus) else []
    for kinds in [*((*required, kind) for kind in wishes), required]:
        for free in within(ledger, kinds):
            devices = _assign_devices(free, ledger.domains, gpus, named)
            if devices is not None:
                return devices
    return None


def _assign_devices(
    free: dict[int, int], domains: Domains, gpus: list[int], named: _Named = None
) -> _Devices | None:
    """Devices per request for GPUs (in units, 0 for none) of these, or None when they do not exist."""
    answer: _Devices = [()] * len(gpus)
    if not any(gpus):
        return answer
    if named is not None:
        free = dict(free)
        for order, ids in enumerate(named):
            for index in ids:
                units = min(UNIT, gpus[order])
                if free.get(index, 0) < units:
                    return None
                free[index] -= units
                answer[order] += ((index, units),)
        return answer
    wholes = sum(units // UNIT for units in gpus if units >= UNIT)
    rooms = list(free.items())
    spare = [index for index, room in rooms if room >= UNIT]
    if len(spare) < wholes:
        return None
    # Whole devices are equal but for their place: which ones are left for the shares is no matter.
    chosen = sorted(pick(spare, wholes, domains))
    taken = dict.fromkeys(chosen, True)
    rooms = [(index, room) for index, room in rooms if index not in taken]
    parts = sorted((-units, order) for order, units in enumerate(gpus) if 0 < units < UNIT)
    slots = _pack_parts([-units for units, _ in parts], [room for _, room in rooms])
    if slots is None:
        return None
    for (units, order), slot in zip(parts, slots, strict=True):
        answer[order] = ((rooms[slot][0], -units),)
    for order, units in enumerate(gpus):
        if units >= UNIT:
            mine = sorted(pick(chosen, units // UNIT, domains))
            chosen = [index for index in chosen if index not in mine]
            answer[order] = tuple((index, UNIT) for index in mine)
    return answer


def _pack_parts(parts: list[int], rooms: list[int]) -> list[int] | None:
    """A room per part (parts in decreasing size): tightest fit, else a search with a bound."""
    if sum(parts) > sum(rooms):
        return None
    left = list(rooms)
    slots: list[int] = []
    for part in parts:
        fitting = [(room, slot) for slot, room in enumerate(left) if room >= part]
        if not fitting:
            return _search_parts(parts, list(rooms))
        slot = min(fitting)[1]
        left[slot] -= part
        slots.append(slot)
    return slots


def _search_parts(parts: list[int], rooms: list[int]) -> list[int] | None:
    steps = 0
    slots: list[int] = []

    def place(position: int) -> bool:
        nonlocal steps
        if position == len(parts):
            return True
        steps += 1
        if steps > _SEARCH_STEPS_MAX:
            return False
        tried: list[int] = []
        for slot, room in enumerate(rooms):
            if room >= parts[position] and room not in tried:
                tried.append(room)
                rooms[slot] = room - parts[position]
                slots.append(slot)
                if place(position + 1):
                    return True
                slots.pop()
                rooms[slot] = room
        return False

    return slots if len(parts) <= _SEARCH_PARTS_MAX and place(0) else None


# -- all on different nodes


def _strict_spread(
    nodes: list[Candidate], request: Request, indices: list[int], kinds: tuple[str, ...] = ()
) -> dict[int, bytes] | None:
    """Bipartite matching of runs of bundles to nodes: greedy first, then augmenting paths."""
    taken = {home: True for home in request.fixed if home is not None}
    free = [node for node in nodes if node.node_id not in taken]
    size = request.per_node
    runs: dict[int, list[int]] = {}  # by number
    for index in indices:
        runs.setdefault(index // size, []).append(index)
    if len(free) < len(runs):
        return None
    edges: dict[object, list[int]] = {}  # equal runs share one list of nodes
    lists: dict[int, list[int]] = {}
    for run, members in runs.items():
        key = tuple(
            (
                tuple(request.bundles[index].items()),
                tuple(request.selectors[index]),
                request.devices[index] if request.devices else (),
            )
            for index in members
        )
        found = edges.get(key)
        if found is None:
            found = edges[key] = [
                position
                for position, node in enumerate(free)
                if all(request.admits(node.labels, index) for index in members)
                and holds(node.ledger, request, members, kinds)
            ]
        lists[run] = found
    holder: list[int] = [-1] * len(free)
    cursor: dict[int, int] = {}
    for index in sorted(runs, key=lambda one: len(lists[one])):
        options = lists[index]
        position = cursor.get(id(options), 0)
        while position < len(options) and holder[options[position]] >= 0:
            position += 1
        cursor[id(options)] = position
        if position < len(options):
            holder[options[position]] = index
        elif not _augment(index, lists, holder):
            return None
    homes = {run: free[position].node_id for position, run in enumerate(holder) if run >= 0}
    return {index: homes[run] for run, members in runs.items() for index in members}


def _augment(start: int, lists: dict[int, list[int]], holder: list[int]) -> bool:
    """Find a chain of moves that frees a node for bundle `start` (breadth first)."""
    came_from = [-1] * len(holder)  # the bundle that reached this node
    previous: dict[int, int] = {start: -1}  # the node a bundle would leave
    queue = [start]
    for index in queue:
        for position in lists[index]:
            if came_from[position] >= 0:
                continue
            came_from[position] = index
            occupant = holder[position]
            if occupant >= 0:
                previous[occupant] = position
                queue.append(occupant)
                continue
            while position >= 0:
                mover = came_from[position]
                holder[position] = mover
                position = previous[mover]
            return True
    return False


# -- few nodes, many nodes


def _pack(nodes: list[Candidate], request: Request, indices: list[int]) -> dict[int, bytes] | None:
    homes = {home: True for home in request.fixed if home is not None}
    if homes or request.target is not None:  # stay near what stands
        homes.setdefault(request.target or b"", True)
        nodes = sorted(nodes, key=lambda node: node.node_id not in homes)
    if not any(request.fixed):
        together = _strict_pack(nodes, request, indices, ())
        if together is not None:
            return together
    trial = {node.node_id: node.ledger for node in nodes}
    heap = [
        (node.node_id not in homes, -_capacity(node, request, indices), order)
        for order, node in enumerate(nodes)
    ]
    heapq.heapify(heap)
    placed: dict[int, bytes] = {}
    remaining = indices
    while remaining and heap:
        near, count, order = heapq.heappop(heap)
        node = nodes[order]
        now = _capacity(node, request, remaining)
        if now == 0:
            continue
        if now < -count and heap and (near, -now, order) > heap[0]:
            heapq.heappush(heap, (near, -now, order))  # an older figure: others may hold more by now
            continue
        ledger = trial[node.node_id].copy()
        rest = []
        for index in remaining:
            if request.admits(node.labels, index) and ledger.take(request.bundles[index]) is not None:
                placed[index] = node.node_id
            else:
                rest.append(index)
        remaining = rest
    if not remaining:
        return placed
    return _any_fit(nodes, request, indices)


def _capacity(node: Candidate, request: Request, indices: list[int]) -> int:
    """About how many of the bundles a node takes; equal bundles are counted by division."""
    free = dict(node.ledger.free)
    count = 0
    start = 0
    while start < len(indices):
        bundle, selector = request.bundles[indices[start]], request.selectors[indices[start]]
        end = start + 1
        while (
            end < len(indices)
            and request.bundles[indices[end]] == bundle
            and request.selectors[indices[end]] == selector
        ):
            end += 1
        if request.admits(node.labels, indices[start]):
            fitting = end - start
            for name, units in bundle.items():
                fitting = min(fitting, max(0, free.get(name, 0)) // units)
            for name, units in bundle.items():
                if fitting:
                    free[name] -= units * fitting
            count += fitting
        start = end
    return count


def _any_fit(nodes: list[Candidate], request: Request, indices: list[int]) -> dict[int, bytes] | None:
    """First fit, then tightest fit, of the bundles in decreasing size."""
    for tightest in (False, True):
        trial = [node.ledger.copy() for node in nodes]
        placed: dict[int, bytes] = {}
        for index in indices:
            bundle = request.bundles[index]
            options = [
                (sum(ledger.free.get(name, 0) for name in bundle) if tightest else order, order)
                for order, ledger in enumerate(trial)
                if ledger.fits(bundle) and request.admits(nodes[order].labels, index)
            ]
            if not options:
                break
            order = min(options)[1]
            trial[order].take(bundle)
            placed[index] = nodes[order].node_id
        else:
            return placed
    return None


def _spread(nodes: list[Candidate], request: Request, indices: list[int]) -> dict[int, bytes] | None:
    nodes = sorted(nodes, key=lambda node: (node.node_id != request.target, node.ledger.utilisation()))
    apart = _strict_spread(nodes, request, indices)
    if apart is not None:
        return apart
    trial = [node.ledger.copy() for node in nodes]
    counts = [sum(home == node.node_id for home in request.fixed) for node in nodes]
    heap = [(count, order) for order, count in enumerate(counts)]
    heapq.heapify(heap)
    placed: dict[int, bytes] = {}
    for index in indices:
        passed = []
        while heap:
            count, order = heapq.heappop(heap)
            if (
                request.admits(nodes[order].labels, index)
                and trial[order].take(request.bundles[index]) is not None
            ):
                placed[index] = nodes[order].node_id
                passed.append((count + 1, order))
                break
            passed.append((count, order))
        for entry in passed:
            heapq.heappush(heap, entry)
        if index not in placed:
            return _any_fit(nodes, request, indices)
    return placed
