"""Nodes grouped by what they have free, kept up to date change by change, for groups of equal bundles.

Rules of this module: equal events give equal answers, and an answer is exact: bundles that fit are
placed.  Nodes that look alike to a request (in the resources that it names) share one class, so that a
decision costs time in proportion to classes and bundles, not to nodes.  Ledgers note their node in
`stale` when they change; a query first moves those nodes to their present classes.
"""

from __future__ import annotations

from typing import Final

from spoke.core.ledger import GPU, UNIT, Amounts, Ledger
from spoke.core.placement import Request
from spoke.core.state import Node

TABLES_MAX: Final = 16  # sets of resource names; the one unused longest is dropped
_LEVELS: Final = 16  # of utilisation that are told apart

_Key = tuple[tuple[int, ...], tuple[int, ...], bool, int]
_Class = dict[bytes, Node]


class _Table:
    """The classes for one set of resource names."""

    __slots__ = ("classes", "key_of", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.classes: dict[_Key, _Class] = {}
        self.key_of: dict[bytes, _Key] = {}

    def key(self, node: Node) -> _Key:
        ledger = node.ledger
        free = ledger.free
        devices = tuple(sorted(ledger.device_free.values())) if GPU in self.names else ()
        level = int(ledger.utilisation() * _LEVELS)
        return (tuple([free.get(name, 0) for name in self.names]), devices, node.has_gpu, level)

    def put(self, node: Node) -> None:
        key = self.key(node)
        old = self.key_of.get(node.node_id)
        if old == key:
            return
        if old is not None:
            self.drop(node.node_id)
        self.key_of[node.node_id] = key
        self.classes.setdefault(key, {})[node.node_id] = node

    def drop(self, node_id: bytes) -> None:
        key = self.key_of.pop(node_id)
        members = self.classes[key]
        del members[node_id]
        if not members:
            del self.classes[key]


class FitIndex:
    """See the module."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {}
        self.stale: dict[bytes, bool] = {}
        self.tables: dict[tuple[str, ...], _Table] = {}

    def join(self, node: Node) -> None:
        """A node is there."""
        self.nodes[node.node_id] = node
        node.ledger.watch(self.stale, node.node_id)
        self.stale[node.node_id] = True

    def leave(self, node: Node) -> None:
        """A node is gone."""
        self.nodes.pop(node.node_id, None)
        self.stale[node.node_id] = True

    def _table(self, names: tuple[str, ...]) -> _Table:
        for node_id in self.stale:
            node = self.nodes.get(node_id)
            for table in self.tables.values():
                if node is not None:
                    table.put(node)
                elif node_id in table.key_of:
                    table.drop(node_id)
        self.stale.clear()
        found = self.tables.pop(names, None)
        if found is None:
            found = _Table(names)
            for node in self.nodes.values():
                found.put(node)
        self.tables[names] = found  # the latest use is last
        if len(self.tables) > TABLES_MAX:
            del self.tables[next(iter(self.tables))]
        return found

    def validate(self, alive: list[Node]) -> None:
        """Assert that every table shows the living nodes as they are; for tests."""
        assert list(self.nodes.values()) == alive
        for table in self.tables.values():
            for node in alive:
                if node.node_id not in self.stale:
                    assert table.key(node) == table.key_of[node.node_id], "a change of a ledger was not noted"
            listed = {node_id: key for key, members in table.classes.items() for node_id in members}
            assert listed == table.key_of

    @staticmethod
    def serves(request: Request) -> bool:
        """Whether `choose` can answer: equal bundles, none placed yet, on nodes of any label."""
        first = request.bundles[0]
        return (
            not any(request.selectors)
            and not any(request.fixed)
            and not any(name.startswith("node:") for name in first)
            and all(bundle == first for bundle in request.bundles)
        )

    def choose(self, request: Request) -> list[bytes] | None:
        """A node id per bundle, or None when they do not fit now (for what `serves` admits)."""
        bundle, count = request.bundles[0], len(request.bundles)
        table = self._table(tuple(sorted(bundle)))
        wants_gpu = GPU in bundle
        rooms: list[tuple[bool, int, int, _Class]] = []  # avoided?, level, room, nodes
        for key, members in table.classes.items():
            room = capacity(next(iter(members.values())).ledger, bundle)
            if room:
                rooms.append((key[2] and not wants_gpu, key[3], room, members))
        target = self.nodes.get(request.target) if request.target is not None else None
        first = [] if target is None else [(target.node_id, capacity(target.ledger, bundle))]
        if request.strategy == "STRICT_PACK":
            return _on_one(rooms, first, count)
        if request.strategy == "PACK":
            split = first and 0 < first[0][1] < count  # the target comes first, and cannot hold all
            return (None if split else _on_one(rooms, first, count)) or _on_few(rooms, first, count)
        rooms.sort(key=lambda entry: (entry[0], entry[1], -entry[2]))
        if request.strategy == "STRICT_SPREAD":
            return _on_each(rooms, first, count, request.per_node)
        return _on_each(rooms, first, count, 1) or _in_rounds(rooms, first, count)


def capacity(ledger: Ledger, bundle: Amounts) -> int:
    """How many of these bundles a node takes now."""
    free = ledger.free
    room = min(max(0, free.get(name, 0)) // units for name, units in bundle.items())
    gpus = bundle.get(GPU, 0)
    if room and gpus >= UNIT:
        whole = sum(left >= UNIT for left in ledger.device_free.values())
        room = min(room, whole // (gpus // UNIT))
    elif room and gpus:
        room = min(room, sum(left // gpus for left in ledger.device_free.values()))
    return room


_Rooms = list[tuple[bool, int, int, _Class]]
_First = list[tuple[bytes, int]]  # the target and its room, or nothing


def _on_one(rooms: _Rooms, first: _First, count: int) -> list[bytes] | None:
    """All on one node: the target, else the tightest fit."""
    for node_id, room in first:
        if room >= count:
            return [node_id] * count
    fitting = [entry for entry in rooms if entry[2] >= count]
    if not fitting:
        return None
    best = min(fitting, key=lambda entry: (entry[0], entry[2], -entry[1]))
    return [next(iter(best[3]))] * count


def _on_few(rooms: _Rooms, first: _First, count: int) -> list[bytes] | None:
    """The roomiest nodes first; the rest goes to the tightest fit."""
    homes: list[bytes] = []
    for node_id, room in first:
        homes += [node_id] * room
    used = dict.fromkeys(homes, True)
    for _, _, room, members in sorted(rooms, key=lambda entry: (entry[0], -entry[2], -entry[1])):
        for node_id in members:
            left = count - len(homes)
            if left <= 0:
                return homes
            if node_id in used:
                continue
            if left < room:
                others = [entry for entry in rooms if left <= entry[2] < room]
                for entry in sorted(others, key=lambda entry: (entry[0], entry[2], -entry[1])):
                    tight = next((one for one in entry[3] if one not in used), None)
                    if tight is not None:
                        return homes + [tight] * left
            homes += [node_id] * min(room, left)
            used[node_id] = True
    return homes[:count] if len(homes) >= count else None


def _on_each(rooms: _Rooms, first: _First, count: int, per_node: int) -> list[bytes] | None:
    """`per_node` on each of as many nodes as that takes, the least used first."""
    chosen = [node_id for node_id, room in first if room >= per_node]
    target = chosen[0] if chosen else None
    nodes = count // per_node
    for _, _, room, members in rooms:
        if len(chosen) >= nodes:
            break
        if room < per_node:
            continue
        for node_id in members:
            if len(chosen) >= nodes:
                break
            if node_id != target:
                chosen.append(node_id)
    if len(chosen) < nodes:
        return None
    return [node_id for node_id in chosen for _ in range(per_node)]


def _in_rounds(rooms: _Rooms, first: _First, count: int) -> list[bytes] | None:
    """One on every node, then a second where there is room, and so on."""
    target = first[0][0] if first else None
    nodes = [*first, *((one, entry[2]) for entry in rooms for one in entry[3] if one != target)]
    if sum(room for _, room in nodes) < count:
        return None
    homes: list[bytes] = []
    level = 0
    while len(homes) < count:
        level += 1
        homes += [node_id for node_id, room in nodes if room >= level][: count - len(homes)]
    return homes
