"""Graphs of calls: `bind` describes a call, `execute` makes it, `experimental_compile` keeps actors linked.

A compiled graph runs over links of its own between the processes of its actors, so that an execution
passes from actor to actor without its driver in between; between executions everybody sleeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke import absent
from spoke.dag import nodes
from spoke.dag.context import DAGContext
from spoke.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    DAGInputData,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)

if TYPE_CHECKING:
    from spoke.dag.compiled import CompiledDAG, CompiledDAGFuture, CompiledDAGRef

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "CompiledDAGFuture",
    "CompiledDAGRef",
    "DAGContext",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]


def _compile(*given: Any) -> CompiledDAG:
    from spoke.dag.compiled import compile_graph

    return compile_graph(*given)


nodes.compiler = _compile


def __getattr__(name: str) -> Any:
    if name in ("CompiledDAG", "CompiledDAGFuture", "CompiledDAGRef"):
        from spoke.dag import compiled

        return getattr(compiled, name)
    return absent.resolve(__name__, name)
