"""The nodes of a graph, and their execution by ordinary calls.

Nodes are plain descriptions: nothing runs before `execute` or `experimental_compile`.  A node that two
others use runs once per execution; so does the constructor of a `ClassNode`.
"""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from spoke.dag import walking
from spoke.dag.constants import (
    BIND_INDEX_KEY,
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
)
from spoke.dag.walking import downstream_first, nodes_in, replaced, upstream_first

if TYPE_CHECKING:
    from spoke.dag.compiled import CompiledDAG
    from spoke.handles import ActorHandle, ActorMethod


# Set by the package, as what they make is built upon calls, which need the nodes here.
compiler: Any = None  # makes a `CompiledDAG` of a node
remoter: Any = None  # makes a remote function or class of a plain one
hinter: Any = None  # makes a type hint of the arguments of `with_tensor_transport`, or of none


_making = itertools.count()


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
    """One node; `bind` makes them.

    Args:
        args, kwargs: what it was bound with: values and nodes, also inside of lists, tuples and dicts.
        options: given before `bind`.
        other_args_to_resolve: what else it depends on, by the names in `spoke.dag.constants`.
    """

    is_input = False

    def __init__(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        self._args = args
        self._kwargs = kwargs or {}
        self._options = options or {}
        self._other = other_args_to_resolve or {}
        self._uuid = uuid.uuid4().hex
        self._made = next(_making)  # nodes are made after those they depend on
        self._calls: dict[str, str] = {}  # of methods, that take this node: names by id
        self._compiled: DAGNode | None = None  # the root of the compiled graph that it is a part of
        self._hint: Any = None
        self._refs: dict[str, Any] = {}  # of the last execution that was to be remembered

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"'{type(self).__name__}' object is not callable")

    def __getattr__(self, name: str) -> Any:
        if name == "bind":
            raise AttributeError(f".bind() cannot be used again on {type(self)}")
        if name == "remote":
            raise AttributeError(f".remote() cannot be used on {type(self)}: use .execute() to run its graph")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        raise ValueError("A node of a graph cannot be serialized: pass what `execute` returns instead.")

    # -- what others look at

    def get_args(self) -> Any:
        """Positional arguments as bound: values and nodes."""
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        """Keyword arguments as bound."""
        return dict(self._kwargs)

    def get_options(self) -> dict[str, Any]:
        """Options given before `bind`."""
        return dict(self._options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """What else the node depends on, by the names in `spoke.dag.constants`."""
        return dict(self._other)

    def get_stable_uuid(self) -> str:
        """An id for life."""
        return self._uuid

    def children(self) -> Iterator[DAGNode]:
        """Nodes that this one depends on: arguments first, in their order."""
        yield from nodes_in([*self._args, *self._kwargs.values(), *self._other.values()])

    def _get_toplevel_child_nodes(self) -> list[DAGNode]:
        bound = [*self._args, *self._kwargs.values()]
        return list(dict.fromkeys(value for value in bound if isinstance(value, DAGNode)))

    def _get_all_child_nodes(self) -> list[DAGNode]:
        return list(dict.fromkeys(self.children()))

    # -- walks

    def _apply_and_replace_all_child_nodes(self, fn: Callable[[DAGNode], Any]) -> DAGNode:
        """A copy whose children are what `fn` makes of them, each once."""
        made = {child: fn(child) for child in self._get_all_child_nodes()}
        return self._replacing(made.__getitem__)

    def apply_recursive(self, fn: Callable[[DAGNode], Any]) -> Any:
        """Call `fn` on this node and all that lead to it, each once, after those it depends on.

        What `fn` returns takes the place of the node in copies of those that depend on it.

        Returns:
            what `fn` returns for this node
        """
        done: dict[str, Any] = {}
        for node in upstream_first(self):
            done[node._uuid] = fn(node._replacing(lambda child: done[child._uuid]))
        return done[self._uuid]

    def _replacing(self, by: Callable[[DAGNode], Any]) -> DAGNode:
        """A copy with other children; this node if they are the same."""
        if all(by(child) is child for child in self.children()):
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(
            self.__dict__,
            _made=next(_making),
            _args=replaced(tuple(self._args), by),
            _kwargs=replaced(self._kwargs, by),
            _other=replaced(self._other, by),
        )
        return copy

    def traverse_and_apply(self, fn: Callable[[DAGNode], Any]) -> None:
        """Call `fn` on this node and all that lead to it, each once, the nearest first."""
        for node in downstream_first(self):
            fn(node)

    def apply_functional(
        self, source_input_list: Any, predicate_fn: Callable[[Any], bool], apply_fn: Callable[[Any], Any]
    ) -> Any:
        """`source_input_list` with ``apply_fn(node)`` for each node that ``predicate_fn`` is true of."""
        return replaced(source_input_list, lambda node: apply_fn(node) if predicate_fn(node) else node)

    # -- how values travel

    @property
    def type_hint(self) -> Any:
        """How this node's values travel in Ray's channels; Spoke's graphs choose by themselves."""
        if self._hint is None:
            self._hint = hinter()
        return self._hint

    @type_hint.setter
    def type_hint(self, hint: Any) -> None:
        self._hint = hint

    def with_tensor_transport(
        self,
        transport: Any = "auto",
        device: Any = "default",
        _static_shape: bool = False,
        _direct_return: bool = False,
    ) -> DAGNode:
        """Say how tensors travel, in `type_hint`; in compiled graphs they take Spoke's own way.

        Args:
            transport: "auto", "nccl", "shm", "accelerator" or a `Communicator`.
            device: "default", "cpu", "gpu" or "cuda".

        Raises:
            ValueError: none of these.
        """
        self._hint = hinter(transport, device, _static_shape, _direct_return)
        return self

    # -- running

    def execute(self, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Make all calls that lead to this node; returns its ref, the handle, or a list of refs.

        Args:
            args, kwargs: what the graph's `InputNode` stands for.
            _ray_cache_refs: keep the refs of all calls for `get_object_refs_from_last_execute`.
        """
        execution = Execution(args, kwargs)
        result = execution.of(self)
        self._refs = execution.refs(self) if _ray_cache_refs else {}
        return result

    async def get_object_refs_from_last_execute(self) -> dict[str, Any]:
        """Refs by the ids of their nodes, if the last `execute` was told to keep them."""
        return dict(self._refs)

    def clear_cache(self) -> None:
        """Forget the refs of the last execution."""
        self._refs = {}

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
            NotImplementedError: a node is not a call of an actor's method.
            ValueError: an actor does not exist yet; a call takes neither the input nor another node, or
                nothing comes of it; the input is taken as a whole here and by its parts there; this node was
                compiled before.
        """
        if self._compiled is self:
            raise ValueError(
                "It is not allowed to call `experimental_compile` on the same DAG object multiple times no "
                "matter whether `teardown` is called or not. Please reuse the existing compiled DAG or "
                "create a new one."
            )
        assert compiler is not None, "set by the package"
        graph: CompiledDAG = compiler(
            self,
            enable_asyncio,
            submit_timeout=_submit_timeout,
            buffer_size_bytes=_buffer_size_bytes,
            max_inflight_executions=_max_inflight_executions,
            max_buffered_results=_max_buffered_results,
        )
        for node in upstream_first(self):
            node._compiled = self
        return graph

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be executed")


walking.node_type = DAGNode


class Execution:
    """One execution by ordinary calls: what each node has become."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.input = input_value(args, kwargs)
        self._inputs: list[DAGNode] = []
        self._done: dict[str, Any] = {}

    def of(self, root: DAGNode) -> Any:
        """The ref, handle or value of a node.

        Raises:
            AssertionError: an input that was not made by ``with``, or more than one.
        """
        for node in upstream_first(root):
            args = replaced(tuple(node._args), self._filled)
            kwargs, other = replaced(node._kwargs, self._filled), replaced(node._other, self._filled)
            self._done[node._uuid] = node._run(args, kwargs, other, self)
        return self._done[root._uuid]

    def _filled(self, node: DAGNode) -> Any:
        return self._done[node._uuid]

    def input_of(self, node: DAGNode) -> Any:
        """What is executed with, for the one input of the graph."""
        if any(other is not node for other in self._inputs):
            raise AssertionError("Each DAG should only have one unique InputNode.")
        self._inputs.append(node)
        return self.input

    def refs(self, root: DAGNode) -> dict[str, Any]:
        """The refs of all calls, by their nodes' ids."""
        calls = [node for node in upstream_first(root) if isinstance(node, (FunctionNode, ClassMethodNode))]
        return {node._uuid: self._done[node._uuid] for node in calls}


class FunctionNode(DAGNode):
    """A call of a function, remote or plain."""

    def __init__(
        self,
        func_body: Any,
        func_args: tuple[Any, ...],
        func_kwargs: dict[str, Any],
        func_options: dict[str, Any] | None = None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(func_args, func_kwargs, func_options, other_args_to_resolve)
        self._function = func_body
        self._remote: Any = None  # with the options; made when it is needed

    @classmethod
    def of(cls, function: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]) -> FunctionNode:
        """A call of a remote function that was given these options."""
        node = cls(function, args, kwargs)
        node._options, node._remote = dict(given), function
        return node

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        if self._remote is None:
            self._remote = _remote_of(self._function, self._options)
        return self._remote.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"FunctionNode({self._function!r})"


def _remote_of(body: Any, options: dict[str, Any]) -> Any:
    """A remote function or class, of a plain one too, with these options."""
    if not hasattr(body, "remote"):
        body = remoter(body)
    return body.options(**options) if options else body


class ClassNode(DAGNode):
    """An actor that each execution makes; its methods have ``bind``."""

    def __init__(
        self,
        cls: Any,
        cls_args: tuple[Any, ...],
        cls_kwargs: dict[str, Any],
        cls_options: dict[str, Any] | None = None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(cls_args, cls_kwargs, cls_options, other_args_to_resolve)
        if any(node.is_input for node in self.children()):
            raise ValueError(
                "InputNode handles user dynamic input the DAG, and cannot be used as args, kwargs, or "
                "other_args_to_resolve in ClassNode constructor because it is not available at class "
                "construction or binding time."
            )
        self._cls = _remote_of(cls, self._options)
        self._last: DAGNode | None = None  # calls of one actor keep the order of `bind`

    @classmethod
    def of(cls, remote: Any, args: Any, kwargs: dict[str, Any], given: dict[str, Any]) -> ClassNode:
        """An actor of a remote class that was given these options."""
        node = cls(remote, args, kwargs)
        node._options = dict(given)
        return node

    def __getattr__(self, name: str) -> Any:
        methods = {} if name.startswith("_") else self._cls._described().methods
        if name in methods:
            return _UnboundMethod(self, name)
        if name == "bind" or name.startswith("_"):
            return super().__getattr__(name)
        raise AttributeError(f"type object {self._cls.__name__!r} has no attribute {name!r}")

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        return self._cls.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"ClassNode({self._cls!r})"


class _UnboundMethod:
    """A method of an actor that is not there yet."""

    def __init__(self, actor: ClassNode, name: str, options: dict[str, Any] | None = None) -> None:
        self._actor = actor
        self._name = name
        self._options = options or {}

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            raise AttributeError(
                ".remote() cannot be used on ClassMethodNodes. Use .bind() to describe a call of the actor."
            )
        raise AttributeError(f"the method of a ClassNode has no attribute {name!r}")

    def options(self, **options: Any) -> _UnboundMethod:
        return _UnboundMethod(self._actor, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call of this method, after those bound before."""
        other = {PARENT_CLASS_NODE_KEY: self._actor, PREV_CLASS_METHOD_CALL_KEY: self._actor._last}
        node = ClassMethodNode(self._name, args, kwargs, self._options, other)
        self._actor._last = node
        return node


class ClassMethodNode(DAGNode):
    """A call of a method, of an actor that exists or of a `ClassNode`; or one of several returns of it.

    Args:
        other_args_to_resolve: the actor, as `PARENT_CLASS_NODE_KEY`.

    Raises:
        ValueError: no actor is given.
    """

    def __init__(
        self,
        method_name: str,
        method_args: tuple[Any, ...],
        method_kwargs: dict[str, Any],
        method_options: dict[str, Any] | None = None,
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(method_args, method_kwargs, method_options, other_args_to_resolve)
        if self._other.get(PARENT_CLASS_NODE_KEY) is None:
            raise ValueError(
                f"give the actor of method {method_name!r}: "
                f"other_args_to_resolve={{{PARENT_CLASS_NODE_KEY!r}: handle}}"
            )
        self._name = method_name
        self.method: ActorMethod | None = None  # as it was bound, with its options
        if IS_CLASS_METHOD_OUTPUT_KEY not in self._other:
            for node in nodes_in([method_args, method_kwargs]):
                node._calls[self._uuid] = method_name

    @property
    def actor(self) -> Any:
        """The actor's handle, or its `ClassNode`."""
        return self._other[PARENT_CLASS_NODE_KEY]

    def get_method_name(self) -> str:
        """The name of the method."""
        return self._name

    @property
    def num_returns(self) -> int:
        """How many values the method returns."""
        if self.class_method_call is not None:
            return self.class_method_call.num_returns
        return 1 if self.method is None else max(1, self.method._num_returns)

    @property
    def is_class_method_call(self) -> bool:
        """Is it the call?"""
        return self.class_method_call is None

    @property
    def is_class_method_output(self) -> bool:
        """Is it one of several returns?"""
        return self.class_method_call is not None

    @property
    def class_method_call(self) -> ClassMethodNode | None:
        """Of one of several returns: the call."""
        return None

    @property
    def output_idx(self) -> int | None:
        """Of one of several returns: which one."""
        return None

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        method: Any = self.method
        if method is None:
            method = getattr(other[PARENT_CLASS_NODE_KEY], self._name)
            method = method.options(**self._options) if self._options else method
        return method.remote(*args, **kwargs)

    def __repr__(self) -> str:
        return f"ClassMethodNode({self._name})"


class OutputNode(ClassMethodNode):
    """One of several values that a method returns."""

    def __init__(self, call: ClassMethodNode, index: int) -> None:
        other = {IS_CLASS_METHOD_OUTPUT_KEY: True, PARENT_CLASS_NODE_KEY: call.actor}
        super().__init__(call.get_method_name(), (call, index), {}, {}, other)
        self.call = call
        self.index = index

    @property
    def class_method_call(self) -> ClassMethodNode:
        """The call."""
        return self.call

    @property
    def output_idx(self) -> int:
        """Which of the returns."""
        return self.index

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        return args[0][self.index]


class MultiOutputNode(DAGNode):
    """Several nodes as one output: `execute` returns the list of their refs, and values as they are.

    Raises:
        ValueError: `args` is no list or tuple.
    """

    def __init__(
        self,
        args: list[DAGNode] | tuple[DAGNode, ...],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(args, (list, tuple)):
            raise ValueError(f"Invalid input type for `args`, {type(args)}: give a list of nodes.")
        super().__init__(tuple(args), {}, {}, other_args_to_resolve)

    def _run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], other: dict[str, Any], execution: Execution
    ) -> Any:
        return list(args)


# -- what `bind` makes ---------------------------------------------------------------------------------

_bound: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # calls, by what keeps the actor


def bind_method(
    actor: ActorHandle, method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A node, or a tuple of nodes for a method of several returns."""
    index = _bound.get(method._core.life, 0)
    _bound[method._core.life] = index + 1
    other = {PARENT_CLASS_NODE_KEY: actor, PREV_CLASS_METHOD_CALL_KEY: None, BIND_INDEX_KEY: index}
    node = ClassMethodNode(method._name, args, kwargs, {"num_returns": method._num_returns}, other)
    node.method = method
    count = method._num_returns
    return tuple(OutputNode(node, index) for index in range(count)) if count > 1 else node
