"""Collective operations, bound into graphs or called by the members of a group."""

from __future__ import annotations

from typing import Any

from spoke import absent
from spoke.dag.constants import BIND_INDEX_KEY as BIND_INDEX_KEY
from spoke.dag.constants import COLLECTIVE_OPERATION_KEY
from spoke.dag.constants import IS_CLASS_METHOD_OUTPUT_KEY as IS_CLASS_METHOD_OUTPUT_KEY
from spoke.dag.constants import PARENT_CLASS_NODE_KEY as PARENT_CLASS_NODE_KEY
from spoke.dag.nodes import DAGNode
from spoke.experimental.util.types import AllGatherOp, AllReduceOp, ReduceOp, ReduceScatterOp
from spoke.util.collective.types import ReduceOp as RayReduceOp


def _bind(inputs: list[DAGNode], op: Any, transport: Any) -> list[DAGNode]:
    """One node per actor: its result of the operation on the inputs of all.

    Raises:
        ValueError, TypeError: as `spoke.dag.collective_node._CollectiveOperation`.
    """
    from spoke.dag.collective_node import CollectiveOutputNode, _CollectiveOperation

    operation = _CollectiveOperation(list(inputs), op, transport)
    name = type(op).__name__.removesuffix("Op").lower()
    return [
        CollectiveOutputNode(name, (node,), {}, {}, {COLLECTIVE_OPERATION_KEY: operation}) for node in inputs
    ]


class AllGatherWrapper:
    """`allgather`."""

    def bind(self, input_nodes: list[DAGNode], transport: Any = None) -> list[DAGNode]:
        """Per actor, a node whose value is the inputs of all, one after the other."""
        return _bind(input_nodes, AllGatherOp(), transport)

    def __call__(self, tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
        """As `spoke.util.collective.allgather`."""
        from spoke.util import collective

        collective.allgather(tensor_list, tensor, group_name)


class AllReduceWrapper:
    """`allreduce`."""

    def bind(
        self, input_nodes: list[DAGNode], op: ReduceOp = ReduceOp.SUM, transport: Any = None
    ) -> list[DAGNode]:
        """Per actor, a node whose value is the reduction of the inputs of all."""
        return _bind(input_nodes, AllReduceOp(op), transport)

    def __call__(self, tensor: Any, group_name: str = "default", op: RayReduceOp = RayReduceOp.SUM) -> None:
        """As `spoke.util.collective.allreduce`."""
        from spoke.util import collective

        collective.allreduce(tensor, group_name, op)


class ReduceScatterWrapper:
    """`reducescatter`."""

    def bind(
        self, input_nodes: list[DAGNode], op: ReduceOp = ReduceOp.SUM, transport: Any = None
    ) -> list[DAGNode]:
        """Per actor, a node whose value is its part of the reduction of the inputs of all."""
        return _bind(input_nodes, ReduceScatterOp(op), transport)

    def __call__(
        self,
        tensor: Any,
        tensor_list: list[Any],
        group_name: str = "default",
        op: RayReduceOp = RayReduceOp.SUM,
    ) -> None:
        """As `spoke.util.collective.reducescatter`."""
        from spoke.util import collective

        collective.reducescatter(tensor, tensor_list, group_name, op)


allgather = AllGatherWrapper()
allreduce = AllReduceWrapper()
reducescatter = ReduceScatterWrapper()

__getattr__ = absent.getter(__name__)
