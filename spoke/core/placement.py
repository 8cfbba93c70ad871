"""Where bundles go: pure functions from nodes and bundles to one node per bundle.

Rules of this module: nothing is changed, the answer depends on the arguments only, and all bundles
are placed or none (GANG-2).  STRICT_PACK and STRICT_SPREAD find a placement whenever one exists;
PACK uses few nodes and SPREAD many as far as a greedy search sees, and both fall back to any
placement that search finds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spoke.core.ledger import GPU, UNIT, Amounts, Ledger, Share, show
from spoke.core.selectors import Selector, matches_all

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


STRATEGIES: Final = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_SEARCH_STEPS_MAX: Final = 20_000  # of the exact search for shares of GPUs
_SEARCH_PARTS_MAX: Final = 400  # it recurses once per share


class Request:
    """One group to place.

    `fixed` names the nodes of bundles that stay where they are.  With `per_node` STRICT_SPREAD holds
    for runs of so many consecutive bundles: each run is on one node, no two runs on the same.  Bundles
    of a `ranked` group are alike and are numbered node by node, the target's first.
    """

    __slots__ = ("bundles", "fixed", "key", "per_node", "ranked", "selectors", "strategy", "target")

    def __init__(
        self,
        bundles: Sequence[Amounts],
        strategy: str,
        *,
        selectors: Sequence[Sequence[Selector]] | None = None,
        target: bytes | None = None,
        fixed: Sequence[bytes | None] | None = None,
        per_node: int = 1,
        ranked: bool = False,
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
        if per_node > 1 and strategy != "STRICT_SPREAD":
            raise ValueError(f"per_node is for STRICT_SPREAD, not for {strategy}")
        self.bundles = list(bundles)
        self.strategy = strategy
        self.selectors = list(selectors) if selectors else [()] * len(self.bundles)
        self.target = target
        self.fixed = list(fixed) if fixed else [None] * len(self.bundles)
        self.per_node = per_node
        self.ranked = ranked
        # Requests with equal keys fit on exactly the same clusters (a target is only a preference).
        amounts = tuple(tuple(one.items()) for one in self.bundles)
        self.key = (strategy, per_node, amounts, tuple(self.selectors))

    def open(self) -> list[int]:
        """Bundles without a node, the largest first: they have the fewest places to go."""
        indices = [index for index, node_id in enumerate(self.fixed) if node_id is None]
        return sorted(indices, key=lambda index: (-_weight(self.bundles[index]), index))

    def admits(self, node: Candidate, index: int) -> bool:
        selector = self.selectors[index]
        return not selector or matches_all(selector, node.labels)


def _weight(bundle: Amounts) -> int:
    return bundle.get(GPU, 0) * 1000 + sum(bundle.values())


def choose(nodes: Sequence[Candidate], request: Request) -> list[bytes] | None:
    """A node id per bundle, or None when the bundles do not fit now."""
    indices = request.open()
    ordered = _preference(nodes, request)
    if request.strategy == "STRICT_PACK":
        placed = _strict_pack(ordered, request, indices)
    elif request.strategy == "STRICT_SPREAD":
        placed = _strict_spread(ordered, request, indices)
    elif request.strategy == "PACK":
        placed = _pack(ordered, request, indices)
    else:
        placed = _spread(ordered, request, indices)
    if placed is None:
        return None
    if request.ranked and len(placed) == len(request.bundles):
        return ranked(placed, request)
    return [placed[index] if home is None else home for index, home in enumerate(request.fixed)]


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
        if not any(request.admits(node, index) and node.ledger.fits(bundle) for node in empty):
            return f"bundle {index} {show(bundle)}: no node that fits has the labels it selects"
    count, size = len(request.bundles), request.per_node
    runs = f"{count} bundles" if size == 1 else f"{count // size} runs of {size} bundles"
    return {
        "STRICT_PACK": f"no single node holds all {count} bundles (STRICT_PACK)",
        "STRICT_SPREAD": f"{runs} need as many different nodes that fit (STRICT_SPREAD); "
        f"the cluster has {len(nodes)} nodes",
    }.get(request.strategy, f"{count} bundles together are larger than the cluster")


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


def _strict_pack(nodes: list[Candidate], request: Request, indices: list[int]) -> dict[int, bytes] | None:
    homes = [home for home in request.fixed if home is not None]
    need: Amounts = {}
    for index in indices:
        for name, units in request.bundles[index].items():
            need[name] = need.get(name, 0) + units
    gpus = [request.bundles[index].get(GPU, 0) for index in indices]
    selectors = list(dict.fromkeys(tuple(request.selectors[index]) for index in indices))
    for node in nodes:
        if homes and node.node_id != homes[0]:
            continue
        free = node.ledger.free
        if any(free.get(name, 0) < units for name, units in need.items()):
            continue
        if not all(matches_all(selector, node.labels) for selector in selectors):
            continue
        if GPU not in need or _assign_devices(node.ledger, gpus) is not None:
            return dict.fromkeys(indices, node.node_id)
    return None


def reserve(ledger: Ledger, bundles: Sequence[Amounts]) -> list[Share] | None:
    """Take all bundles from one node, or nothing; finds the devices whenever they exist."""
    devices = _assign_devices(ledger, [bundle.get(GPU, 0) for bundle in bundles])
    if devices is None:
        return None
    shares: list[Share] = []
    for bundle, chosen in zip(bundles, devices, strict=True):
        share = ledger.take(bundle, chosen)
        if share is None:
            for taken in shares:
                ledger.give(taken)
            return None
        shares.append(share)
    return shares


def _assign_devices(ledger: Ledger, gpus: list[int]) -> list[tuple[tuple[int, int], ...]] | None:
    """Devices per request for GPUs (in units, 0 for none), or None when they do not exist."""
    if not any(gpus):
        return [()] * len(gpus)
    wholes = sum(units // UNIT for units in gpus if units >= UNIT)
    rooms = list(ledger.device_free.items())
    spare = [index for index, room in rooms if room >= UNIT]
    if len(spare) < wholes:
        return None
    spare, rest = spare[:wholes], spare[wholes:]  # whole devices are equal: which ones is no matter
    kept = dict.fromkeys(rest, True)
    rooms = [(index, room) for index, room in rooms if room < UNIT or index in kept]
    parts = sorted((-units, order) for order, units in enumerate(gpus) if 0 < units < UNIT)
    slots = _pack_parts([-units for units, _ in parts], [room for _, room in rooms])
    if slots is None:
        return None
    answer: list[tuple[tuple[int, int], ...]] = [()] * len(gpus)
    for (units, order), slot in zip(parts, slots, strict=True):
        answer[order] = ((rooms[slot][0], -units),)
    for order, units in enumerate(gpus):
        if units >= UNIT:
            count = units // UNIT
            answer[order] = tuple((index, UNIT) for index in spare[:count])
            spare = spare[count:]
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


def _strict_spread(nodes: list[Candidate], request: Request, indices: list[int]) -> dict[int, bytes] | None:
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
            (tuple(request.bundles[index].items()), tuple(request.selectors[index])) for index in members
        )
        found = edges.get(key)
        if found is None:
            found = edges[key] = [
                position for position, node in enumerate(free) if _holds_run(node, request, members)
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


def _holds_run(node: Candidate, request: Request, members: list[int]) -> bool:
    """Whether a node takes these bundles together."""
    if not all(request.admits(node, index) for index in members):
        return False
    if len(members) == 1:
        return node.ledger.fits(request.bundles[members[0]])
    need: Amounts = {}
    for index in members:
        for name, units in request.bundles[index].items():
            need[name] = need.get(name, 0) + units
    free = node.ledger.free
    if any(free.get(name, 0) < units for name, units in need.items()):
        return False
    gpus = [request.bundles[index].get(GPU, 0) for index in members]
    return GPU not in need or _assign_devices(node.ledger, gpus) is not None


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
        together = _strict_pack(nodes, request, indices)
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
            if request.admits(node, index) and ledger.take(request.bundles[index]) is not None:
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
        if request.admits(node, indices[start]):
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
                if ledger.fits(bundle) and request.admits(nodes[order], index)
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
            if request.admits(nodes[order], index) and trial[order].take(request.bundles[index]) is not None:
                placed[index] = nodes[order].node_id
                passed.append((count + 1, order))
                break
            passed.append((count, order))
        for entry in passed:
            heapq.heappush(heap, entry)
        if index not in placed:
            return _any_fit(nodes, request, indices)
    return placed
