"""Names of `ray._private.state`: what nodes, jobs, processes, actors and placement groups there are."""

from __future__ import annotations

from typing import Any

import spoke
from spoke.util import state as _lists
from spoke.util.placement_group import PlacementGroup, get_placement_group, placement_group_table

_ALL = 10_000  # rows of a list
_HEAD = "node:__internal_head__"


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """Resources that nobody holds, by name, by the hexadecimal id of each living node."""
    return {node["NodeID"]: dict(node["Available"]) for node in spoke.nodes() if node["Alive"]}


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """All resources, by name, by the hexadecimal id of each living node."""
    return {node["NodeID"]: dict(node["Resources"]) for node in spoke.nodes() if node["Alive"]}


nodes = spoke.nodes
cluster_resources = spoke.cluster_resources
available_resources = spoke.available_resources
timeline = spoke.timeline


def node_ids() -> list[str]:
    """The resource ``node:<address>`` of each living node."""
    return [name for one in total_resources_per_node().values() for name in one if _is_node(name)]


def current_node_id() -> str:
    """The resource ``node:<address>`` of the node that this process runs on."""
    mine = total_resources_per_node()[spoke.get_runtime_context().get_node_id()]
    return next(name for name in mine if _is_node(name))


def _is_node(name: str) -> bool:
    return name.startswith("node:") and name != _HEAD


def jobs() -> list[dict[str, Any]]:
    """The drivers' runs, the latest last."""
    spoke.nodes()  # raises where there is no cluster; the lists would look for one
    found = []
    for row in _lists.list_jobs(detail=True, limit=_ALL):
        if row.type == "DRIVER":
            driver, begin, end = row.driver_info or {}, row.start_time or 0, row.end_time or 0
            found.append({
                "JobID": row.job_id,
                "DriverIPAddress": driver.get("node_ip_address", ""),
                "DriverPid": int(driver.get("pid") or 0),
                "Timestamp": end or begin,
                "StartTime": begin,
                "EndTime": end,
                "IsDead": row.status != "RUNNING",
                "Entrypoint": row.entrypoint,
            })  # fmt: skip
    return found


def workers() -> dict[str, Any]:
    """Worker processes that were started, by their hexadecimal ids."""
    spoke.nodes()
    rows = _lists.list_workers(detail=True, limit=_ALL)
    return {
        row.worker_id: {"node_ip_address": row.ip, "pid": str(row.pid)}
        for row in rows
        if row.worker_type == "WORKER"
    }


def actors(
    actor_id: str | None = None, job_id: Any = None, actor_state_name: str | None = None
) -> dict[str, Any]:
    """The row of one actor, by its hexadecimal id, or {}; or those of all, by it.

    Args:
        job_id: only the actors of this job (a `JobID`).
        actor_state_name: only those in this state.

    Raises:
        ValueError: there is no such state.
    """
    _check_state(actor_state_name)
    hosts = {node["NodeID"]: node for node in spoke.nodes()}
    if actor_id is not None:
        row = _lists.get_actor(actor_id)
        return {} if row is None else _actor_row(row, hosts)
    rows = _lists.list_actors(detail=True, limit=_ALL)
    return {
        row.actor_id: _actor_row(row, hosts)
        for row in rows
        if (job_id is None or row.job_id == job_id.hex()) and actor_state_name in (None, row.state)
    }


def _check_state(name: str | None) -> None:
    from ray._private.gcs_utils import ActorTableData

    known = ActorTableData.ActorState.keys()
    if name is not None and name not in known:
        raise ValueError(f'"{name}" is not a valid actor state name, it must be one of {", ".join(known)}')


def _actor_row(row: Any, hosts: dict[str, Any]) -> dict[str, Any]:
    return {
        "ActorID": row.actor_id,
        "ActorClassName": row.class_name,
        "IsDetached": bool(row.is_detached),
        "Name": row.name,
        "JobID": row.job_id,
        "Address": _address(row.node_id, hosts),
        "State": row.state,
        "NumRestarts": int(row.num_restarts or 0),
        "DeathCause": row.death_cause,
        "Pid": row.pid or 0,
    }


def _address(node_id: str | None, hosts: dict[str, Any]) -> dict[str, Any]:
    host = hosts.get(node_id or "", {})
    return {"IPAddress": host.get("NodeManagerAddress", ""), "Port": 0, "NodeID": node_id or "ff" * 28}


class GlobalState:
    """What `ray._private.state.state` is."""

    def placement_group_table(self, placement_group_id: Any = None) -> dict[str, Any]:
        """The entry of one placement group, by its id; or all of them, by hexadecimal id."""
        if placement_group_id is None:
            return placement_group_table()
        return placement_group_table(PlacementGroup(placement_group_id))

    def get_placement_group_by_name(
        self, placement_group_name: str, ray_namespace: str
    ) -> dict[str, Any] | None:
        """The entry of a placement group of this driver's namespace, or None; also for another namespace."""
        if ray_namespace not in ("", spoke.get_runtime_context().namespace):
            return None  # names of other namespaces are not looked up from here
        try:
            return placement_group_table(get_placement_group(placement_group_name))
        except ValueError:
            return None

    def actor_table(
        self, actor_id: str | None, job_id: Any = None, actor_state_name: str | None = None
    ) -> dict[str, Any]:
        """As `actors`."""
        return actors(actor_id, job_id, actor_state_name)

    def job_table(self) -> list[dict[str, Any]]:
        """As `jobs`."""
        return jobs()

    def workers(self) -> dict[str, Any]:
        """As the function of this module."""
        return workers()

    def node_table(self) -> list[dict[str, Any]]:
        """As `ray.nodes`."""
        return list(spoke.nodes())

    def cluster_resources(self) -> dict[str, float]:
        """As `ray.cluster_resources`."""
        return spoke.cluster_resources()

    def available_resources(self) -> dict[str, float]:
        """As `ray.available_resources`."""
        return spoke.available_resources()

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        """As the function of this module."""
        return available_resources_per_node()

    _available_resources_per_node = available_resources_per_node

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        """As the function of this module."""
        return total_resources_per_node()

    _total_resources_per_node = total_resources_per_node

    def get_draining_nodes(self) -> dict[str, int]:
        """Nodes that are being emptied: none, as a node of Spoke is there or gone."""
        return {}

    def get_system_config(self) -> dict[str, Any]:
        """Settings of Ray's own daemons: there are none."""
        return {}


state = GlobalState()
