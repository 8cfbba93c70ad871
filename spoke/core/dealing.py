"""Bundles dealt out to classes of interchangeable nodes.

Rules of this module: nothing is changed but the entries of one decision, and equal arguments give equal
answers.  For STRICT_PACK, STRICT_SPREAD, what one domain must hold, and for bundles that are all alike the
answer is exact; for others `may_exist` says whether a search is worth its time.  What a decision does not
need of a class is not computed: there may be hundreds of classes and of kinds of bundles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from spoke.core.ledger import GPU, UNIT, Amounts, Ledger
from spoke.core.placement import holds
from spoke.core.request import Request
from spoke.core.selectors import matches_all

ALL: Final = 1 << 16  # the room of a node that has just the amounts that the whole request needs


class Entry:
    """One class, or one node, as a decision sees it."""

    __slots__ = ("_rooms", "avoid", "first", "labels", "ledger", "level", "members", "room", "size")

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
        self.room = 0  # how many bundles a member takes if all are alike; else the share of all, of `ALL`
        self._rooms: list[int] = []

    def measure(self, request: Request) -> int:
        """Fill in the room; returns it."""
        kinds = request.kinds
        if len(kinds) == 1:
            selector = kinds[0].selector
            if not selector or matches_all(selector, self.labels):
                self.room = capacity(self.ledger, kinds[0].bundle)
            return self.room
        self._rooms = [-1] * len(kinds)
        free = self.ledger.free
        self.room = min(max(0, free.get(name, 0)) * ALL // units for name, units in request.total.items())
        return 1  # by kind it may have room for some even so

    def takes(self, number: int, request: Request) -> int:
        """How many bundles of one kind a member takes if it takes no others."""
        if not self._rooms:
            return self.room
        found = self._rooms[number]
        if found < 0:
            kind = request.kinds[number]
            admitted = not kind.selector or matches_all(kind.selector, self.labels)
            found = self._rooms[number] = capacity(self.ledger, kind.bundle) if admitted else 0
        return found

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
    apart = _apart(entries, request, (), [[index] for index in range(len(request.bundles))])
    if apart is None and len(request.kinds) == 1:
        return _in_rounds(entries, request)
    return apart


def may_exist(entries: list[Entry], request: Request, kinds: tuple[str, ...]) -> bool:
    """Whether a placement may exist that `deal` did not find."""
    if kinds or request.strategy.startswith("STRICT") or len(request.kinds) == 1:
        return False
    for name, units in request.total.items():
        if sum(max(0, entry.ledger.free.get(name, 0)) * entry.size for entry in entries) < units:
            return False
    return all(
        sum(entry.takes(number, request) * entry.size for entry in entries) >= len(kind.indices)
        for number, kind in enumerate(request.kinds)
    )


# -- all on one node


def _together(entries: list[Entry], request: Request, kinds: tuple[str, ...]) -> list[bytes] | None:
    """All on one node: the target, else the tightest fit."""
    indices = request.open()
    alike = len(request.kinds) == 1
    enough = len(indices) if alike else ALL
    fitting = [entry for entry in entries if entry.room >= enough]
    fitting.sort(key=lambda entry: (not entry.first, entry.avoid, entry.room, -entry.level))
    certain = alike and not kinds and request.devices is None
    for entry in fitting:
        if certain or (
            all(entry.takes(number, request) for number in range(len(request.kinds)))
            and holds(entry.ledger, request, indices, kinds)
        ):
            return [next(iter(entry.members))] * len(indices)
    return None


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
    flow = _Flow(classes, request, kinds, list(shapes), [alike[0] for alike in shapes.values()])
    if not all(flow.send(shape, len(alike)) for shape, alike in enumerate(shapes.values())):
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


class _Flow:
    """Counts of shapes on classes, one on each node; moves some to other classes where that makes room.

    A shape is a run of bundles, given by their kinds and one example.
    """

    __slots__ = ("_known", "classes", "examples", "held", "kinds", "left", "request", "shapes")

    def __init__(
        self,
        classes: list[Entry],
        request: Request,
        kinds: tuple[str, ...],
        shapes: list[tuple[int, ...]],
        examples: list[list[int]],
    ) -> None:
        self.classes = classes  # in order of preference
        self.request = request
        self.kinds = kinds
        self.shapes = shapes
        self.examples = examples
        self.left = [entry.size for entry in classes]
        self.held: list[dict[int, int]] = [{} for _ in classes]  # by class, how many of each shape
        self._known: list[dict[int, bool]] = [{} for _ in shapes]

    def fits(self, shape: int, place: int) -> bool:
        """Whether the nodes of a class take this shape."""
        known = self._known[shape]
        found = known.get(place)
        if found is None:
            found = known[place] = self._look(shape, self.classes[place])
        return found

    def _look(self, shape: int, entry: Entry) -> bool:
        numbers, request = self.shapes[shape], self.request
        if numbers.count(numbers[0]) == len(numbers):
            if entry.takes(numbers[0], request) < len(numbers):
                return False
            if not self.kinds and request.devices is None:
                return True
        elif not all(entry.takes(number, request) for number in numbers):
            return False
        return holds(entry.ledger, request, self.examples[shape], self.kinds)

    def send(self, shape: int, count: int) -> bool:
        """Place so many of a shape; False if there is no way."""
        for place, left in enumerate(self.left):
            if left and self.fits(shape, place):
                taken = min(count, left)
                self._add(place, shape, taken)
                self.left[place] -= taken
                count -= taken
                if not count:
                    return True
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
            for place, left in enumerate(self.left):
                if place in came_from or not (left or self.held[place]) or not self.fits(shape, place):
                    continue
                came_from[place] = shape
                if left:
                    self.left[place] -= 1
                    self._move(place, came_from, previous)
                    return True
                for other in self.held[place]:
                    if other not in previous:
                        previous[other] = place
                        queue.append(other)
        return False

    def _move(self, place: int, came_from: dict[int, int], previous: dict[int, int]) -> None:
        while place >= 0:
            mover = came_from[place]
            self._add(place, mover, 1)
            place = previous[mover]
            if place >= 0:
                self._add(place, mover, -1)


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
    for number, entry in enumerate(fresh, 1):
        for node_id in entry.members:
            left = count - len(homes)
            if left <= 0:
                return homes
            if left < entry.room:
                tighter = [one for one in fresh[number:] if left <= one.room < entry.room]
                if tighter:
                    best = min(tighter, key=lambda one: (one.avoid, one.room, -one.level))
                    return homes + [next(iter(best.members))] * left
            homes += [node_id] * min(entry.room, left)
    return homes if len(homes) >= count else None


def _few_mixed(entries: list[Entry], request: Request) -> list[bytes] | None:
    """The roomiest nodes first, each filled with the largest bundles; the rest goes to the tightest fit."""
    left = [len(kind.indices) for kind in request.kinds]
    total = sum(left)
    given = [iter(kind.indices) for kind in request.kinds]
    homes: list[bytes] = [b""] * len(request.bundles)

    def put(node_id: bytes, taken: list[int]) -> None:
        nonlocal total
        for number, amount in enumerate(taken):
            left[number] -= amount
            total -= amount
            for index in islice(given[number], amount):
                homes[index] = node_id

    fresh = sorted(entries, key=lambda one: (not one.first, one.avoid, -one.room, -one.level))
    for number, entry in enumerate(fresh, 1):
        for node_id in entry.members:
            taken = _taken(entry, request, left)
            if sum(taken) == total:
                tight = None if entry.first else _tightest(fresh[number:], request, left)
                put(node_id if tight is None else tight, taken)
                return homes
            if not any(taken):
                break
            put(node_id, taken)
    return None


def _tightest(fresh: list[Entry], request: Request, left: list[int]) -> bytes | None:
    """A node of the class with the least room, of those that take all that is left."""
    need: Amounts = {}
    for kind, count in zip(request.kinds, left, strict=True):
        if count:
            for name, units in kind.bundle.items():
                need[name] = need.get(name, 0) + count * units
    for entry in sorted(fresh, key=lambda one: (one.avoid, one.room)):
        free = entry.ledger.free
        for name, units in need.items():
            if free.get(name, 0) < units:
                break
        else:
            if sum(_taken(entry, request, left)) == sum(left):
                return next(iter(entry.members))
    return None


def _taken(entry: Entry, request: Request, left: list[int]) -> list[int]:
    """How many of each kind that is left a node takes, the largest first."""
    ledger: Ledger | None = None
    taken = [0] * len(left)
    for number, wanted in enumerate(left):
        room = min(wanted, entry.takes(number, request)) if wanted else 0
        if room:
            if ledger is None:
                ledger = entry.ledger.copy()
            bundle = request.kinds[number].bundle
            while taken[number] < room and ledger.take(bundle) is not None:
                taken[number] += 1
    return taken
