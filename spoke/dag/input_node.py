"""What an execution of a graph is given: ``with InputNode() as inp: graph = actor.method.bind(inp)``.

``inp[0]`` and ``inp.name`` stand for one of several arguments, or a part of the only one.
"""

from __future__ import annotations

from typing import Any, Final

from spoke import absent
from spoke.dag.nodes import DAGInputData as DAGInputData
from spoke.dag.nodes import DAGNode as DAGNode
from spoke.dag.nodes import Execution, input_attribute

__all__ = ["DAGInputData", "InputAttributeNode", "InputNode"]

IN_CONTEXT_MANAGER: Final = "__in_context_manager__"


class InputNode(DAGNode):
    """The input of a graph.

    Args:
        input_type: the type of the only argument, or a dict of types by position and name; told by
            `get_result_type`.
    """

    is_input = True

    def __init__(
        self,
        *args: Any,
        input_type: type | dict[int | str, type] | None = None,
        _other_args_to_resolve: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if args or kwargs:
            raise ValueError("InputNode should not take any args or kwargs.")
        super().__init__((), {}, {}, _other_args_to_resolve)
        self.input_type = input_type

    def __enter__(self) -> InputNode:
        self.set_context(IN_CONTEXT_MANAGER, True)
        return self

    def __exit__(self, *failure: Any) -> None:
        return None

    def set_context(self, key: str, val: Any) -> None:
        """Note something about the graph that is being made, among `get_other_args_to_resolve`."""
        self._other[key] = val

    def get_result_type(self) -> str | None:
        """The name of the type of the only argument, if it was told."""
        return self.input_type.__name__ if isinstance(self.input_type, type) else None

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        if not isinstance(key, (int, str)):
            raise AssertionError(
                "Please only use int index or str as first-level key to access fields of dag input."
            )
        return InputAttributeNode(self, key, "__getitem__", self._type_of(key))

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(f"'InputNode' object has no attribute '{name}'")
        return InputAttributeNode(self, name, "__getattr__")

    def _type_of(self, key: int | str) -> str | None:
        told = self.input_type.get(key) if isinstance(self.input_type, dict) else None
        return None if told is None else told.__name__

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        if IN_CONTEXT_MANAGER not in self._other:
            raise AssertionError(
                "InputNode is a singleton instance that should be only used in context manager for dag "
                "building and execution: 'with InputNode() as dag_input:'."
            )
        return execution.input_of(self)


class InputAttributeNode(DAGNode):
    """A part of the input.

    Args:
        accessor_method: "__getitem__" or "__getattr__": how it is taken of an only argument.
        input_type: the name of its type, if it was told.
    """

    def __init__(
        self,
        dag_input_node: InputNode,
        key: int | str,
        accessor_method: str,
        input_type: str | None = None,
    ) -> None:
        super().__init__((), {}, {}, {
            "dag_input_node": dag_input_node,
            "key": key,
            "accessor_method": accessor_method,
            "result_type_string": input_type,
        })  # fmt: skip
        self.by_item = accessor_method == "__getitem__"

    @property
    def key(self) -> int | str:
        """The position or name."""
        found: int | str = self._other["key"]
        return found

    def get_result_type(self) -> str | None:
        """The name of its type, if it was told."""
        told: str | None = self._other["result_type_string"]
        return told

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        return input_attribute(execution.input, self.key, self.by_item)


__getattr__ = absent.getter(__name__)
