"""Collective operations as nodes: every actor's part of a reduction, within a compiled graph.

`spoke.experimental.collective` binds them.  Each actor gets the values of all over the graph's own links
and combines them itself, so nothing has to be set up beside the graph.
"""

from __future__ import annotations

import functools
from typing import Any

from spoke import absent
from spoke.dag.constants import COLLECTIVE_OPERATION_KEY, PARENT_CLASS_NODE_KEY
from spoke.dag.nodes import ClassMethodNode, DAGNode, Execution
from spoke.experimental.util.types import (
    AllGatherOp,
    AllReduceOp,
    ReduceOp,
    ReduceScatterOp,
    _CollectiveOp,
)


class _CollectiveOperation:
    """One operation: its inputs, one per actor, and what is done with them.

    Raises:
        ValueError: no inputs, two of one actor, an unknown operation, or a communicator of other actors.
        TypeError: an input is no call of an actor's method.
    """

    def __init__(self, inputs: list[DAGNode], op: _CollectiveOp, transport: Any = None) -> None:
        if not inputs:
            raise ValueError("Expected input nodes for a collective operation")
        for node in inputs:
            if not isinstance(node, ClassMethodNode):
                raise TypeError(f"Expected the call of an actor's method as an input, not {node!r}")
        actors = [node.actor for node in inputs]
        if any(actor in actors[:number] for number, actor in enumerate(actors)):
            raise ValueError(
                "Expected unique actor handles, but found duplicate actor handles from input nodes: "
                f"{list(inputs)}"
            )
        kind = getattr(op, "reduceOp", ReduceOp.SUM)
        if not isinstance(op, (AllGatherOp, AllReduceOp, ReduceScatterOp)) or not isinstance(kind, ReduceOp):
            raise ValueError(f"Unexpected operation: {kind if isinstance(op, AllReduceOp) else op}")
        if transport is not None and not isinstance(transport, str):
            members = transport.get_actor_handles()
            if len(members) != len(actors) or any(actor not in actors for actor in members):
                raise ValueError("Expected actor handles to match the communicator's")
        self.inputs = inputs
        self.op = op
        self.actor_handles = actors


class CollectiveOutputNode(ClassMethodNode):
    """One actor's result of a collective operation; only in a compiled graph."""

    def __init__(
        self,
        method_name: str,
        method_args: tuple[Any, ...],
        method_kwargs: dict[str, Any],
        method_options: dict[str, Any],
        other_args_to_resolve: dict[str, Any],
    ) -> None:
        operation = other_args_to_resolve[COLLECTIVE_OPERATION_KEY]
        other = {PARENT_CLASS_NODE_KEY: method_args[0].actor, **other_args_to_resolve}
        super().__init__(method_name, method_args, method_kwargs, method_options, other)
        self._operation = operation

    @property
    def collective_op(self) -> _CollectiveOperation:
        """The operation that it is a part of."""
        found: _CollectiveOperation = self._operation
        return found

    def children(self) -> Any:
        """The inputs of all actors."""
        yield from self._operation.inputs

    def work(self) -> Combine:
        """What the actor does with the inputs of all, in the order of actors."""
        return Combine(self._operation.op, self._operation.inputs.index(self.get_args()[0]))

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        raise NotImplementedError("CollectiveOutputNode is only supported with dag.experimental_compile()")

    def __repr__(self) -> str:
        return f"CollectiveOutputNode({self._name})"


class Combine:
    """One actor's part of an operation, on the tensors of all; on each part of tuples of tensors."""

    def __init__(self, op: _CollectiveOp, rank: int) -> None:
        self._op = op
        self._rank = rank

    def __call__(self, *values: Any) -> Any:
        """The result for this actor.

        Raises:
            ValueError: the tensors do not fit together, or cannot be cut into equal parts.
        """
        if isinstance(values[0], tuple):
            return tuple(self._combined(list(part)) for part in zip(*values, strict=True))
        return self._combined(list(values))

    def _combined(self, tensors: list[Any]) -> Any:
        if isinstance(self._op, AllGatherOp):
            return _joined(tensors)
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise ValueError(f"Expected tensors of one shape, but got {sorted(shapes)}")
        assert isinstance(self._op, (AllReduceOp, ReduceScatterOp))
        whole = reduced(self._op.reduceOp, tensors)
        if isinstance(self._op, AllReduceOp):
            return whole
        size, count = whole.shape[0], len(tensors)
        if size % count:
            raise ValueError(
                "Expected the first dimension to be divisible by the number of actors "
                f"{count}, but got {size}"
            )
        return whole[self._rank * size // count : (self._rank + 1) * size // count]


def _joined(tensors: list[Any]) -> Any:
    """One after the other along the first dimension."""
    if hasattr(tensors[0], "new_empty"):
        import torch

        return torch.cat(tensors)
    import numpy

    return numpy.concatenate(tensors)


def reduced(op: ReduceOp, tensors: list[Any]) -> Any:
    """The reduction of tensors or arrays, element by element."""
    if op in (ReduceOp.SUM, ReduceOp.AVG):
        whole = functools.reduce(lambda one, other: one + other, tensors)
        return whole / len(tensors) if op is ReduceOp.AVG else whole
    if op is ReduceOp.PRODUCT:
        return functools.reduce(lambda one, other: one * other, tensors)
    if hasattr(tensors[0], "new_empty"):
        import torch

        return functools.reduce(torch.maximum if op is ReduceOp.MAX else torch.minimum, tensors)
    import numpy

    return functools.reduce(numpy.maximum if op is ReduceOp.MAX else numpy.minimum, tensors)


__getattr__ = absent.getter(__name__)
