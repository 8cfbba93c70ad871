"""Values with nodes inside of lists, tuples and dicts, and walks over all nodes that lead to one.

Walks are loops, not recursion: chains of nodes can be long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoke.dag.nodes import DAGNode

node_type: Any = None  # `DAGNode`, which is built upon these functions; set by its module


def nodes_in(value: Any) -> Iterator[DAGNode]:
    """The nodes inside, in order."""
    if isinstance(value, node_type):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from nodes_in(item)


def replaced(value: Any, by: Callable[[DAGNode], Any]) -> Any:
    """`value` with what each node inside stands for."""
    if isinstance(value, node_type):
        return by(value)
    if type(value) in (list, tuple) and next(nodes_in(value), None) is not None:
        return type(value)(replaced(item, by) for item in value)
    if type(value) is dict and next(nodes_in(value), None) is not None:
        return {key: replaced(item, by) for key, item in value.items()}
    return value


def upstream_first(root: DAGNode) -> Iterator[DAGNode]:
    """`root` and all that lead to it, each once, after those it takes from."""
    seen: set[str] = set()
    waiting: list[tuple[DAGNode, bool]] = [(root, False)]
    while waiting:
        node, entered = waiting.pop()
        if entered:
            yield node
        elif node.get_stable_uuid() not in seen:
            seen.add(node.get_stable_uuid())
            waiting.append((node, True))
            waiting.extend((child, False) for child in reversed(list(node.children())))


def downstream_first(root: DAGNode) -> Iterator[DAGNode]:
    """`root` and all that lead to it, each once, the nearest first."""
    seen = {root.get_stable_uuid()}
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        yield node
        for child in node.children():
            if child.get_stable_uuid() not in seen:
                seen.add(child.get_stable_uuid())
                waiting.append(child)
