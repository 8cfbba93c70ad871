"""Bundles dealt out to classes of interchangeable nodes.

Rules of this module: nothing is changed but the entries of one decision, and equal arguments give equal
answers.  For STRICT_PACK, STRICT_SPREAD, what one domain must hold, and for bundles that are all alike the
answer is exact; for others `may_exist` says whether a search is worth its time.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final

from spoke.core.ledger import GPU, UNIT, Amounts, Ledger
from spoke.core.placement import holds
from spoke.core.request import Request
from spoke.core.selectors import matches_all

_SLACK: Final = 1000  # what is left is compared in thousandths of what is asked for


class Entry:
    """One class, or one node, as a decision sees it."""

    __slots__ = ("avoid", "first", "labels", "ledger", "level", "members", "room", "rooms", "size")

    def __init__(
        self, members: Collection[bytes], ledger: Ledger, labels: dict[str, str], avoid: bool, level: int
    ) -> None:
        self.members = members
        self.size = len(members)
        self.ledger = ledger  # of each member
        self.labels = labels
        self.avoid = avoid  # it has GPUs, and none are asked for
        self.level = level  # of use
        self.first = False  # the node that the request would like best
        self.rooms: list[int] = []  # for each kind of bundle, how many a member takes if it takes no others
        self.room = 0  # the sum

    def measure(self, request: Request) -> int:
        """Fill in the rooms; returns their sum."""
        self.rooms = [
            capacity(self.ledger, kind.bundle)
            if not kind.selector or matches_all(kind.selector, self.labels)
            else 0
            for kind in request.kinds
        ]
        self.room = sum(self.rooms)
        return self.room

    def holds_fixed(self, request: Request) -> bool:
        """Whether it is a node on which bundles of the request stand already."""
        return self.size == 1 and any(home is not None and home in self.members for home in request.fixed)

    def some(self, count: int) -> Iterator[bytes]:
        """The first members, at most `count`."""
        return islice(self.members, count)


def capacity(ledger: Ledger, bundle: Amounts) -> int:
    """How many of these bundles a node takes now."""
    free = ledger.free
    room = 1 << 60
    for name, units in bundle.items():
        fitting = free.get(name, 0) // units
        if fitting < room:
            if fitting <= 0:
                return 0
            room = fitting
    gpus = bundle.get(GPU, 0)
    if gpus >= UNIT:
        whole = sum(left >= UNIT for left in ledger.device_free.values())
        room = min(room, whole // (gpus // UNIT))
    elif gpus:
        room = min(room, sum(left // gpus for left in ledger.device_free.values()))
    return room


def deal(entries: list[Entry], request: Request, kinds: tuple[str, ...]) -> list[bytes] | None:
    """A node id per bundle, or None."""
    if request.strategy == "STRICT_SPREAD":
        return _apart(entries, request, kinds, request.runs())
    if kinds or request.strategy == "STRICT_PACK":
        return _together(entries, request, kinds)
    if request.strategy == "PACK":
        first = next((entry for entry in entries if entry.first), None)
        if first is None or holds(first.ledger, request, request.open()):
            together = _together(entries, request, ())
            if together is not None:
                return together
        return _few(entries, request) if len(request.kinds) == 1 else _few_mixed(entries, request)
    runs = [[index] for index in range(len(request.bundles))]
    apart = _apart(entries, request, (), runs)
    if apart is None and len(request.kinds) == 1:
        return _in_rounds(entries, request)
    return apart


def may_exist(entries: list[Entry], request: Request, kinds: tuple[str, ...]) -> bool:
    """Whether a placement may exist that `deal` did not find."""
    if kinds or request.strategy.startswith("STRICT") or len(request.kinds) == 1:
        return False
    for number, kind in enumerate(request.kinds):
        if sum(entry.rooms[number] * entry.size for entry in entries) < len(kind.indices):
            return False
    need = request.need(request.open())
    return all(
        sum(max(0, entry.ledger.free.get(name, 0)) * entry.size for entry in entries) >= units
        for name, units in need.items()
    )


# -- all on one node


def _together(entries: list[Entry], request: Request, kinds: tuple[str, ...]) -> list[bytes] | None:
    """All on one node: the target, else the tightest fit."""
    indices = request.open()
    alike = len(request.kinds) == 1
    fitting = [entry for entry in entries if not alike or entry.rooms[0] >= len(indices)]
    fitting.sort(key=lambda entry: (not entry.first, entry.avoid, entry.room, -entry.level))
    certain = alike and not kinds and request.devices is None
    for entry in fitting:
        if certain or (_admits(entry, request) and holds(entry.ledger, request, indices, kinds)):
            return [next(iter(entry.members))] * len(indices)
    return None


def _admits(entry: Entry, request: Request) -> bool:
    return all(entry.rooms)  # a kind that no selector lets in, or that does not fit alone, has none


# -- on different nodes


def _apart(
    entries: list[Entry], request: Request, kinds: tuple[str, ...], runs: list[list[int]]
) -> list[bytes] | None:
    """Each run on a node of its own, the least used first: a flow from shapes of runs to classes."""
    if sum(entry.size for entry in entries) < len(runs):
        return None
    classes = sorted(entries, key=lambda entry: (not entry.first, entry.avoid, entry.level, -entry.room))
    kind_of = {index: number for number, kind in enumerate(request.kinds) for index in kind.indices}
    shapes: dict[tuple[int, ...], list[list[int]]] = {}
    for run in runs:
        shapes.setdefault(tuple(kind_of[index] for index in run), []).append(run)
    fitting = [_eligible(classes, request, kinds, numbers, alike[0]) for numbers, alike in shapes.items()]
    flow = _Flow([entry.size for entry in classes], fitting)
    counts = [len(alike) for alike in shapes.values()]
    order = sorted(range(len(counts)), key=lambda one: sum(classes[place].size for place in fitting[one]))
    if not all(flow.send(shape, counts[shape]) for shape in order):
        return None
    homes: list[bytes] = [b""] * len(request.bundles)
    waiting = [iter(alike) for alike in shapes.values()]
    for place, entry in enumerate(classes):
        members = iter(entry.members)
        for shape, count in flow.held[place].items():
            for run in islice(waiting[shape], count):
                node_id = next(members)
                for index in run:
                    homes[index] = node_id
    return homes


def _eligible(
    classes: list[Entry], request: Request, kinds: tuple[str, ...], numbers: tuple[int, ...], run: list[int]
) -> list[int]:
    """The places of the classes whose nodes take this run."""
    alike = numbers.count(numbers[0]) == len(numbers)
    places = [
        place
        for place, entry in enumerate(classes)
        if (entry.rooms[numbers[0]] >= len(run) if alike else all(entry.rooms[number] for number in numbers))
    ]
    if alike and not kinds and request.devices is None:
        return places
    return [place for place in places if holds(classes[place].ledger, request, run, kinds)]


class _Flow:
    """Counts of shapes on classes of so many nodes, one on each node; moves some where that makes room."""

    __slots__ = ("fitting", "held", "left")

    def __init__(self, sizes: list[int], fitting: list[list[int]]) -> None:
        self.left = sizes
        self.fitting = fitting  # by shape, the classes in order of preference
        self.held: list[dict[int, int]] = [{} for _ in sizes]  # by class, how many of each shape

    def send(self, shape: int, count: int) -> bool:
        """Place so many of a shape; False if there is no way."""
        for place in self.fitting[shape]:
            if not count:
                return True
            taken = min(count, self.left[place])
            if taken:
                self._add(place, shape, taken)
                self.left[place] -= taken
                count -= taken
        return all(self._augment(shape) for _ in range(count))

    def _add(self, place: int, shape: int, count: int) -> None:
        held = self.held[place]
        held[shape] = held.get(shape, 0) + count
        if not held[shape]:
            del held[shape]

    def _augment(self, start: int) -> bool:
        """A chain of moves that frees a node for one more of a shape (breadth first)."""
        came_from: dict[int, int] = {}  # by class, the shape that reached it
        previous: dict[int, int] = {start: -1}  # by shape, the class that it would leave
        queue = [start]
        for shape in queue:
            for place in self.fitting[shape]:
                if place in came_from:
                    continue
                came_from[place] = shape
                if self.left[place]:
                    self.left[place] -= 1
                    while place >= 0:
                        mover = came_from[place]
                        self._add(place, mover, 1)
                        place = previous[mover]
                        if place >= 0:
                            self._add(place, mover, -1)
                    return True
                for other in self.held[place]:
                    if other not in previous:
                        previous[other] = place
                        queue.append(other)
        return False


def _in_rounds(entries: list[Entry], request: Request) -> list[bytes] | None:
    """One on every node, then a second where there is room, and so on; for bundles that are alike."""
    count = len(request.bundles)
    if sum(entry.room * entry.size for entry in entries) < count:
        return None
    classes = sorted(entries, key=lambda entry: (not entry.first, entry.avoid, entry.level, -entry.room))
    nodes = [(node_id, entry.room) for entry in classes for node_id in entry.some(count)]
    homes: list[bytes] = []
    level = 0
    while len(homes) < count:
        level += 1
        homes += [node_id for node_id, room in nodes if room >= level][: count - len(homes)]
    return homes


# -- on few nodes


def _few(entries: list[Entry], request: Request) -> list[bytes] | None:
    """The roomiest nodes first; the rest goes to the tightest fit.  For bundles that are alike."""
    count = len(request.bundles)
    homes: list[bytes] = []
    fresh = sorted(entries, key=lambda one: (not one.first, one.avoid, -one.room, -one.level))
    while fresh:
        entry = fresh.pop(0)
        for node_id in entry.members:
            left = count - len(homes)
            if left <= 0:
                return homes
            if left < entry.room:
                tighter = [one for one in fresh if left <= one.room < entry.room]
                if tighter:
                    best = min(tighter, key=lambda one: (one.avoid, one.room, -one.level))
                    return homes + [next(iter(best.members))] * left
            homes += [node_id] * min(entry.room, left)
    return homes if len(homes) >= count else None


def _few_mixed(entries: list[Entry], request: Request) -> list[bytes] | None:
    """Node by node the one that takes most of what is left, the tightest that takes all of it."""
    left = [len(kind.indices) for kind in request.kinds]
    total = sum(left)
    heap = [
        (not entry.first, entry.avoid, -_fitting(entry, request, left), order)
        for order, entry in enumerate(entries)
    ]
    heapq.heapify(heap)
    used = [0] * len(entries)
    given: list[Iterator[int]] = [iter(kind.indices) for kind in request.kinds]
    homes: list[bytes] = [b""] * len(request.bundles)
    while total and heap:
        near, avoid, count, order = heapq.heappop(heap)
        now = -_fitting(entries[order], request, left)
        if now > count and heap and (near, avoid, now, order) > heap[0]:
            heapq.heappush(heap, (near, avoid, now, order))  # an older figure: others hold more by now
            continue
        if now == 0:
            continue
        if -now == total:
            order = _tightest(entries, request, left, used, order)
        node_id = next(islice(entries[order].members, used[order], None))
        taken = _taken(entries[order], request, left)
        if not any(taken):
            continue
        used[order] += 1
        for number, amount in enumerate(taken):
            left[number] -= amount
            total -= amount
            for index in islice(given[number], amount):
                homes[index] = node_id
        if used[order] < entries[order].size:
            heapq.heappush(heap, (near, avoid, now, order))
    return homes if not total else None


def _tightest(entries: list[Entry], request: Request, left: list[int], used: list[int], known: int) -> int:
    """Of the classes whose nodes take all that is left, the one with the least room; else `known`."""
    if entries[known].first:
        return known
    total = sum(left)
    best = known
    for order, entry in enumerate(entries):
        if entry.avoid > entries[best].avoid or entry.room >= entries[best].room or used[order] >= entry.size:
            continue
        if _fitting(entry, request, left) == total and sum(_taken(entry, request, left)) == total:
            best = order
    return best


def _fitting(entry: Entry, request: Request, left: list[int]) -> int:
    """About how many of the bundles that are left a node takes, by division."""
    free: Amounts | None = None
    count = 0
    for number, kind in enumerate(request.kinds):
        fitting = min(left[number], entry.rooms[number])
        if not fitting:
            continue
        if free is None:
            free = dict(entry.ledger.free)
        for name, units in kind.bundle.items():
            fitting = min(fitting, max(0, free[name]) // units)
        if fitting:
            for name, units in kind.bundle.items():
                free[name] -= units * fitting
            count += fitting
    return count


def _taken(entry: Entry, request: Request, left: Sequence[int]) -> list[int]:
    """How many of each kind a node really takes, the largest first."""
    ledger = entry.ledger.copy()
    taken = []
    for number, kind in enumerate(request.kinds):
        count = 0
        while count < min(left[number], entry.rooms[number]) and ledger.take(kind.bundle) is not None:
            count += 1
        taken.append(count)
    return taken
