"""Reserving a gang: arguments checked, slots asked for in one step, waited for, or given up by name.

Rules of this module: a call that does not return a gang leaves nothing reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from spoke import current
from spoke.core.request import NODE
from spoke.core.topology import KINDS
from spoke.errors import ActorUnschedulableError, GetTimeoutError
from spoke.gang import Gang
from spoke.handles import engine
from spoke.ids import PlacementGroupID
from spoke.limits import MAX_BUNDLES
from spoke.options import check_label_selector
from spoke.quantities import check_node_quantity
from spoke.util.placement_group import PlacementGroup

if TYPE_CHECKING:
    from spoke.client import Client

POLICIES: Final = ("gang", "member", "none")
FAIL_FAST_S: Final = 0.25  # for timeout=0: idle leases are given back meanwhile


def gang_allocate(
    num_nodes: int,
    actors_per_node: int,
    resources_per_actor: dict[str, float] | None = None,
    strict_pack: bool = True,
    master_node: str | None = None,
    name: str | None = None,
    timeout: float | None = None,
    pending_timeout: float | None = None,
    *,
    restart: str = "none",
    max_restarts: int = 3,
    window: float = 600.0,
    launch_timeout: float | None = None,
    lifetime: str | None = None,
    same: str | None = None,
    prefer: str | None = None,
    gpu_ids: Sequence[int | Sequence[int]] | None = None,
    label_selector: dict[str, str] | None = None,
) -> Gang:
    """Reserve slots for ``num_nodes * actors_per_node`` actors, all or none, and wait until they are there.

    Args:
        resources_per_actor: by name, default ``{"CPU": 1}``.
        strict_pack: True puts exactly `actors_per_node` slots on each of `num_nodes` different nodes; False
            lets the cluster split them anyhow, over few nodes.
        master_node: hexadecimal id of the node that rank 0 should be on, if it fits there.
        name: of the placement group, unique in the namespace.
        timeout: seconds to wait for the slots; 0 fails if they are not free now, None waits for ever.
        pending_timeout: seconds after which the hub itself gives up placing, whoever waits.
        restart: what the loss of a rank means.  "none": all others are stopped and the slots are given back;
            "gang": all others are stopped and all ranks are launched again in the same slots; "member": the
            lost rank alone restarts.
        max_restarts: restarts within `window` seconds before a loss is final; -1 has no limit.
        launch_timeout: seconds after which slots that nothing was launched in are given back.
        lifetime: None releases the gang when its creator ends; "detached" does not, its ranks are detached
            actors (give them names to find them again), and when its creator is gone the hub relaunches them.
        same: what the slots must share.  "nvlink", "numa": the GPUs of all slots that stand together
            (`actors_per_node` of them; without `strict_pack` all) are in one such domain; "node": all slots
            are on one node; else the key of a label of which all their nodes have one value.
        prefer: the same, as a wish: the closest that can be had, see `Gang.topology`.  Without it, GPUs that
            stand together are taken as close to each other as they are free.
        gpu_ids: the devices of each rank of a node by their indices there: per local rank a number, or a list
            where a rank has several.
        label_selector: labels that the nodes must have.

    Raises:
        ValueError: a number that is not positive, an amount that is not one, an unknown policy or name, or
            wishes that contradict each other.
        GetTimeoutError: the slots did not become free in time; nothing is reserved.
        ActorUnschedulableError: in that time no node could ever hold them; nothing is reserved.
    """
    resources = _check_resources(resources_per_actor)
    _check_counts(num_nodes, actors_per_node)
    _check_seconds(
        timeout=timeout, pending_timeout=pending_timeout, window=window, launch_timeout=launch_timeout
    )
    _check_policy(restart, max_restarts, lifetime)
    client = current.client or engine()
    counts = (num_nodes, actors_per_node)
    spec: dict[str, Any] = {
        **_placement(*counts, resources, strict_pack, same, prefer, gpu_ids, label_selector),
        "name": name or "",
        "namespace": client.namespace,
        "detached": lifetime == "detached",
        "target_node": _node_id(master_node),
        "gang": {
            "restart": restart,
            "max_restarts": max_restarts,
            "window_s": window,
            "pending_timeout_s": pending_timeout,
            "launch_timeout_s": launch_timeout,
        },
    }
    group = _create(client, spec)
    gang = Gang(client, group, restart, resources, detached=lifetime == "detached")
    _await_slots(gang, client, timeout)
    return gang


def _placement(
    num_nodes: int,
    actors_per_node: int,
    resources: dict[str, float],
    strict_pack: bool,
    same: str | None,
    prefer: str | None,
    gpu_ids: Sequence[int | Sequence[int]] | None,
    label_selector: dict[str, str] | None,
) -> dict[str, Any]:
    """The part of a spec that says where the slots may be."""
    for label, text in (("same", same), ("prefer", prefer)):
        if text is not None and (not isinstance(text, str) or not text):
            raise ValueError(f"{label} must be 'nvlink', 'numa', 'node' or the key of a label, not {text!r}")
    if label_selector is not None:
        check_label_selector(label_selector, "label_selector")
    if same in KINDS and not resources.get("GPU"):
        raise ValueError(f"same={same!r} is about GPUs, and resources_per_actor has none: {resources}")
    if same == NODE and strict_pack and num_nodes > 1:
        raise ValueError(f"same='node' contradicts {num_nodes} different nodes; pass strict_pack=False")
    devices = _check_gpu_ids(gpu_ids, resources.get("GPU", 0.0), actors_per_node, strict_pack)
    strategy = "PACK" if not strict_pack else "STRICT_PACK" if num_nodes == 1 else "STRICT_SPREAD"
    count = num_nodes * actors_per_node
    return {
        "bundles": [dict(resources) for _ in range(count)],
        "strategy": strategy,
        "per_node": actors_per_node if strategy == "STRICT_SPREAD" else 1,
        "selectors": [label_selector] * count if label_selector else None,
        "same": same or "",
        "prefer": prefer or "",
        "devices": devices * num_nodes if devices is not None else None,
    }


def _check_seconds(**given: float | None) -> None:
    for label, seconds in given.items():
        if seconds is not None and not 0 <= seconds < float("inf"):
            raise ValueError(f"{label} must be a number of seconds, not {seconds!r}")


def _check_policy(restart: str, max_restarts: int, lifetime: str | None) -> None:
    if restart not in POLICIES:
        raise ValueError(f"restart must be one of {', '.join(POLICIES)}, not {restart!r}")
    if isinstance(max_restarts, bool) or not isinstance(max_restarts, int) or max_restarts < -1:
        raise ValueError(f"max_restarts must be a count or -1, not {max_restarts!r}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime must be None or 'detached', not {lifetime!r}")


def _create(client: Client, spec: dict[str, Any]) -> PlacementGroup:
    group_id = client.hub.create_group(spec, True)  # the name may be taken
    return PlacementGroup(PlacementGroupID(group_id), spec["bundles"])


def _await_slots(gang: Gang, client: Client, timeout: float | None) -> None:
    """Wait until the gang is placed, or release it and say why it is not."""
    try:
        placed = client.hub.wait_group(gang._group_id, FAIL_FAST_S if timeout == 0 else timeout)
    except BaseException:  # an interrupt, too, must not leave a reservation that nobody knows of
        gang.release()
        raise
    if placed:
        return
    state, info = gang._info()
    reason = str(info.get("reason") or "")
    if state != "REMOVED":
        reason = str(client.request("why", id=gang._group_id))
        gang.release()
    text = f"a gang of {len(gang)} slots of {gang._resources} could not be reserved: {reason}"
    if "can never be placed" in reason:
        raise ActorUnschedulableError(text)
    raise GetTimeoutError(text)


def _check_counts(num_nodes: int, actors_per_node: int) -> None:
    for name, count in (("num_nodes", num_nodes), ("actors_per_node", actors_per_node)):
        if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
            raise ValueError(f"{name} must be a positive whole number, not {count!r}")
    if num_nodes * actors_per_node > MAX_BUNDLES:
        raise ValueError(f"a gang has at most {MAX_BUNDLES} slots, not {num_nodes * actors_per_node}")


def _check_resources(given: dict[str, float] | None) -> dict[str, float]:
    if given is None:
        return {"CPU": 1.0}
    try:
        amounts = {str(name): check_node_quantity(name, amount) for name, amount in given.items()}
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"resources_per_actor: {error}") from None
    amounts = {name: amount for name, amount in amounts.items() if amount > 0}
    if not amounts:
        raise ValueError(f"resources_per_actor must hold an amount above zero, not {given!r}")
    return amounts


def _check_gpu_ids(
    given: Sequence[int | Sequence[int]] | None, gpus: float, ranks: int, strict_pack: bool
) -> list[list[int]] | None:
    """The devices of each local rank."""
    if given is None:
        return None
    if not strict_pack:
        raise ValueError("gpu_ids name the devices of a node's ranks: they need strict_pack=True")
    try:
        listed = [[one] if isinstance(one, int) else list(one) for one in given]
    except TypeError:
        raise ValueError(f"gpu_ids must hold a number or a list of numbers per rank, not {given!r}") from None
    wanted = int(gpus) if gpus >= 1 else int(gpus > 0)
    if len(listed) != ranks or any(len(ids) != wanted for ids in listed):
        raise ValueError(
            f"gpu_ids must name {wanted} devices for each of {ranks} ranks of a node, not {given!r}"
        )
    flat = [index for ids in listed for index in ids]
    if not all(type(index) is int and index >= 0 for index in flat):
        raise ValueError(f"gpu_ids must be numbers of devices from 0 up, not {given!r}")
    most = max(flat.count(index) for index in flat)
    if most * min(gpus, 1.0) > 1 + 1e-9 or any(len(set(ids)) != len(ids) for ids in listed):
        raise ValueError(f"gpu_ids give a device to more ranks than it has room for: {given!r}")
    return listed


def _node_id(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise ValueError(f"master_node must be a node's hexadecimal id, not {text!r}") from None
