"""Which node a lease or an actor goes to.

Rules of this module: reads the tables and changes nothing.  Order of preference: what the strategy
names; the node that holds most of the arguments' bytes; the caller's own node while less than half
of it is used; then the least used node, in order of joining.  Requests without GPUs keep away from
nodes with GPUs while others fit.  Requests that hold nothing spread by the number of holders; what is to be
spread visits the nodes in turn.
"""

from __future__ import annotations

from typing import Final

from spoke.core.fit import FitIndex
from spoke.core.ledger import Amounts, Ledger, show
from spoke.core.request import Request
from spoke.core.selectors import count_matching, matches_all
from spoke.core.selectors import show as show_selectors
from spoke.core.shape import Shape
from spoke.core.state import Bundle, Group, Item, Node, State, Want

PACK_UNTIL: Final = 0.5  # share of the caller's node that is filled before others are used
INDEXED_MIN: Final = 64  # nodes; below, looking at each is as quick and more exact
_REASON_NODES_MAX: Final = 8


class Unplaceable(Exception):
    """No later event can make the request fit; the text says why, `kind` is that of an actor's end."""

    kind = "unschedulable"


class GroupGone(Unplaceable):
    """The placement group that the request names was removed."""

    kind = "group_gone"


def choose_node(s: State, index: FitIndex, shape: Shape, item: Item, origin: bytes) -> Node | None:
    """The node for a request outside groups, or None while none fits.

    On a large cluster the index answers where it can: by classes of nodes, in sixteen levels of use.

    Raises:
        Unplaceable: the node it must run on is dead, or too small, or busy where it shall not wait.
    """
    nodes = s.alive
    if shape.node_id is not None:
        node = s.nodes.get(shape.node_id)
        alive = node is not None and node.alive
        if node is not None and alive and could_hold(node, shape):
            if _fits(s, node, shape, item):
                return node
            if not shape.node_now:
                return None
        if not shape.node_soft:
            why = infeasible(s, shape) or f"{show(shape.place)} is not free there"
            why = f": {why}" if alive else " is not alive"
            raise Unplaceable(f"the node {shape.node_id.hex()} it must run on{why}")
    if len(nodes) == 1:
        node = nodes[0]
        return node if _admits(node, shape) and _fits(s, node, shape, item) else None
    plain = not (shape.soft or shape.locality or shape.spread or shape.node_id or s.earmarked)
    indexed = len(nodes) >= INDEXED_MIN and plain and bool(shape.need)
    for hard in shape.hards:
        if indexed:
            found = index.least_used(Request([shape.place], "PACK", selectors=[hard]), origin)
            if found is not None:
                return s.nodes[found]
            continue
        fitting = [
            node
            for node in nodes
            if (not hard or matches_all(hard, node.labels)) and _fits(s, node, shape, item)
        ]
        if fitting:
            return fitting[0] if len(fitting) == 1 else _prefer(fitting, shape, origin)
    return None


def _admits(node: Node, shape: Shape) -> bool:
    """Whether the node's labels are among those asked for, at first or as a fallback."""
    return any(not hard or matches_all(hard, node.labels) for hard in shape.hards)


def _prefer(fitting: list[Node], shape: Shape, origin: bytes) -> Node:
    if shape.soft:
        best = max(count_matching(shape.soft, node.labels) for node in fitting)
        fitting = [node for node in fitting if count_matching(shape.soft, node.labels) == best]
    if shape.spread:
        return min(fitting, key=lambda node: (node.spread_at, node.load, node.ledger.utilisation()))
    if shape.locality:
        holder = max(fitting, key=lambda node: shape.locality.get(node.node_id, 0))
        if shape.locality.get(holder.node_id, 0) > 0:
            return holder
    if not shape.gpu:
        fitting = [node for node in fitting if not node.has_gpu] or fitting
    if not shape.need:
        return min(fitting, key=lambda node: (node.load, node.ledger.utilisation(), node.node_id != origin))
    for node in fitting:
        if node.node_id == origin and node.ledger.utilisation() < PACK_UNTIL:
            return node
    return min(fitting, key=lambda node: (node.ledger.utilisation(), node.node_id != origin))


def _fits(s: State, node: Node, shape: Shape, item: Item) -> bool:
    if not node.ledger.fits(shape.place):
        return False
    return not s.earmarked or visible(s, node, item).fits(shape.place)


def visible(s: State, node: Node, item: Item) -> Ledger:
    """A node's ledger less the room that is kept free for older requests.

    A caller that sleeps in get passes: what it holds, and others may wait for, is free only when it
    wakes up.
    """
    ledger = node.ledger
    if isinstance(item, Want) and item.client.worker is not None:
        holding = item.client.worker.holding
        if holding is not None and holding.blocked:
            return ledger
    for older in s.earmarked:
        if older.seq < item.seq and older.earmark is not None:
            kept = older.earmark.get(node.node_id)
            if kept:
                if ledger is node.ledger:
                    ledger = ledger.copy()
                ledger.subtract(kept)
    return ledger


def choose_bundle(group: Group, shape: Shape) -> Bundle | None:
    """The slot for a request in a group, or None while none fits.

    Where any will do, it is the first of those that have the fewest further resources: what needs no GPU
    keeps out of slots with GPUs while others fit.

    Raises:
        Unplaceable: the slot does not exist, or is smaller than the request.
    """
    bundles = group.bundles
    amounts = group.request.bundles
    if shape.group_index >= len(bundles):
        raise Unplaceable(f"bundle {shape.group_index} of a placement group of {len(bundles)} bundles")
    indices = range(len(bundles)) if shape.group_index < 0 else (shape.group_index,)
    if not any(holds(amounts[index], shape.place) for index in indices):
        which = "every bundle" if shape.group_index < 0 else f"bundle {shape.group_index}"
        raise Unplaceable(f"{show(shape.place)} does not fit in {which} of its placement group")
    best: Bundle | None = None
    fewest = 0
    for index in indices:
        bundle = bundles[index]
        if bundle.ledger is None or not bundle.ledger.fits(shape.place):
            continue
        further = sum(name not in shape.place for name in amounts[index])
        if best is None or further < fewest:
            best, fewest = bundle, further
        if not further:
            break
    return best


def holds(total: Amounts, need: Amounts) -> bool:
    """Whether a total covers a need, by amounts."""
    return all(total.get(name, 0) >= units for name, units in need.items())


def could_hold(node: Node, shape: Shape) -> bool:
    """Whether the node fits the request when nothing else runs there."""
    return holds(node.ledger.total, shape.place) and _admits(node, shape)


def infeasible(s: State, shape: Shape) -> str:
    """Why no present node could ever hold the request; empty if one could."""
    nodes = s.alive
    if shape.node_id is not None and not shape.node_soft:
        nodes = [node for node in nodes if node.node_id == shape.node_id]
    if any(could_hold(node, shape) for node in nodes):
        return ""
    wanted = show(shape.place) + (f" on nodes with {show_selectors(shape.hard)}" if shape.hard else "")
    if not nodes:
        return f"No node is there to hold {wanted}"
    first = nodes[:_REASON_NODES_MAX]
    whys = [f"{node.node_id.hex()[:8]} ({node.host}): {_why(node, shape)}" for node in first]
    if len(nodes) > _REASON_NODES_MAX:
        whys.append(f"and {len(nodes) - _REASON_NODES_MAX} more")
    return f"No node can ever hold {wanted}: " + "; ".join(whys)


def _why(node: Node, shape: Shape) -> str:
    if not _admits(node, shape):
        return "labels do not match"
    short = {
        name: node.ledger.total.get(name, 0)
        for name, units in shape.place.items()
        if node.ledger.total.get(name, 0) < units
    }
    return f"has only {show(short)}"
