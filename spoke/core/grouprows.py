"""What is shown of placement groups: a row of the table, how far its placement is, and its resources.

Rules of this module: reads the tables and changes nothing.  Names and words are those that Ray shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from spoke.core.choice import holds
from spoke.core.groups import CREATED, REMOVED, Groups
from spoke.core.ledger import UNIT, to_floats
from spoke.core.request import Kind
from spoke.core.selectors import matches_all
from spoke.core.state import Group, Node, State

BUNDLE: Final = "bundle"  # each bundle has 1,000 of it, and whatever runs there holds a thousandth of one
_BUNDLE_UNITS: Final = 1000 * UNIT
_LEAST_MS: Final = 0.001


def describe(s: State, group: Group) -> dict[str, Any]:
    """One row of the table of groups."""
    _, _, state, info = Groups.message(group)
    return {
        "group_id": group.group_id,
        "name": group.name,
        "namespace": group.namespace,
        "strategy": group.request.strategy,
        "state": state,
        "bundles": [to_floats(bundle) for bundle in group.request.bundles],
        "detached": bool(group.spec.get("detached")),
        "gang": group.gang.restart if group.gang is not None else None,
        "restarts": len(group.restarts),
        "job_id": group.job,
        "stats": _stats(s, group),
        **info,
    }


def _stats(s: State, group: Group) -> dict[str, Any]:
    """How far the placement of a group is, and how long it took."""
    latency = 0.0
    if group.placed_at and group.placed_at >= group.waits_since:
        # A step of the hub takes no time by the clock that it is given: what was placed in the step that
        # it came in shows the least.
        latency = max(1000 * (group.placed_at - group.waits_since), _LEAST_MS)
    return {
        "end_to_end_creation_latency_ms": latency,
        "scheduling_latency_ms": latency,
        "scheduling_attempt": group.tries,
        "highest_retry_delay_ms": 0.0,
        "scheduling_state": _scheduling_state(s, group),
    }


def _scheduling_state(s: State, group: Group) -> str:
    if group.state == REMOVED:
        return "REMOVED"
    if group.preparing is not None:
        return "SCHEDULING_STARTED"
    if group.state == CREATED:
        return "FINISHED"
    if not group.tries:
        return "QUEUED"
    return "INFEASIBLE" if _hopeless(s, group) else "NO_RESOURCES"


def _hopeless(s: State, group: Group) -> bool:
    """Whether the nodes are too small or too few; not, whether all bundles together are too much for them."""
    request = group.request
    if request.strategy == "STRICT_PACK":
        return group.line is not None and bool(group.line.infeasible)
    if request.strategy == "STRICT_SPREAD" and len(request.bundles) > len(s.alive):
        return True
    return not all(any(_could_hold(node, kind) for node in s.alive) for kind in request.kinds)


def _could_hold(node: Node, kind: Kind) -> bool:
    return holds(node.ledger.total, kind.bundle) and matches_all(kind.selector, node.labels)


def total(groups: Iterable[Group]) -> dict[str, int]:
    """The resources that placed groups have made, in units, by the names that Ray gives them."""
    found: dict[str, int] = {}
    for group in groups:
        for bundle in group.bundles:
            if bundle.ledger is not None:
                _add(found, group, bundle.index, {**bundle.ledger.total, BUNDLE: _BUNDLE_UNITS})
    return found


def free(groups: Iterable[Group]) -> dict[str, int]:
    """What of these resources nobody holds."""
    found: dict[str, int] = {}
    for group in groups:
        used: dict[int, int] = {}
        for holding in group.holdings.values():
            if holding.bundle is not None:
                used[holding.bundle.index] = used.get(holding.bundle.index, 0) + UNIT // 1000
        for bundle in group.bundles:
            if bundle.ledger is not None:
                left = {name: max(0, units) for name, units in bundle.ledger.free.items()}
                _add(found, group, bundle.index, {**left, BUNDLE: _BUNDLE_UNITS - used.get(bundle.index, 0)})
    return found


def _add(found: dict[str, int], group: Group, index: int, amounts: dict[str, int]) -> None:
    text = group.group_id.hex()
    for name, units in amounts.items():
        for shown in (f"{name}_group_{text}", f"{name}_group_{index}_{text}"):
            found[shown] = found.get(shown, 0) + units
