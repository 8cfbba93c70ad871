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
    from spoke.util.iterating import as_completed, map_unordered

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
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
    "as_completed": "iterating",
    "map_unordered": "iterating",
}
_MODULES = frozenset({
    "accelerators", "actor_group", "actor_pool", "annotations", "check_serialize", "collective", "debug",
    "helpers", "iterating", "joblib", "metrics", "multiprocessing", "queue", "scheduling_strategies",
    "serialization", "state", "timer", "tracing",
})  # fmt: skip

_logged: set[str] = set()


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
    raise AttributeError(f"module 'spoke.util' has no attribute {name!r}")


def get_node_ip_address(address: str | None = None) -> str:
    """The address of this node as the cluster's other nodes see it."""
    from spoke import current

    client = current.client
    if client is not None:
        return str(client.address[2])
    return _outward_address()


def _outward_address() -> str:
    """The address that this machine would use to reach others; nothing is sent for it."""
    import socket

    from spoke import config

    chosen = config.get("node_ip")
    if chosen:
        return str(chosen)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of living actors: texts, or with `all_namespaces` dicts of name and namespace."""
    from spoke.handles import engine

    client = engine()
    rows = client.request("list_named_actors", all_namespaces=all_namespaces, namespace=client.namespace)
    if all_namespaces:
        return [{"name": row["name"], "namespace": row["namespace"]} for row in rows]
    return [row["name"] for row in rows]


def register_serializer(cls: type, *, serializer: Any, deserializer: Any) -> None:
    """Pickle instances of `cls` as ``deserializer(serializer(value))``, in values made by this process.

    Raises:
        TypeError: `cls` is no class, or the functions cannot be called.
    """
    from spoke import codec

    if not isinstance(cls, type) or not callable(serializer) or not callable(deserializer):
        raise TypeError("register_serializer(cls, serializer=function, deserializer=function)")
    codec.register_reducer(cls, lambda value: (deserializer, (serializer(value),)))


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer`; unknown classes are ignored."""
    from spoke import codec

    codec.deregister_reducer(cls)


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: Any = None
) -> tuple[bool, set[Any]]:
    """Can it be serialized?  Prints and returns the innermost thing that cannot."""
    from spoke import codec

    try:
        codec.dumps(base_obj)
    except TypeError as error:
        print(f"{name or type(base_obj).__name__}: {error}", file=print_file)
        return False, {str(error)}
    return True, set()


def log_once(key: str) -> bool:
    """True the first time in this process for each key."""
    if key in _logged:
        return False
    _logged.add(key)
    return True


def get_node_instance_id() -> str:
    """The id of the cloud instance, from CLOUD_INSTANCE_ID; empty outside of clouds."""
    from spoke import config

    return str(config.get("cloud_instance_id") or "")
