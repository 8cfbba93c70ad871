"""Placement groups: resources reserved together, in bundles, before anything runs in them.

Rules of this module: a group is reserved whole or not at all (GANG-2); it lives until it is removed, or
its creator ends, unless it is detached.  Arguments are checked here, the hub decides.
"""

from __future__ import annotations

import re
from typing import Any

from spoke import absent, current, labels
from spoke.errors import RaySystemError
from spoke.handles import engine
from spoke.ids import JOB_BYTES, UNIQUE_BYTES, PlacementGroupID
from spoke.quantities import check_node_quantity

NODE_ID_LABEL_KEY = "ray.io/node-id"
PLACEMENT_GROUP_BUNDLE_RESOURCE_NAME = "bundle"
VALID_PLACEMENT_GROUP_STRATEGIES = {"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"}
_NODE_LABEL = "ray.io/node-id"


class PlacementGroup:
    """A reservation of bundles; equal and hashable by its id, and may be passed between processes."""

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """The group that stands for none."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Is this the group that stands for none?"""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle."""
        if self.bundle_cache is None:
            self.bundle_cache = [] if self.is_empty else list(_describe(self)["bundles"])
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles the group has."""
        return len(self.bundle_specs)

    def ready(self) -> Any:
        """A ref that resolves (to this group) when all bundles are reserved.

        Reading it raises TaskPlacementGroupRemoved if the group is removed before or already.
        """
        client = current.client or engine()
        return client.hub.group_ready(self.id.binary(), self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait at most `timeout_seconds`; are all bundles reserved?

        Raises:
            ValueError: the group does not exist.
        """
        client = current.client or engine()
        return bool(client.hub.wait_group(self.id.binary(), timeout_seconds))

    def _scheduling(self, index: int = -1, capture: bool | None = None) -> dict[str, Any]:
        """The strategy of a task or actor in bundle `index`; -1 is any bundle."""
        _check_job(self)
        return {"kind": "group", "group_id": self.id.binary(), "index": index, "capture": bool(capture)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources together; returns at once, see `PlacementGroup.ready`.

    Args:
        bundles: resources by name, such as ``[{"CPU": 1, "GPU": 1}]``; zero amounts are dropped.
        strategy: PACK (default: few nodes), SPREAD (many nodes), STRICT_PACK (one node) or STRICT_SPREAD
            (a node for each bundle).
        name: for `get_placement_group`; unique in the namespace.
        lifetime: None ends the group with its creator, "detached" does not.
        bundle_label_selector: one label selector per bundle.
        topology_strategy: instead of `strategy`, the strategy by label: "ray.io/node-id" has any of those
            above; one other label may have STRICT_PACK: the nodes of all bundles have one value of it.

    Raises:
        ValueError: a wrong argument.
        RaySystemError: the name is taken, or a bundle asks for "bundle", a name that is reserved.
        TypeError: `name` is no text.
    """
    client = current.client or engine()
    validate_placement_group(
        bundles, strategy, lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy
    )
    if not isinstance(name, str):
        raise TypeError(f"The name of a placement group must be a string, got {type(name)}")
    checked = _check_bundles(bundles)
    if any(PLACEMENT_GROUP_BUNDLE_RESOURCE_NAME in bundle for bundle in checked):
        raise RaySystemError(
            f"{PLACEMENT_GROUP_BUNDLE_RESOURCE_NAME} is a system reserved resource, "
            "which is not allowed to be used in placement group."
        )
    spec: dict[str, Any] = {
        "bundles": checked,
        "strategy": _node_strategy(strategy, topology_strategy),
        "same": next((key for key in topology_strategy or {} if key != _NODE_LABEL), ""),
        "name": name,
        "namespace": client.namespace,
        "detached": lifetime == "detached",
        "selectors": bundle_label_selector or None,
        "target_node": bytes.fromhex(_soft_target_node_id) if _soft_target_node_id else None,
    }
    group_id = client.hub.create_group(spec, bool(name))
    return PlacementGroup(PlacementGroupID(group_id), checked)


def validate_placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> None:
    """Check the arguments of `placement_group` without reserving anything.

    Raises:
        ValueError: a wrong one.
    """
    _check_bundles(bundles)
    if topology_strategy is not None:
        _check_topology(strategy, topology_strategy)
    strategy = _node_strategy(strategy, topology_strategy)
    if strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        raise ValueError(
            f"Invalid placement group strategy {strategy}. "
            f"Supported strategies are: {sorted(VALID_PLACEMENT_GROUP_STRATEGIES)}."
        )
    if lifetime not in (None, "detached"):
        raise ValueError(
            f"Placement group `lifetime` argument must be either `None` or 'detached'. Got {lifetime}."
        )
    if _soft_target_node_id:
        _check_target(_soft_target_node_id, strategy)
    if bundle_label_selector is not None:
        if not isinstance(bundle_label_selector, list):
            kind = type(bundle_label_selector)
            raise ValueError(f"Placement group bundle_label_selector must be a list, got {kind}.")
        if len(bundle_label_selector) != len(bundles):
            raise ValueError(
                f"Invalid bundle label selector {bundle_label_selector}. "
                "The length of `bundle_label_selector` should equal the length of `bundles`."
            )
        _check_selectors(bundle_label_selector)


def _check_target(node_id: Any, strategy: str) -> None:
    if strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id currently only works with STRICT_PACK but got {strategy}")
    if not isinstance(node_id, str) or not re.fullmatch(f"[0-9a-fA-F]{{{2 * UNIQUE_BYTES}}}", node_id):
        raise ValueError(f"Invalid hex ID of _soft_target_node_id, got {node_id}")


def _check_selectors(selectors: list[Any]) -> None:
    for selector in selectors:
        if not isinstance(selector, dict) or not all(
            isinstance(key, str) and isinstance(value, str) for key, value in selector.items()
        ):
            raise ValueError(
                "Bundle label selector must be a list of string dictionary label selectors, expected text to "
                'text. For example: `[{"ray.io/market-type": "spot"}, {"ray.io/accelerator-type": "A100"}]`.'
            )
        problem = labels.selector_problem(selector)
        if problem:
            raise ValueError(
                f"Invalid label selector provided in bundle_label_selector list. Detailed error: '{problem}'"
            )


def _node_strategy(strategy: str | None, topology: dict[str, str] | None) -> str:
    if topology is not None:
        return topology.get(_NODE_LABEL, "PACK")
    return "PACK" if strategy is None else strategy


def _check_topology(strategy: str | None, topology: Any) -> None:
    if strategy is not None:
        raise ValueError(
            f"`strategy` and `topology_strategy` exclude each other: give {_NODE_LABEL!r} in the latter."
        )
    if not isinstance(topology, dict):
        raise ValueError(f"`topology_strategy` must be a dict, got {type(topology).__name__}.")
    others = [key for key in topology if key != _NODE_LABEL]
    if not all(isinstance(key, str) and key for key in others):
        raise ValueError(f"`topology_strategy` has labels for keys, got {others}.")
    if len(others) > 1:
        raise ValueError(f"`topology_strategy` takes one label besides {_NODE_LABEL!r}, got {others}.")
    for key, value in topology.items():
        if value not in VALID_PLACEMENT_GROUP_STRATEGIES:
            raise ValueError(
                f"Invalid topology strategy {value!r} for label {key!r}. "
                f"Supported strategies are: {sorted(VALID_PLACEMENT_GROUP_STRATEGIES)}."
            )
        if key != _NODE_LABEL and value != "STRICT_PACK":
            raise ValueError(f"Topology strategy {value!r} for label {key!r}: only 'STRICT_PACK' is there.")


def _check_bundles(bundles: Any) -> list[dict[str, float]]:
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    example = (
        "Bundles must be a non-empty list of resource dictionaries. "
        'For example: `[{"CPU": 1.0}, {"GPU": 1.0}]`.'
    )
    if not bundles:
        raise ValueError(f"{example} Got empty list instead.")
    checked = []
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(name, str) and isinstance(amount, (int, float)) for name, amount in bundle.items()
        ):
            raise ValueError(example)
        kept = {name: check_node_quantity(name, amount) for name, amount in bundle.items()}
        kept = {name: amount for name, amount in kept.items() if amount > 0}
        if not kept:
            raise ValueError(
                f"Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: {bundles}"
            )
        checked.append(kept)
    return checked


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give a group's resources back; its tasks and actors are killed.  May be called twice.

    Raises:
        AttributeError: not a placement group (Ray's type).
        AuthenticationError: it is the gang of another job.
    """
    if not isinstance(placement_group, PlacementGroup):
        raise AttributeError(f"a PlacementGroup is needed, not {type(placement_group).__name__}")
    client = current.client or engine()
    _check_job(placement_group)
    client.hub.remove_group(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name in the namespace of this job.

    Raises:
        ValueError: there is none.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    client = current.client or engine()
    try:
        found = client.request("group", name=placement_group_name, namespace=client.namespace)
    except ValueError:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}") from None
    return PlacementGroup(PlacementGroupID(found["group_id"]), list(found["bundles"]))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """State and place of one group, or of all groups by id.

    Keys of one group: placement_group_id, name, bundles, bundles_to_node_id, bundles_to_gpu_ids, strategy,
    state (PENDING, CREATED, RESCHEDULING or REMOVED), stats.
    """
    client = current.client or engine()
    if placement_group is not None:
        try:
            return _row(_describe(placement_group))
        except ValueError:
            return {}
    rows = [_row(found) for found in client.request("groups")]
    return {row["placement_group_id"]: row for row in rows}


def _check_job(group: PlacementGroup) -> None:
    """The hub is asked only about groups of other jobs: their ids end with the job's."""
    client, group_id = current.client, group.id.binary()
    if client is not None and group_id[-JOB_BYTES:] != client.runtime_context.get("job_id"):
        try:
            client.request("use_group", id=group_id)
        except ValueError:
            pass  # unknown so far: said by the call that uses it


def _describe(group: PlacementGroup) -> dict[str, Any]:
    client = current.client or engine()
    found: dict[str, Any] = client.request("group", id=group.id.binary())
    return found


def _row(found: dict[str, Any]) -> dict[str, Any]:
    nodes = found.get("nodes") or []
    return {
        "placement_group_id": bytes(found["group_id"]).hex(),
        "name": found.get("name") or "",
        "bundles": dict(enumerate(found["bundles"])),
        "bundles_to_node_id": {index: bytes(node).hex() if node else "" for index, node in enumerate(nodes)},
        "bundles_to_gpu_ids": dict(enumerate(found.get("gpu_ids") or [])),
        "strategy": found["strategy"],
        "state": found["state"],
        "stats": {**found["stats"], "reason": found.get("reason") or ""},
    }


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor was placed in, or None."""
    client = current.client
    if client is None:
        return None
    group_id = client.runtime_context.get("group_id")
    return PlacementGroup(PlacementGroupID(group_id)) if group_id else None


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """Check the index of a bundle.

    Raises:
        ValueError: the group has no such bundle, or there is no group and the index is not -1.
    """
    if placement_group.is_empty:
        if bundle_index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
    elif not -1 <= bundle_index < placement_group.bundle_count:
        raise ValueError(
            f"placement group bundle index {bundle_index} is invalid. "
            f"Valid placement group indexes: 0-{placement_group.bundle_count - 1}"
        )


__getattr__ = absent.getter(__name__)
