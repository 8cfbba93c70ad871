"""Nodes grouped by what they have free, kept up to date change by change: where groups are placed.

Rules of this module: equal events give equal answers, and an answer is as exact as that of
`spoke.core.placement`.  Nodes that look alike to a request (in the resources, labels and devices that it
names) share one class, so that a decision costs time in proportion to classes and bundles, not to nodes.
Ledgers note their node in `stale` when they change; a query first moves those nodes to their present
classes.  How bundles are dealt out to classes is in `spoke.core.dealing`; where that does not find a
placement and one may exist, the search over single nodes decides, on as many nodes of each class as the
request has bundles: no placement needs more, as they are interchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from spoke.core import dealing, placement
from spoke.core.dealing import Entry
from spoke.core.ledger import GPU, Ledger
from spoke.core.request import Request

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
_Key = tuple[tuple[int, ...], object, bool, int, tuple[str | None, ...]]


class _Table:
    """The classes for one signature."""

    __slots__ = ("classes", "detail", "key_of", "labels", "names")

    def __init__(self, signature: _Signature) -> None:
        self.names, self.labels, self.detail = signature
        self.classes: dict[_Key, dict[bytes, Node]] = {}
        self.key_of: dict[bytes, _Key] = {}

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
        self.classes.setdefault(key, {})[node.node_id] = node

    def drop(self, node_id: bytes) -> None:
        key = self.key_of.pop(node_id)
        members = self.classes[key]
        del members[node_id]
        if not members:
            del self.classes[key]


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
        self.domains = False  # some node has reported domains

    def join(self, node: Node) -> None:
        """A node is there."""
        self.nodes[node.node_id] = node
        node.ledger.watch(self.stale, node.node_id)
        self.changed(node)

    def changed(self, node: Node) -> None:
        """The node has other labels or domains than before (ledgers note their changes themselves)."""
        self.stale[node.node_id] = True
        self.domains = self.domains or bool(node.ledger.domains)
        if self.vacant is not None:
            self.vacant.join(_Vacant(node))

    def leave(self, node: Node) -> None:
        """A node is gone."""
        self.nodes.pop(node.node_id, None)
        self.stale[node.node_id] = True
        if self.vacant is not None:
            self.vacant.leave(node)

    def possible(self, request: Request) -> bool:
        """Whether the request would fit if nothing ran on any node."""
        assert self.vacant is not None
        return self.vacant.choose(request) is not None

    def _table(self, request: Request) -> _Table:
        for node_id in self.stale:
            node = self.nodes.get(node_id)
            for table in self.tables.values():
                if node is not None:
                    table.put(node)
                elif node_id in table.key_of:
                    table.drop(node_id)
        self.stale.clear()
        detail = _ANY
        if request.devices is not None:
            detail = _INDICES
        elif any(kinds for _, kinds in request.attempts(self.domains)):
            detail = _DOMAINS
        signature = (request.names, request.label_keys, detail)
        found = self.tables.pop(signature, None)
        if found is None:
            found = _Table(signature)
            for node in self.nodes.values():
                found.put(node)
        self.tables[signature] = found  # the latest use is last
        if len(self.tables) > TABLES_MAX:
            del self.tables[next(iter(self.tables))]
        return found

    def validate(self, alive: Sequence[Node]) -> None:
        """Assert that every table shows the living nodes as they are; for tests."""
        assert list(self.nodes.values()) == list(alive)
        for table in self.tables.values():
            for node in alive:
                if node.node_id not in self.stale:
                    assert table.key(node) == table.key_of[node.node_id], "a change of a ledger was not noted"
            listed = {node_id: key for key, members in table.classes.items() for node_id in members}
            assert listed == table.key_of

    def choose(self, request: Request, seen: Mapping[bytes, Ledger] | None = None) -> list[bytes] | None:
        """A node id per bundle, or None when they do not fit now.

        Args:
            seen: nodes that this request sees with another ledger than their own.
        """
        table = self._table(request)
        entries = self._entries(table, request, seen or {})
        if any(request.fixed):
            return self._search(entries, request)
        for labels, kinds in request.attempts(self.domains):
            doubtful = False
            for part in _by_labels(entries, labels):
                homes = dealing.deal(part, request, kinds)
                if homes is not None:
                    return placement.ranked(dict(enumerate(homes)), request) if request.ranked else homes
                doubtful = doubtful or dealing.may_exist(part, request, kinds)
            if doubtful and (labels, kinds) == request.required:
                return self._search(entries, request)
        return None

    def _entries(self, table: _Table, request: Request, seen: Mapping[bytes, Ledger]) -> list[Entry]:
        """The classes that could take a bundle; nodes that are looked at one by one are their own class."""
        wants_gpu = request.gpus > 0
        ledgers = {node_id: ledger for node_id, ledger in seen.items() if node_id in self.nodes}
        target = self.nodes.get(request.target) if request.target is not None else None
        if target is not None:
            ledgers.setdefault(target.node_id, target.ledger)
        for home in request.fixed:
            if home is not None and home in self.nodes:
                ledgers.setdefault(home, self.nodes[home].ledger)
        entries: list[Entry] = []
        for node_id, ledger in ledgers.items():
            node = self.nodes[node_id]
            key = table.key_of[node_id]
            entry = Entry([node_id], ledger, node.labels, key[2] and not wants_gpu, key[3])
            entry.first = node is target
            entries.append(entry)
        apart: dict[_Key, int] = {}
        for node_id in ledgers:
            apart[table.key_of[node_id]] = apart.get(table.key_of[node_id], 0) + 1
        for key, members in table.classes.items():
            one = next(iter(members.values()))
            if key not in apart:
                entries.append(Entry(members, one.ledger, one.labels, key[2] and not wants_gpu, key[3]))
            elif len(members) > apart[key]:
                rest = [node_id for node_id in members if node_id not in ledgers]
                one = members[rest[0]]
                entries.append(Entry(rest, one.ledger, one.labels, key[2] and not wants_gpu, key[3]))
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


def _by_labels(entries: list[Entry], keys: tuple[str, ...]) -> list[list[Entry]]:
    """The classes by the values of these labels, the target's first; those that lack one are left out."""
    if not keys:
        return [entries]
    parts: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if all(key in entry.labels for key in keys):
            parts.setdefault(tuple(entry.labels[key] for key in keys), []).append(entry)
    names = sorted(parts, key=lambda name: (not any(entry.first for entry in parts[name]), name))
    return [parts[name] for name in names]
