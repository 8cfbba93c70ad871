"""Nodes grouped by what they have free, kept up to date change by change: where groups are placed.

Rules of this module: equal events give equal answers, and an answer is as exact as that of
`spoke.core.placement`.  Nodes that look alike to a request (in the resources, labels and devices that it
names) share one class, so that a decision costs time in proportion to classes and bundles, not to nodes.
Ledgers note their node in `stale` when they change; a query first moves those nodes to their present
classes, in the one table that it asks.  How bundles are dealt out to classes is in `spoke.core.dealing`;
where that does not find a placement and one may exist, the search over single nodes decides, on as many
nodes of each class as the request has bundles: no placement needs more, as they are interchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from spoke.core import dealing, placement
from spoke.core.dealing import Entry
from spoke.core.ledger import GPU, Ledger
from spoke.core.request import Request
from spoke.core.selectors import matches_all
from spoke.core.topology import largest

if TYPE_CHECKING:
    from typing import Protocol

    class Node(Protocol):
        """What the index needs to know of a node."""

        node_id: bytes
        ledger: Ledger
        labels: dict[str, str]


TABLES_MAX: Final = 16  # sets of names; the one unused longest is dropped
_LEVELS: Final = 16  # of utilisation that are told apart

# How much of the devices a request looks at: how much is free of each, in which domain, or of which index.
_ANY, _DOMAINS, _INDICES = range(3)

_Signature = tuple[tuple[str, ...], tuple[str, ...], int]  # resources, labels, devices
_Values = tuple["str | None", ...]  # of the labels
_Key = tuple[tuple[int, ...], object, bool, int, _Values]


class _Zone:
    """The classes of the nodes with certain labels, and what those nodes have free in all."""

    __slots__ = ("classes", "free")

    def __init__(self, names: int) -> None:
        self.classes: dict[_Key, dict[bytes, Node]] = {}
        self.free = [0] * names


class _Table:
    """The classes for one signature."""

    __slots__ = ("detail", "key_of", "labels", "names", "stale", "zones")

    def __init__(self, signature: _Signature) -> None:
        self.names, self.labels, self.detail = signature
        self.zones: dict[_Values, _Zone] = {}
        self.key_of: dict[bytes, _Key] = {}
        self.stale: dict[bytes, bool] = {}  # nodes that have changed since this table was last asked

    def refresh(self, nodes: Mapping[bytes, Node]) -> None:
        """Show these nodes as they are now."""
        for node_id in self.stale:
            node = nodes.get(node_id)
            if node is not None:
                self.put(node)
            elif node_id in self.key_of:
                self.drop(node_id)
        self.stale.clear()

    def key(self, node: Node) -> _Key:
        ledger = node.ledger
        free = ledger.free
        level = int(ledger.utilisation() * _LEVELS)
        labels = tuple([node.labels.get(name) for name in self.labels])
        amounts = tuple([free.get(name, 0) for name in self.names])
        return (amounts, self._devices(ledger), GPU in ledger.total, level, labels)

    def _devices(self, ledger: Ledger) -> object:
        if GPU not in self.names or not ledger.device_total:
            return ()
        free = ledger.device_free
        if self.detail == _INDICES:
            return tuple(free.items()), ledger.domains
        alike = tuple(sorted(free.values()))
        if self.detail == _ANY or not ledger.domains:
            return alike
        # One entry per device: how much is free, and in which domain of each kind it is.
        where = [
            (
                tuple(
                    next((n for n, group in enumerate(groups) if index in group), -1)
                    for groups in ledger.domains
                ),
                units,
            )
            for index, units in free.items()
        ]
        return tuple(sorted(where))

    def put(self, node: Node) -> None:
        key = self.key(node)
        old = self.key_of.get(node.node_id)
        if old == key:
            return
        if old is not None:
            self.drop(node.node_id)
        self.key_of[node.node_id] = key
        zone = self.zones.get(key[4])
        if zone is None:
            zone = self.zones[key[4]] = _Zone(len(self.names))
        zone.classes.setdefault(key, {})[node.node_id] = node
        for number, units in enumerate(key[0]):
            zone.free[number] += max(0, units)

    def drop(self, node_id: bytes) -> None:
        key = self.key_of.pop(node_id)
        zone = self.zones[key[4]]
        members = zone.classes[key]
        del members[node_id]
        if not members:
            del zone.classes[key]
            if not zone.classes:
                del self.zones[key[4]]
        for number, units in enumerate(key[0]):
            zone.free[number] -= max(0, units)

    def validate(self) -> None:
        """Assert that the zones hold what the keys say; for tests."""
        listed = {
            node_id: key
            for zone in self.zones.values()
            for key, members in zone.classes.items()
            for node_id in members
        }
        assert listed == self.key_of
        for values, zone in self.zones.items():
            keys = [key for key in self.key_of.values() if key[4] == values]
            sums = [sum(max(0, key[0][number]) for key in keys) for number in range(len(self.names))]
            assert zone.free == sums and keys


class _Vacant:
    """A node as it is when nothing runs there."""

    __slots__ = ("labels", "ledger", "node_id")

    def __init__(self, node: Node) -> None:
        self.node_id = node.node_id
        self.labels = node.labels
        self.ledger = node.ledger.empty_copy()


class FitIndex:
    """See the module.  An index of living nodes keeps a second one, of the same nodes with nothing taken."""

    def __init__(self, vacant: FitIndex | None = None) -> None:
        self.vacant = vacant
        self.nodes: dict[bytes, Node] = {}
        self.stale: dict[bytes, bool] = {}
        self.tables: dict[_Signature, _Table] = {}
        self.largest: dict[str, int] = {}  # domain of each kind, in GPUs, of all nodes that ever were

    def join(self, node: Node) -> None:
        """A node is there."""
        self.nodes[node.node_id] = node
        node.ledger.watch(self.stale, node.node_id)
        self.changed(node)

    def changed(self, node: Node) -> None:
        """The node has other labels or domains than before (ledgers note their changes themselves)."""
        self.stale[node.node_id] = True
        for kind, size in largest([node.ledger.domains]).items():
            self.largest[kind] = max(size, self.largest.get(kind, 0))
        if self.vacant is not None:
            self.vacant.join(_Vacant(node))

    def leave(self, node: Node) -> None:
        """A node is gone."""
        self.nodes.pop(node.node_id, None)
        self.stale[node.node_id] = True
        if self.vacant is not None:
            self.vacant.leave(node)

    def vacant_node(self, node: Node) -> Node:
        """The node as it is when nothing runs there."""
        assert self.vacant is not None
        return self.vacant.nodes[node.node_id]

    def possible(self, request: Request) -> bool:
        """Whether the request would fit if nothing ran on any node."""
        assert self.vacant is not None
        return self.vacant.choose(request) is not None

    def _table(self, request: Request) -> _Table:
        if self.stale:
            for table in self.tables.values():
                table.stale.update(self.stale)
            self.stale.clear()
        detail = _ANY
        if request.devices is not None:
            detail = _INDICES
        elif any(kinds for _, kinds in request.attempts(self.largest)):
            detail = _DOMAINS
        signature = (request.names, request.label_keys, detail)
        found = self.tables.pop(signature, None)
        if found is None:
            found = _Table(signature)
            for node in self.nodes.values():
                found.put(node)
        else:
            found.refresh(self.nodes)
        self.tables[signature] = found  # the latest use is last
        if len(self.tables) > TABLES_MAX:
            del self.tables[next(iter(self.tables))]
        return found

    def validate(self, alive: Sequence[Node]) -> None:
        """Assert that every table shows the living nodes as they are; for tests."""
        assert list(self.nodes.values()) == list(alive)
        for table in self.tables.values():
            for node in alive:
                if node.node_id not in self.stale and node.node_id not in table.stale:
                    assert table.key(node) == table.key_of[node.node_id], "a change of a ledger was not noted"
            table.validate()

    def choose(self, request: Request, seen: Mapping[bytes, Ledger] | None = None) -> list[bytes] | None:
        """A node id per bundle, or None when they do not fit now.

        Args:
            seen: nodes that this request sees with another ledger than their own.
        """
        table = self._table(request)
        apart = self._apart(request, seen or {})
        if any(request.fixed):
            return self._search(self._entries(table, list(table.zones), request, apart), request)
        known: dict[tuple[_Values, ...], list[Entry]] = {}
        for labels, kinds in request.attempts(self.largest):
            doubtful = False
            for zones in self._by_labels(table, request, labels, not seen):
                key = tuple(zones)
                entries = known.get(key)
                if entries is None:
                    entries = known[key] = self._entries(table, zones, request, apart)
                homes = dealing.deal(entries, request, kinds)
                if homes is not None:
                    return placement.ranked(dict(enumerate(homes)), request) if request.ranked else homes
                doubtful = doubtful or dealing.may_exist(entries, request, kinds)
            if doubtful and (labels, kinds) == request.required:
                return self._search(self._entries(table, list(table.zones), request, apart), request)
        return None

    def least_used(self, request: Request, origin: bytes) -> bytes | None:
        """The node for a request of one bundle that is to be spread, or None while none fits.

        The origin while less than half of it is used; else one of the least used, without GPUs where none
        are asked for.
        """
        table = self._table(request)
        entries = self._entries(table, _admitted(table, request), request, {})
        if not entries:
            return None
        home = table.key_of.get(origin)
        best = min(entries, key=lambda entry: (entry.avoid, entry.level))
        if (
            home is not None
            and home[3] < _LEVELS // 2
            and not (home[2] and best.avoid is False and not request.gpus)
        ):
            node = self.nodes[origin]
            if request.admits(node.labels, 0) and node.ledger.fits(request.bundles[0]):
                return origin
        return next(iter(best.members))

    def _apart(self, request: Request, seen: Mapping[bytes, Ledger]) -> dict[bytes, Ledger]:
        """The nodes that are looked at one by one."""
        found = {node_id: ledger for node_id, ledger in seen.items() if node_id in self.nodes}
        for node_id in (request.target, *request.fixed):
            node = self.nodes.get(node_id) if node_id is not None else None
            if node is not None:
                found.setdefault(node.node_id, node.ledger)
        return found

    def _by_labels(
        self, table: _Table, request: Request, keys: tuple[str, ...], exact: bool
    ) -> list[list[_Values]]:
        """The zones that share a value of each of these labels, the target's first.

        Those that cannot hold the request by what they have free in all (if that is `exact`) are left out.
        """
        zones = _admitted(table, request)
        if not keys:
            return [zones]
        places = [table.labels.index(key) for key in keys]
        parts: dict[tuple[str, ...], list[_Values]] = {}
        for values in zones:
            mine = [values[place] for place in places]
            if None not in mine:
                parts.setdefault(tuple(str(value) for value in mine), []).append(values)
        at = table.key_of.get(request.target or b"")
        names = sorted(parts, key=lambda name: (at is None or at[4] not in parts[name], name))
        needs = [request.total.get(name, 0) for name in table.names]
        found = [parts[name] for name in names]
        if not exact:
            return found
        return [part for part in found if _enough([table.zones[one] for one in part], needs)]

    def _entries(
        self, table: _Table, zones: list[_Values], request: Request, apart: Mapping[bytes, Ledger]
    ) -> list[Entry]:
        """The classes that could take a bundle; a node that is looked at by itself is a class, too."""
        wants_gpu = request.gpus > 0
        entries: list[Entry] = []
        missing: dict[_Key, int] = {}
        for node_id, ledger in apart.items():
            key = table.key_of[node_id]
            missing[key] = missing.get(key, 0) + 1
            if key[4] in zones:
                entry = Entry([node_id], ledger, self.nodes[node_id].labels, key[2] and not wants_gpu, key[3])
                entry.first = node_id == request.target
                entries.append(entry)
        for values in zones:
            for key, everyone in table.zones[values].classes.items():
                members: Mapping[bytes, Node] = everyone
                if key in missing:
                    members = {name: node for name, node in everyone.items() if name not in apart}
                    if not members:
                        continue
                one = next(iter(members.values()))
                entries.append(Entry(members, one.ledger, one.labels, key[2] and not wants_gpu, key[3]))
        return [entry for entry in entries if entry.measure(request) or entry.holds_fixed(request)]

    def _search(self, entries: list[Entry], request: Request) -> list[bytes] | None:
        """The exact search over single nodes."""
        bound = len(request.open())
        nodes = [_Single(node_id, entry) for entry in entries for node_id in entry.some(bound)]
        order = {node_id: number for number, node_id in enumerate(self.nodes)}
        nodes.sort(key=lambda node: order[node.node_id])
        return placement.choose(nodes, request)


class _Single:
    """One node of a class, for the search."""

    __slots__ = ("labels", "ledger", "node_id")

    def __init__(self, node_id: bytes, entry: Entry) -> None:
        self.node_id = node_id
        self.labels = entry.labels
        self.ledger = entry.ledger


def _admitted(table: _Table, request: Request) -> list[_Values]:
    """The zones that the selectors let some bundle into."""
    selectors = [kind.selector for kind in request.kinds]
    if not all(selectors):
        return list(table.zones)
    found = []
    for values in table.zones:
        labels = {key: value for key, value in zip(table.labels, values, strict=True) if value is not None}
        if any(matches_all(selector, labels) for selector in selectors):
            found.append(values)
    return found


def _enough(zones: list[_Zone], needs: list[int]) -> bool:
    return all(sum(zone.free[number] for zone in zones) >= units for number, units in enumerate(needs))
