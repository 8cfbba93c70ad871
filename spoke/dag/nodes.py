"""The nodes of a graph, and their execution by ordinary calls.

Nodes are plain descriptions: nothing runs before `execute` or `experimental_compile`.  A node that two
others use runs once per execution; so does the constructor of a `ClassNode`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from spoke.dag.compiled import CompiledDAG
    from spoke.handles import ActorClass, ActorHandle, ActorMethod, RemoteFunction


compiler: Any = None  # makes a `CompiledDAG` of a node; it needs calls, which need the nodes here


class DAGInputData:
    """The arguments of an execution, where they are not a single one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = args
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        return self._args[key] if isinstance(key, int) else self._kwargs[key]


def input_value(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an `InputNode` stands for in an execution with these arguments."""
    return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)


def input_attribute(value: Any, key: int | str, by_item: bool) -> Any:
    """What an `InputAttributeNode` stands for."""
    if isinstance(value, DAGInputData):
        return value[key]
    return value[key] if by_item else getattr(value, str(key))


class DAGNode:
    """One node; `bind` makes them."""

    def __init__(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._args = args
        self._kwargs = kwargs or {}
        self._options = options or {}
        self._uuid = uuid.uuid4().hex

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"'{type(self).__name__}' object is not callable")

    def __reduce__(self) -> Any:
        raise TypeError("A node of a graph cannot be serialized: pass what `execute` returns instead.")

    # -- what others look at

    def get_args(self) -> tuple[Any, ...]:
        """Positional arguments as bound: values and nodes."""
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        """Keyword arguments as bound."""
        return dict(self._kwargs)

    def get_options(self) -> dict[str, Any]:
        """Options given before `bind`."""
        return dict(self._options)

    def get_stable_uuid(self) -> str:
        """An id for life."""
        return self._uuid

    def children(self) -> Iterator[DAGNode]:
        """Nodes that this one takes values from, in the order of its arguments."""
        yield from _nodes_in([*self._args, *self._kwargs.values()])

    def with_tensor_transport(self, *args: Any, **kwargs: Any) -> DAGNode:
        """Ray's hint how tensors travel between actors; they take Spoke's own way here."""
        return self

    # -- running

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make all calls that lead to this node; returns its ref, the handle, or a list of refs.

        Args:
            args, kwargs: what the graph's `InputNode` stands for.
        """
        return Execution(args, kwargs).of(self)

    def experimental_compile(
        self,
        _submit_timeout: float | None = None,
        _buffer_size_bytes: int | None = None,
        enable_asyncio: bool = False,
        _max_inflight_executions: int | None = None,
        _max_buffered_results: int | None = None,
        _overlap_gpu_communication: bool | None = None,
        _default_communicator: Any = "create",
    ) -> CompiledDAG:
        """Wire the actors of this graph once, for many executions.

        Args:
            enable_asyncio: the graph is used by `execute_async` instead of `execute`.
            _max_inflight_executions: executions whose results were not taken yet, at most.
            others: see `DAGContext`; those about GPUs say nothing here.

        Raises:
            TypeError: a node is not a call of an actor's method.
            ValueError: an actor does not exist yet, or a call takes neither the input nor another node.
        """
        assert compiler is not None, "set by the package"
        return compiler(  # type: ignore[no-any-return]
            self, enable_asyncio, _buffer_size_bytes, _max_inflight_executions
        )

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be executed")


class Execution:
    """One execution by ordinary calls: what each node has become."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.input = input_value(args, kwargs)
        self._done: dict[str, Any] = {}

    def of(self, node: DAGNode) -> Any:
        """The ref, handle or value of a node."""
        waiting = [node]
        while waiting:  # a loop, not recursion: chains of nodes can be long
            current = waiting[-1]
            missing = [child for child in current.children() if child._uuid not in self._done]
            if missing:
                waiting.extend(missing)
                continue
            waiting.pop()
            if current._uuid not in self._done:
                args = tuple(self._filled(value) for value in current._args)
                kwargs = {name: self._filled(value) for name, value in current._kwargs.items()}
                self._done[current._uuid] = current._run(args, kwargs, self)
        return self._done[node._uuid]

    def _filled(self, value: Any) -> Any:
        return _replaced(value, lambda node: self._done[node._uuid])


class FunctionNode(DAGNode):
    """A call of a remote function."""

    def __init__(self, function: RemoteFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return self._function.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"FunctionNode({self._function!r})"


class ClassNode(DAGNode):
    """An actor that each execution makes; its methods have ``bind``."""

    def __init__(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._cls = cls
        self._last: DAGNode | None = None  # calls of one actor keep the order of `bind`

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._cls._described().methods:
            raise AttributeError(f"'ClassNode' object has no attribute '{name}'")
        return _UnboundMethod(self, name)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return self._cls.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"ClassNode({self._cls!r})"


class _UnboundMethod:
    """A method of an actor that is not there yet."""

    def __init__(self, actor: ClassNode, name: str, options: dict[str, Any] | None = None) -> None:
        self._actor = actor
        self._name = name
        self._options = options or {}

    def options(self, **options: Any) -> _UnboundMethod:
        return _UnboundMethod(self._actor, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call of this method, after those bound before."""
        return ClassMethodNode(self._actor, self._name, None, args, kwargs, self._options)


class ClassMethodNode(DAGNode):
    """A call of a method, of an actor that exists or of a `ClassNode`."""

    def __init__(
        self, actor: ClassNode | ActorHandle, name: str, method: ActorMethod | None,
        args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(args, kwargs, options)
        self.actor = actor
        self.method = method
        self._name = name
        self._before: DAGNode | None = None
        if isinstance(actor, ClassNode):
            self._before, actor._last = actor._last, self

    def get_method_name(self) -> str:
        """The name of the method."""
        return self._name

    def children(self) -> Iterator[DAGNode]:
        if isinstance(self.actor, ClassNode):
            yield self.actor
            if self._before is not None:
                yield self._before
        yield from super().children()

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        method = self.method
        if method is None:
            method = getattr(execution.of(self.actor), self._name)  # type: ignore[arg-type]
            assert method is not None
            method = method.options(**self._options) if self._options else method
        return method.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"ClassMethodNode({self._name})"


class OutputNode(DAGNode):
    """One of several values that a method returns."""

    def __init__(self, call: ClassMethodNode, index: int) -> None:
        super().__init__((call,))
        self.call = call
        self.index = index

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return args[0][self.index]


class InputNode(DAGNode):
    """What an execution is given: ``with InputNode() as inp: graph = actor.method.bind(inp)``.

    ``inp[0]`` and ``inp.name`` stand for one of several arguments, or a part of the only one.
    """

    def __init__(self, *, input_type: Any = None) -> None:
        super().__init__()
        self.input_type = input_type

    def __enter__(self) -> InputNode:
        return self

    def __exit__(self, *failure: Any) -> None:
        return None

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        if not isinstance(key, (int, str)):
            raise ValueError(
                "Please only use int index or str as first-level key to access fields of dag input."
            )
        return InputAttributeNode(self, key, True)

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(f"'InputNode' object has no attribute '{name}'")
        return InputAttributeNode(self, name, False)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return execution.input


class InputAttributeNode(DAGNode):
    """A part of the input."""

    def __init__(self, source: InputNode, key: int | str, by_item: bool) -> None:
        super().__init__((source,))
        self.key = key
        self.by_item = by_item

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return input_attribute(execution.input, self.key, self.by_item)


class MultiOutputNode(DAGNode):
    """Several nodes as one output: `execute` returns the list of their refs.

    Raises:
        ValueError: something in `args` is no node.
    """

    def __init__(self, args: list[DAGNode] | tuple[DAGNode, ...]) -> None:
        if not isinstance(args, (list, tuple)):
            raise ValueError(f"Invalid input type for `args`, {type(args)}: give a list of nodes.")
        for node in args:
            if not isinstance(node, DAGNode):
                raise ValueError(f"MultiOutputNode takes nodes, not {node!r}.")
        super().__init__(tuple(args))

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], execution: Execution) -> Any:
        return list(args)


# -- values with nodes inside --------------------------------------------------------------------------


def _nodes_in(value: Any) -> Iterator[DAGNode]:
    if isinstance(value, DAGNode):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _nodes_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _nodes_in(item)


def _replaced(value: Any, by: Callable[[DAGNode], Any]) -> Any:
    """`value` with what each node inside of lists, tuples and dicts stands for."""
    if isinstance(value, DAGNode):
        return by(value)
    if type(value) in (list, tuple) and next(_nodes_in(value), None) is not None:
        return type(value)(_replaced(item, by) for item in value)
    if type(value) is dict and next(_nodes_in(value), None) is not None:
        return {key: _replaced(item, by) for key, item in value.items()}
    return value


# -- what `bind` makes ---------------------------------------------------------------------------------


def bind_method(
    actor: ActorHandle, method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A node, or a tuple of nodes for a method of several returns."""
    node = ClassMethodNode(actor, method._name, method, args, kwargs)
    count = method._num_returns
    return tuple(OutputNode(node, index) for index in range(count)) if count > 1 else node
