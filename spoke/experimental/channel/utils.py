"""Which actor this is, and who is on its node."""

from __future__ import annotations

from typing import Any

from spoke import absent, api
from spoke.runtime_context import get_runtime_context


def get_self_actor() -> Any:
    """The handle of the actor that runs here, or None in a driver."""
    context = get_runtime_context()
    return context.current_actor if context.get_actor_id() else None


def get_actor_node(actor: Any) -> str:
    """The id of the node that an actor is on, in hex; None stands for this process."""
    if actor is None or actor == get_self_actor():
        return get_runtime_context().get_node_id()
    found: str = api.get(actor.__ray_call__.remote(_own_node))
    return found


def _own_node(instance: Any) -> str:
    return get_runtime_context().get_node_id()


def split_readers_by_locality(
    writer: Any, reader_and_node_list: list[tuple[Any, str]]
) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]]]:
    """Readers in other processes than the writer's, and those in its own."""
    others = [(reader, node) for reader, node in reader_and_node_list if reader != writer]
    return others, [(reader, node) for reader, node in reader_and_node_list if reader == writer]


def split_actors_by_node_locality(
    node: str, actor_and_node_list: list[tuple[Any, str]]
) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]]]:
    """Actors on the node, and those on others."""
    local = [(actor, where) for actor, where in actor_and_node_list if where == node]
    return local, [(actor, where) for actor, where in actor_and_node_list if where != node]


__getattr__ = absent.getter(__name__)
