"""Names of `ray._private.state`: what nodes, actors and placement groups there are."""

from __future__ import annotations

import time
from typing import Any

import spoke
from spoke.api import connected
from spoke.util.placement_group import PlacementGroup, placement_group_table


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


def actors(actor_id: str | None = None) -> dict[str, Any]:
    """The row of one actor, by its hexadecimal id; or those of all, by it."""
    from spoke.util.state import get_actor, list_actors

    if actor_id is not None:
        row = get_actor(actor_id)
        return {} if row is None else _actor_row(row)
    return {row.actor_id: _actor_row(row) for row in list_actors(detail=True, limit=10_000)}


def _actor_row(row: Any) -> dict[str, Any]:
    return {
        "ActorID": row.actor_id,
        "ActorClassName": row.class_name,
        "Name": row.name,
        "JobID": row.job_id,
        "State": row.state,
        "NumRestarts": int(row.num_restarts or 0),
        "Pid": row.pid,
    }


def jobs() -> list[dict[str, Any]]:
    """One row for each driver that connected, the first first; times in milliseconds, 0 while it runs."""
    now = time.time()
    found = []
    for row in connected().request("jobs"):
        start = int(1000 * (now - row["age_s"]))
        end = 0 if row["running"] else start + int(1000 * row["ran_s"])
        found.append({
            "JobID": bytes(row["job_id"]).hex(), "DriverIPAddress": row["ip"], "DriverPid": row["pid"],
            "Timestamp": end or start, "StartTime": start, "EndTime": end, "IsDead": not row["running"],
            "Entrypoint": row["entrypoint"],
        })  # fmt: skip
    return found


class GlobalState:
    """What `ray._private.state.state` is."""

    def placement_group_table(self, placement_group_id: Any = None) -> dict[str, Any]:
        """The entry of one placement group, by its id; or all of them, by hexadecimal id."""
        if placement_group_id is None:
            return placement_group_table()
        return placement_group_table(PlacementGroup(placement_group_id))

    def job_table(self) -> list[dict[str, Any]]:
        """As the function `jobs` of this module."""
        return jobs()

    def actor_table(self, actor_id: str | None = None) -> dict[str, Any]:
        """As the function `actors` of this module."""
        return actors(actor_id)

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

    def get_system_config(self) -> dict[str, Any]:
        """Settings of Ray's own daemons: there are none."""
        return {}


state = GlobalState()
