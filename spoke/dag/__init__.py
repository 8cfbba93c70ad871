"""Graphs of calls: `bind` describes a call, `execute` makes it, `experimental_compile` keeps actors linked.

A compiled graph runs over links of its own between the processes of its actors, so that an execution
passes from actor to actor without its driver in between; between executions everybody sleeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke import absent
from spoke.dag import nodes
from spoke.dag.constants import (
    BIND_INDEX_KEY,
    COLLECTIVE_OPERATION_KEY,
    DAGNODE_TYPE_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from spoke.dag.context import DAGContext
from spoke.dag.input_node import DAGInputData, InputAttributeNode, InputNode
from spoke.dag.nodes import ClassMethodNode, ClassNode, DAGNode, FunctionNode, MultiOutputNode

if TYPE_CHECKING:
    from spoke.dag.collective_node import CollectiveOutputNode
    from spoke.dag.compiled import CompiledDAG, CompiledDAGFuture, CompiledDAGRef
    from spoke.dag.dag_operation_future import DAGOperationFuture, GPUFuture
    from spoke.dag.vis_utils import plot

__all__ = [
    "BIND_INDEX_KEY",
    "COLLECTIVE_OPERATION_KEY",
    "DAGNODE_TYPE_KEY",
    "IS_CLASS_METHOD_OUTPUT_KEY",
    "PARENT_CLASS_NODE_KEY",
    "PREV_CLASS_METHOD_CALL_KEY",
    "ClassMethodNode",
    "ClassNode",
    "CollectiveOutputNode",
    "CompiledDAG",
    "CompiledDAGFuture",
    "CompiledDAGRef",
    "DAGContext",
    "DAGInputData",
    "DAGNode",
    "DAGOperationFuture",
    "FunctionNode",
    "GPUFuture",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "plot",
]

_PLACES = {
    "CollectiveOutputNode": "collective_node",
    "CompiledDAG": "compiled",
    "CompiledDAGFuture": "compiled",
    "CompiledDAGRef": "compiled",
    "DAGOperationFuture": "dag_operation_future",
    "GPUFuture": "dag_operation_future",
    "plot": "vis_utils",
}


def _compile(*given: Any, **told: Any) -> CompiledDAG:
    from spoke.dag.compiled import compile_graph

    return compile_graph(*given, **told)


def _hint(*told: Any) -> Any:
    from spoke.dag.hints import chosen

    return chosen(*told)


def _remote(body: Any) -> Any:
    from spoke import api

    return api.remote(body)


nodes.compiler = _compile
nodes.hinter = _hint
nodes.remoter = _remote


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        return absent.resolve(__name__, name)
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{place}"), name)
