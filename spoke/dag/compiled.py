"""A compiled graph at its driver: planned once, then fed and read over its own links."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Generator
from typing import Any, Final, NoReturn, TypeVar

from spoke import api, codec, current
from spoke.dag.collective_node import CollectiveOutputNode
from spoke.dag.context import DAGContext
from spoke.dag.frames import Codec, Failed
from spoke.dag.input_node import InputAttributeNode, InputNode
from spoke.dag.links import Closed, Link, join, listen
from spoke.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    DAGInputData,
    DAGNode,
    MultiOutputNode,
    OutputNode,
)
from spoke.dag.outputs import Frame, Outputs, Where
from spoke.dag.py_obj_scanner import _PyObjScanner
from spoke.dag.walking import upstream_first
from spoke.dag.working import (
    DRIVER,
    INPUT,
    Operation,
    Plan,
    Slot,
    drop,
    pack_error,
    part_of,
    prepare,
    start,
)
from spoke.errors import (
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
    RayTaskError,
)

READY_S: Final = 2.0  # for an actor to say that it lives, when a link broke
T = TypeVar("T")
NODES_ONLY: Final = "Compiled DAGs currently only support actor method nodes"


class _Planner:
    """Numbers the calls and processes of a graph, and says who takes what from whom."""

    def __init__(self, root: DAGNode) -> None:
        self.actors: list[Any] = [None]  # by process number; the driver first
        self.calls: list[ClassMethodNode] = []  # by number, each after those it depends on
        self.process: list[int] = []  # by call
        self._number: dict[str, int] = {}
        self.attributes: list[InputAttributeNode] = []
        self.whole = False
        # As they were bound: so every actor runs its calls in that order, and none waits for a later one.
        nodes = sorted(upstream_first(root), key=lambda node: node._made)
        others = [node._compiled for node in nodes if node._compiled is not None]
        if others:
            raise ValueError(
                "The DAG was compiled more than once. The following two nodes call `experimental_compile`: "
                f"(1) {others[0]}, (2) {root}"
            )
        for node in nodes:
            for value in () if isinstance(node, (MultiOutputNode, OutputNode)) else node.get_args():
                _check_plain(value, node)
        if not any(node.is_input for node in nodes):
            raise ValueError(
                "No InputNode found in the DAG: when traversing upwards, no upstream node was found for "
                f"{nodes[0]}."
            )
        for node in nodes:
            self._add(node)
        if not self.calls:
            raise ValueError("a compiled graph needs at least one call of an actor's method")
        unused = _unused(nodes)
        if unused:  # its errors would be nobody's
            raise ValueError(
                "Compiled DAG doesn't support leaf nodes, i.e., nodes that don't have downstream nodes and "
                f"are not output nodes. There are {len(unused)} leaf nodes in the DAG. Please add the "
                f"outputs of {unused} to the MultiOutputNode."
            )
        outputs = root.get_args() if isinstance(root, MultiOutputNode) else (root,)
        self.outputs = [self._slot(node) for node in outputs]
        self.operations = [self._operation(number) for number in range(len(self.calls))]
        if self.whole and self.attributes:
            raise ValueError(
                "All tasks must either use InputNode() directly, or they must index to specific args or "
                "kwargs."
            )

    def _add(self, node: DAGNode) -> None:
        if isinstance(node, InputAttributeNode):
            self.attributes.append(node)
        elif isinstance(node, (InputNode, MultiOutputNode, OutputNode)):
            pass  # no call
        elif isinstance(node, ClassMethodNode) and not isinstance(node.actor, ClassNode):
            actor = node.actor
            if actor._core.meta.is_async:
                raise ValueError(f"a compiled graph cannot call {node!r}: its actor is an async one")
            if actor not in self.actors:
                self.actors.append(actor)
            self._number[node.get_stable_uuid()] = len(self.calls)
            self.calls.append(node)
            self.process.append(self.actors.index(actor))
        elif isinstance(node, (ClassNode, ClassMethodNode)):
            raise ValueError(
                "Compiled DAGs can only bind methods to an actor that is already created with "
                f"Actor.remote(), not to {node!r}"
            )
        else:
            raise NotImplementedError(f"{NODES_ONLY}, not {node!r}.")

    def _slot(self, node: DAGNode) -> Slot:
        if isinstance(node, InputNode):
            self.whole = True
            return Slot(DRIVER, INPUT)
        if isinstance(node, InputAttributeNode):
            return Slot(DRIVER, INPUT, None, node.key, node.by_item)
        if isinstance(node, OutputNode):
            return self._slot(node.call)._replace(position=node.index)
        if not isinstance(node, ClassMethodNode):
            raise ValueError(f"{node!r} cannot be an output or an argument of a compiled graph")
        number = self._number[node.get_stable_uuid()]
        return Slot(self.process[number], number)

    def _operation(self, number: int) -> Operation:
        node = self.calls[number]
        if isinstance(node, CollectiveOutputNode):
            inputs = tuple(map(self._slot, node.children()))
            return Operation(number, node.work(), inputs, {}, 1)
        if any(isinstance(value, DAGNode) for value in node.get_kwargs().values()):
            raise ValueError(
                "Compiled DAG currently does not support binding to other DAG nodes as kwargs: give them by "
                "position."
            )
        args = tuple(self._slot(value) if isinstance(value, DAGNode) else value for value in node.get_args())
        operation = Operation(number, node.get_method_name(), args, node.get_kwargs(), node.num_returns)
        if not operation.slots:
            raise ValueError(
                "Compiled DAGs require each task to take a ray.dag.InputNode or at least one other DAGNode "
                f"as an input. Invalid task node: {node!r}"
            )
        return operation

    def plans(self, inflight: int, stored_above: int) -> list[Plan]:
        """One per process but the driver's, which only feeds and reads."""
        takers: dict[tuple[int, int], dict[int, None]] = {}
        for number, operation in enumerate(self.operations):
            for slot in operation.slots:
                if slot.process != self.process[number]:
                    takers.setdefault((slot.process, slot.number), {})[self.process[number]] = None
        for slot in self.outputs:
            if slot.process != DRIVER:
                takers.setdefault((slot.process, slot.number), {})[DRIVER] = None
        links = sorted({(giver, taker) for (giver, _), found in takers.items() for taker in found})
        plans = []
        for process in range(len(self.actors)):
            mine = tuple(
                operation._replace(takers=tuple(takers.get((process, operation.number), ())))
                for operation in self.operations
                if self.process[operation.number] == process
            )
            before = tuple(giver for giver, taker in links if taker == process)
            after = tuple(taker for giver, taker in links if giver == process)
            plans.append(Plan(process, mine, before, after, inflight, stored_above))
        return plans


def _unused(nodes: list[DAGNode]) -> list[str]:
    """The names of calls whose results nobody takes, and of those that return a value nobody takes."""
    known = {node.get_stable_uuid() for node in nodes}
    found = {call: name for node in nodes for call, name in node._calls.items() if call not in known}
    taken = [node.call.get_stable_uuid() for node in nodes if isinstance(node, OutputNode)]
    parts = [
        node.get_method_name()
        for node in nodes
        if isinstance(node, ClassMethodNode) and node.is_class_method_call and node.num_returns > 1
        for _ in range(node.num_returns - taken.count(node.get_stable_uuid()))
    ]
    return [*found.values(), *parts]


def _check_plain(value: Any, node: DAGNode) -> None:
    """ValueError where nodes are inside of an argument: what is no node is the same in every execution."""
    if isinstance(value, DAGNode):
        return
    scanner = _PyObjScanner()
    inside = scanner.find_nodes(value)
    scanner.clear()
    if inside:
        raise ValueError(
            f"Found {len(inside)} DAGNodes from the arg {value} in {node}. Please ensure that the argument "
            "is a single DAGNode and that a DAGNode is not allowed to be placed inside any type of container."
        )


def compile_graph(root: DAGNode, enable_asyncio: bool, **told: Any) -> CompiledDAG:
    """See `DAGNode.experimental_compile`; `told` are fields of `DAGContext`, None for its own."""
    given = {name: value for name, value in told.items() if value is not None}
    context = dataclasses.replace(DAGContext.get_current(), **given)
    planner = _Planner(root)
    return CompiledDAG(planner, isinstance(root, MultiOutputNode), enable_asyncio, context)


class _DriverProxy:
    """An actor whose handle stands for a driver among the readers of a channel; does nothing."""


class CompiledDAG:
    """A graph whose actors are linked; `execute` feeds it.  One that is dropped is torn down."""

    DAGDriverProxyActor: Final = api.remote(num_cpus=0)(_DriverProxy)

    def __init__(self, planner: _Planner, several: bool, enable_asyncio: bool, context: DAGContext) -> None:
        stored_above, inflight = context.buffer_size_bytes, context.max_inflight_executions
        self._id = os.urandom(16)
        self._several = several
        self._asyncio = enable_asyncio
        self._inflight = inflight
        self._context = context
        self._outputs = planner.outputs
        self._actors = planner.actors[1:]
        self._positions = max((n.key + 1 for n in planner.attributes if isinstance(n.key, int)), default=0)
        self._names = sorted({n.key for n in planner.attributes if isinstance(n.key, str)})
        self._whole = planner.whole
        self._codec = Codec(inflight, stored_above)
        self._lock = threading.Lock()
        self._execution_index = -1  # of the last one that was started
        self._read = 0  # executions whose results have all arrived
        self._wanted: set[int] = set()  # executions with refs that were neither taken nor dropped
        self._result_buffer: dict[int, dict[int, Any]] = {}  # of those: values by position
        self._got_ref_idxs: dict[int, set[int]] = {}  # of those: positions that were taken
        self._destructed_ref_idxs: dict[int, set[int]] = {}  # and dropped
        self._closed = False
        self._incoming: dict[int, Link] = {}
        self._outgoing: dict[int, Link] = {}
        self._link(planner.plans(inflight, stored_above))
        self._frames = Outputs(self._incoming, [(slot.process, slot.number) for slot in self._outputs])

    def _link(self, plans: list[Plan]) -> None:
        """Everybody listens, then everybody connects."""
        assert current.client is not None
        address = current.client.address
        remote = len([node for node in api.nodes() if node["Alive"]]) > 1
        secret = os.urandom(32)
        names = [self._id + number.to_bytes(4, "little") for number in range(len(plans))]
        sockets, mine = listen(names[DRIVER], address[2], remote)
        try:
            ready = [
                actor.__ray_call__.remote(prepare, name, remote)
                for actor, name in zip(self._actors, names[1:], strict=True)
            ]
            where = [(mine, address[1]), *api.get(ready)]
            begun = []
            for actor, plan, name in zip(self._actors, plans[1:], names[1:], strict=True):
                begun.append(actor.__ray_call__.remote(start, name, secret, plan, _targets(plan, where)))
            own = plans[DRIVER]
            self._incoming, self._outgoing = join(
                DRIVER, secret, sockets, list(own.before), _targets(own, where)
            )
            api.get(begun)
        except BaseException:
            for actor, name in zip(self._actors, names[1:], strict=True):
                actor.__ray_call__.remote(drop, name)
            raise
        finally:
            for sock in sockets:
                sock.close()

    # -- feeding

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Start an execution; a `CompiledDAGRef`, or a list of them for a `MultiOutputNode`.

        Raises:
            ValueError: the arguments are not those that the graph's input names.
            RayCgraphCapacityExceeded: too many executions whose results were not taken.
            RayChannelError, ActorDiedError: the graph is torn down, or an actor is dead.
        """
        if self._asyncio:
            raise ValueError("Use execute_async if enable_asyncio=True")
        refs = self._execute(args, kwargs, CompiledDAGRef)
        return refs if self._several else refs[0]

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """As `execute`, with `CompiledDAGFuture` objects, which are awaited."""
        if not self._asyncio:
            raise ValueError("Use execute if enable_asyncio=False")
        refs = self._execute(args, kwargs, CompiledDAGFuture)
        return refs if self._several else refs[0]

    def _execute(self, args: tuple[Any, ...], kwargs: dict[str, Any], kind: Any) -> list[Any]:
        self._check_arguments(args, kwargs)
        with self._lock:
            self._check_open()
            self._make_room()
            self._codec.begin()
            frame = self._codec.encode(args[0] if self._whole else DAGInputData(*args, **kwargs))
            try:
                for link in self._outgoing.values():
                    link.send(INPUT, *frame)
            except Closed:
                self._broken()
            self._execution_index += 1
            index = self._execution_index
            self._wanted.add(index)
        positions = range(len(self._outputs))
        return [kind(self, index, position if self._several else None) for position in positions]

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An input as a whole is one argument; parts are arguments of their own, by position and name."""
        wanted = 1 if self._whole else self._positions
        called = "dag.execute() or dag.execute_async() must be called with"
        if len(args) != wanted:
            raise ValueError(f"{called} {wanted} positional args, got {len(args)}")
        for name in self._names:
            if name not in kwargs:
                raise ValueError(f"{called} kwarg `{name}`")

    def _make_room(self) -> None:
        """Executions that nobody asks for any more, and failed ones, make room; others do not."""
        seconds = self._context.submit_timeout
        while self._ahead() >= self._inflight and self._read not in self._wanted:
            self._read_one(seconds)
        held = max(len(self._wanted), self._ahead())
        if held >= self._inflight:
            raise RayCgraphCapacityExceeded.from_message(
                f"The compiled graph can't have more than {self._inflight} in-flight executions, and you "
                f"currently have {held} in-flight executions. Retrieve an output using ray.get before "
                "submitting more requests or increase `_max_inflight_executions`. "
                "`dag.experimental_compile(_max_inflight_executions=...)`"
            )
        while self._ahead() + self._frames.behind() >= self._inflight:
            self._within(self._frames.pass_over, seconds)

    def _ahead(self) -> int:
        """Executions that were started and not read."""
        return self._execution_index + 1 - self._read

    # -- reading

    def _take(self, index: int, position: int, timeout: float | None) -> Any:
        """One output of one execution."""
        seconds = self._context.get_timeout if timeout is None else timeout
        with self._lock:
            while self._read <= index:
                self._check_open()
                self._read_one(seconds)
            value = self._result_buffer[index][position]
        self._done_with(self._got_ref_idxs, index, position)
        if isinstance(value, Failed):
            raise _error_of(value.body)
        return value

    def _read_one(self, seconds: float) -> None:
        """All outputs of the next execution; what has arrived stays where it takes too long."""
        if self._read in self._wanted and len(self._result_buffer) >= self._context.max_buffered_results:
            raise RayCgraphCapacityExceeded.from_message(
                f"The compiled graph can't have more than {self._context.max_buffered_results} buffered "
                f"results, and you currently have {len(self._result_buffer)} buffered results. Call "
                "`ray.get()` on CompiledDAGRef's (or await on CompiledDAGFuture's) to retrieve "
                "results, or increase `_max_buffered_results` if buffering is desired, note that this will "
                "increase driver memory usage."
            )
        frames = self._within(self._frames.next, seconds)
        if self._read in self._wanted:
            self._result_buffer[self._read] = _values(frames, self._outputs)
        self._read += 1

    def _within(self, read: Callable[[float | None], T], seconds: float) -> T:
        """What `read` gives in this time, less than 0 for ever; its errors as those of a graph."""
        try:
            return read(None if seconds < 0 else seconds)
        except TimeoutError:
            raise RayChannelTimeoutError.from_message(
                f"no result of the compiled graph within {seconds:g} s: give get() a longer timeout, "
                "or -1 for none. Otherwise, this may indicate that the execution is hanging."
            ) from None
        except Closed:
            self._broken()

    def _done_with(self, table: dict[int, set[int]], index: int, position: int) -> None:
        """One output of an execution is needed no more."""
        table.setdefault(index, set()).add(position)
        got, dropped = self._got_ref_idxs.get(index, set()), self._destructed_ref_idxs.get(index, set())
        if len(got) + len(dropped) == len(self._outputs):
            self._wanted.discard(index)
            for known in (self._got_ref_idxs, self._destructed_ref_idxs, self._result_buffer):
                known.pop(index, None)

    def dropped(self, index: int, position: int) -> None:
        """A ref is gone that nobody took the value of."""
        self._done_with(self._destructed_ref_idxs, index, position)

    # -- the end

    def _check_open(self) -> None:
        if self._closed:
            raise RayChannelError.from_message("Channel closed.")

    def _broken(self) -> NoReturn:
        """A link ended though nobody tore the graph down: an actor is dead."""
        self._close()
        for actor in self._actors:
            try:
                api.get(actor.__ray_ready__.remote(), timeout=READY_S)
            except TimeoutError:
                continue  # busy, so it lives
        raise RayChannelError.from_message("Channel closed.")

    def _close(self) -> None:
        self._closed = True
        for link in [*self._incoming.values(), *self._outgoing.values()]:
            link.close()

    def teardown(self, kill_actors: bool = False) -> None:
        """Unlink the actors, which live on unless `kill_actors`; may be called again."""
        self._close()
        if kill_actors:
            for actor in self._actors:
                api.kill(actor)

    def get_id(self) -> str:
        """An id of this graph."""
        return self._id.hex()

    @property
    def is_teardown(self) -> bool:
        """Whether `teardown` was called, or a link broke."""
        return self._closed

    def __del__(self) -> None:
        if not self.__dict__.get("_closed", True):
            self._close()


class CompiledDAGRef:
    """One output of one execution; ``get`` it once.  Without a position it is the only one."""

    def __init__(self, graph: CompiledDAG, index: int, position: int | None) -> None:
        self._graph = graph
        self._index = index
        self._position = position
        self._taken = False

    def get(self, timeout: float | None = None) -> Any:
        """The value.

        Args:
            timeout: seconds; default as `DAGContext` says, -1 waits for ever.

        Raises:
            RayChannelTimeoutError: not there in time; it may be asked for again.
            RayTaskError and the class of the user's exception: a method raised.
            ValueError: it was taken before.
        """
        if self._taken:
            raise ValueError(
                "ray.get() can only be called once on a CompiledDAGRef, and it was already called."
            )
        try:
            value = self._graph._take(self._index, self._position or 0, timeout)
        except (RayChannelTimeoutError, RayCgraphCapacityExceeded):
            raise  # it may be asked for again
        except BaseException:
            self._taken = True
            raise
        self._taken = True
        return value

    _compiled_get = get

    def __reduce__(self) -> Any:
        raise ValueError("CompiledDAGRef cannot be pickled.")

    def __copy__(self) -> Any:
        raise ValueError("CompiledDAGRef cannot be copied.")

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError("CompiledDAGRef cannot be deep copied.")

    def __repr__(self) -> str:
        where = f"execution_index={self._index}, channel_index={self._position}"
        return f"CompiledDAGRef({self._graph.get_id()}, {where})"

    def __del__(self) -> None:
        if not self.__dict__.get("_taken", True):
            self._graph.dropped(self._index, self._position or 0)


class CompiledDAGFuture:
    """As `CompiledDAGRef`, to be awaited once."""

    def __init__(self, graph: CompiledDAG, index: int, position: int | None) -> None:
        self._ref = CompiledDAGRef(graph, index, position)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self._ref.get).__await__()

    def __reduce__(self) -> Any:
        raise ValueError("CompiledDAGFuture cannot be pickled.")


def _targets(plan: Plan, where: list[tuple[list[Any], bytes]]) -> dict[int, Any]:
    """Addresses of those that a process gives to, and whether they are on its node."""
    node = where[plan.process][1]
    return {taker: (where[taker][0], where[taker][1] == node) for taker in plan.after}


def _values(frames: dict[Where, Frame], outputs: list[Slot]) -> dict[int, Any]:
    """Values of outputs by position: what was returned, or Failed."""
    made: dict[Where, Any] = {}
    for where, frame in frames.items():
        try:
            made[where] = Codec.decode(*frame)
        except Failed as failed:
            made[where] = failed
        except Exception as error:  # it does not unpickle here
            made[where] = Failed(pack_error("a compiled graph", error))
    values = {}
    for position, slot in enumerate(outputs):
        value = made[slot.process, slot.number]
        values[position] = value if isinstance(value, Failed) else part_of(slot, value)
    return values


def _error_of(body: bytes) -> BaseException:
    error: BaseException = codec.loads(body)
    return error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
