"""Helpers on top of the public functions: placement groups, pools, queues, lookups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from spoke.util.actor_pool import ActorPool
    from spoke.util.check_serialize import inspect_serializability
    from spoke.util.client import connect, disconnect
    from spoke.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from spoke.util.iterating import as_completed, map_unordered
    from spoke.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "connect",
    "deregister_serializer",
    "disable_log_once_globally",
    "disconnect",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]

_LAZY = {
    "ActorPool": "actor_pool",
    "connect": "client",
    "deregister_serializer": "serialization",
    "disable_log_once_globally": "debug",
    "disconnect": "client",
    "enable_periodic_logging": "debug",
    "inspect_serializability": "check_serialize",
    "log_once": "debug",
    "register_serializer": "serialization",
    "as_completed": "iterating",
    "map_unordered": "iterating",
}
_MODULES = frozenset({
    "accelerators", "actor_group", "actor_pool", "annotations", "check_serialize", "client", "collective",
    "debug", "helpers", "iter", "iter_metrics", "iterating", "joblib", "metrics", "multiprocessing", "queue",
    "scheduling_strategies", "serialization", "state", "timer", "tracing",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    import importlib

    module = _LAZY.get(name)
    if module is not None:
        value = getattr(importlib.import_module(f"spoke.util.{module}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        try:
            return importlib.import_module(f"spoke.util.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"spoke.util.{name}":
                raise
    from spoke import absent

    return absent.resolve(__name__, name)


def get_node_ip_address(address: str | None = None) -> str:
    """The address by which programs know this node, connected to a cluster or not."""
    from spoke import current, machine

    client = current.client
    return machine.known_address("" if client is None else str(client.address[2]))


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of living actors: texts, or with `all_namespaces` dicts of name and namespace."""
    from spoke.handles import engine

    client = engine()
    rows = client.request("list_named_actors", all_namespaces=all_namespaces, namespace=client.namespace)
    if all_namespaces:
        return [{"name": row["name"], "namespace": row["namespace"]} for row in rows]
    return [row["name"] for row in rows]


def get_node_instance_id() -> str:
    """The id of the cloud instance, from CLOUD_INSTANCE_ID; empty outside of clouds."""
    from spoke import config

    return str(config.get("cloud_instance_id") or "")
