"""Why a request waits: what it asks for, what each node lacks, who holds that, and since when.

Rules of this module: reads the tables and changes nothing.  The answer is text for people: a first line
that says it all, then a line per node (at most `NODES_MAX`, those that lack least first) with the holders
of what is lacking (at most `HOLDERS_MAX`).  It may cost time in proportion to the cluster: nobody asks often.
"""

from __future__ import annotations

from typing import Final

from spoke.core.choice import holds
from spoke.core.ledger import GPU, Amounts, Ledger, show
from spoke.core.selectors import Selector, matches_all
from spoke.core.selectors import show as show_selectors
from spoke.core.shape import Shape
from spoke.core.state import Actor, Bundle, Group, Holding, Item, Lease, Node, State, Want

NODES_MAX: Final = 8
HOLDERS_MAX: Final = 6


def explain(s: State, item: Item) -> str:
    """Why an item waits, or that it does not."""
    text = headline(s, item)
    line = item.line
    if line is None:
        slots = item.bundles if isinstance(item, Group) else []
        text += "".join(f"\n  slot {one.index}{_drain(s, one)}" for one in slots if _drain(s, one))
        return text + (_unready(s, item) if isinstance(item, Group) else "")
    if line.infeasible:
        return text
    if isinstance(item, Group):
        request = item.request
        smallest = min((kind.bundle for kind in request.kinds), key=lambda bundle: sum(bundle.values()))
        need = request.need(request.open()) if request.strategy == "STRICT_PACK" else smallest
        hard = request.kinds[0].selector if len(request.kinds) == 1 else ()
        return text + _ahead(s, item) + _nodes(s, s.alive, need, tuple(hard))
    assert isinstance(item, (Want, Actor))
    shape = item.shape
    if shape.group_id is not None:
        return text + _in_group(s, shape)
    nodes = s.alive
    if shape.node_id is not None and not shape.node_soft:
        nodes = [node for node in nodes if node.node_id == shape.node_id]
    return text + _ahead(s, item) + _nodes(s, nodes, shape.place, shape.hard)


def headline(s: State, item: Item) -> str:
    """What is asked for and since when, without what is in the way."""
    line = item.line
    if line is None and isinstance(item, Group):
        if item.preparing is not None:
            return "waits until the nodes of its slots have prepared them"
        return f"the placement group is {item.state}" + (f"; latest: {item.reason}" if item.reason else "")
    if line is None and isinstance(item, Want):
        return _leases(s, item)
    if line is None:
        return "it does not wait for resources"
    since = f", for {s.now - item.waits_since:.1f} s now"
    if line.infeasible:
        return f"{line.infeasible} (waits{since})"
    if isinstance(item, Group):
        request = item.request
        kinds = ", ".join(f"{len(kind.indices)} x {show(kind.bundle)}" for kind in request.kinds)
        same = f", same={request.same!r}" if request.same else ""
        text = f"waits until all {len(item.bundles)} bundles fit at once: {kinds}"
        return f"{text} ({request.strategy}{same}){since}"
    assert isinstance(item, (Want, Actor))
    shape = item.shape
    if shape.group_id is None:
        where = f" on nodes with {show_selectors(shape.hard)}" if shape.hard else ""
        return f"waits for {show(shape.place)}{where}{since}"
    group = s.groups.get(shape.group_id)
    if group is None or group.state == "REMOVED":
        return f"its placement group is unknown (waits{since})"
    if group.line is not None:
        return f"waits for its placement group, which {headline(s, group)}"
    return f"waits for {show(shape.place)} in its placement group {group.group_id.hex()[:12]}{since}"


def _leases(s: State, want: Want) -> str:
    """Of tasks that have all the workers they asked for."""
    coming = [one.holding for one in want.leases.values() if not one.granted]
    text = f"workers lent for it: {len(want.leases) - len(coming)}"
    if coming:
        since = max(s.now - holding.since for holding in coming)
        text += f", being started: {len(coming)}, for {since:.1f} s now"
    return text


def _unready(s: State, group: Group) -> str:
    """The actors of a group whose constructors have not returned."""
    lines = []
    for holding in group.holdings.values():
        actor, bundle = holding.user, holding.bundle
        if isinstance(actor, Actor) and actor.state != "ALIVE" and bundle is not None:
            lines.append(f"\n  slot {bundle.index}: {_user(s, holding)} is {actor.state}"
                         f" for {s.now - holding.since:.1f} s")  # fmt: skip
    more = len(lines) - NODES_MAX
    return "".join(lines[:NODES_MAX]) + (f"\n  and {more} more" if more > 0 else "")


def _ahead(s: State, item: Item) -> str:
    """How many requests were there earlier."""
    older = sum(other.seq < item.seq for line in s.lines.values() for other in line.all())
    kept = sum(other.seq < item.seq for other in s.earmarked)
    return f", behind {older} older" + (f" (room is kept free for {kept})" if kept else "") if older else ""


def _nodes(s: State, nodes: list[Node], need: Amounts, hard: tuple[Selector, ...]) -> str:
    rows = []
    for node in nodes:
        if hard and not matches_all(hard, node.labels):
            rows.append((1 << 60, f"{_name(node)}: its labels do not match"))
            continue
        short = lacking(node.ledger, need)
        text = f"{_name(node)}: free {show(_part(node.ledger.free, need))}"
        text += f", lacks {show(short)}" if short else ", which would do for one"
        if not holds(node.ledger.total, need):
            text += f" (it has {show(_part(node.ledger.total, need))} in all)"
        rows.append((sum(short.values()), text + _draining(s, node) + _holders(s, node, short)))
    rows.sort(key=lambda row: row[0])
    lines = [text for _, text in rows[:NODES_MAX]]
    if len(rows) > NODES_MAX:
        lines.append(f"and {len(rows) - NODES_MAX} more nodes")
    return "".join(f"\n  {line}" for line in lines)


def _name(node: Node) -> str:
    return f"node {node.node_id.hex()[:8]} ({node.host})"


def _part(amounts: Amounts, need: Amounts) -> Amounts:
    return {name: max(0, amounts.get(name, 0)) for name in need}


def lacking(ledger: Ledger, need: Amounts) -> Amounts:
    """What a ledger has too little of now; a share of a GPU lacks one where no single device has it."""
    short = {
        name: units - max(0, ledger.free.get(name, 0))
        for name, units in need.items()
        if ledger.free.get(name, 0) < units
    }
    if not short and not ledger.fits(need):
        return {GPU: need[GPU]}
    return short


def _draining(s: State, node: Node) -> str:
    return "".join(
        f"; GPU {index} is draining: {_processes(holders.pids)} held it for {s.now - holders.since:.1f} s"
        for index, holders in node.held.items()
    )


def _drain(s: State, bundle: Bundle) -> str:
    """The devices of a slot that are draining."""
    if bundle.node is None or bundle.share is None:
        return ""
    held = {index: bundle.node.held[index] for index in bundle.share.gpu_ids if index in bundle.node.held}
    return "".join(
        f"; GPU {index} is draining: {_processes(one.pids)} held it for {s.now - one.since:.1f} s"
        for index, one in held.items()
    )


def _processes(pids: list[int]) -> str:
    return f"process {pids[0]} has" if len(pids) == 1 else f"processes {', '.join(map(str, pids))} have"


def _holders(s: State, node: Node, short: Amounts) -> str:
    """Who on this node has some of what is lacking, the largest first."""
    if not short:
        return ""
    found: list[tuple[int, str]] = []
    for holding in _holdings(node):
        if holding.bundle is None:
            part = {name: holding.share.amounts[name] for name in short if name in holding.share.amounts}
            if part:
                text = f"{_user(s, holding)} {show(part)} for {s.now - holding.since:.1f} s"
                found.append((sum(part.values()), text))
    for group in [*s.groups.values(), *s.removed_groups.values()]:
        held: Amounts = {}
        for bundle in group.bundles:
            if bundle.node is node and bundle.share is not None:
                for name in short:
                    if name in bundle.share.amounts:
                        held[name] = held.get(name, 0) + bundle.share.amounts[name]
        if held:
            kind = "gang" if group.gang is not None else "group"
            named = f" {group.name!r}" if group.name else ""
            ended = ", whose processes are not all gone" if group.state == "REMOVED" else ""
            age = s.now - group.placed_at
            text = f"{kind}{named} {group.group_id.hex()[:12]} {show(held)} for {age:.1f} s{ended}"
            found.append((sum(held.values()), text))
    found.sort(key=lambda row: -row[0])
    texts = [text for _, text in found[:HOLDERS_MAX]]
    if len(found) > HOLDERS_MAX:
        texts.append(f"{len(found) - HOLDERS_MAX} more")
    return f"; held by {', '.join(texts)}" if texts else ""


def _holdings(node: Node) -> list[Holding]:
    found = [worker.holding for worker in node.workers.values() if worker.holding is not None]
    return found + [holding for queue in node.waiting.values() for holding in queue]


def _user(s: State, holding: Holding) -> str:
    user, worker = holding.user, holding.worker
    pid = f" (process {worker.pid})" if worker is not None and worker.pid else ""
    if isinstance(user, Actor):
        kind = user.spec.get("class_name") or "actor"
        named = f" {user.name!r}" if user.name else ""
        return f"actor {kind}{named} {user.actor_id.hex()[:12]}{pid}"
    if isinstance(user, Lease):
        client = user.want.client
        return f"tasks of {client.role} {client.pid}{pid}"
    return f"an ended user whose process is not gone{pid}"


# -- in a group


def _in_group(s: State, shape: Shape) -> str:
    """The slots that the request may use."""
    group = s.groups.get(shape.group_id or b"")
    if group is None:
        return ""
    if group.line is not None:
        return explain(s, group).removeprefix(headline(s, group))
    indices = range(len(group.bundles)) if shape.group_index < 0 else (shape.group_index,)
    slots = [group.bundles[index] for index in indices][:NODES_MAX]
    return "".join(f"\n  {_slot(s, group, bundle, shape.place)}" for bundle in slots)


def _slot(s: State, group: Group, bundle: Bundle, need: Amounts) -> str:
    if bundle.ledger is None or bundle.node is None:
        return f"slot {bundle.index} has no node"
    short = lacking(bundle.ledger, need)
    text = f"slot {bundle.index} on {_name(bundle.node)}: free {show(_part(bundle.ledger.free, need))}"
    text += (f", lacks {show(short)}" if short else "") + _drain(s, bundle)
    mine = [one for one in group.holdings.values() if one.bundle is bundle]
    texts = [f"{_user(s, one)} {show(one.share.amounts)} for {s.now - one.since:.1f} s" for one in mine]
    return text + (f"; held by {', '.join(texts[:HOLDERS_MAX])}" if texts else "")
