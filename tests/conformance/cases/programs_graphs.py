"""Graphs as test programs use them: options, children, inputs, what compiled ones refuse, failing outputs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

from tests.conformance.kit import PATIENCE_S, Flag, actors_for_graphs, caught, compiled, open_graphs, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class _Worker:
    def __init__(self, start: int = 0) -> None:
        self.total = start

    def inc(self, x: Any) -> Any:
        self.total += x
        return self.total

    def two(self, x: Any, y: Any) -> Any:
        return [x, y]

    def double_and_inc(self, x: int) -> int:
        self.total = self.total * 2 + x
        return self.total

    def pair(self, x: int) -> tuple[int, int]:
        return x, x + 1

    def triple(self, x: int) -> tuple[int, int, int]:
        return x, x + 1, x + 2

    def gated(self, gate: Flag) -> str:
        gate.wait()
        return "late"

    def fail(self, gate: Flag) -> None:
        raise ValueError("at once")


def _actors(ray: Any, count: int = 1) -> list[Any]:
    return actors_for_graphs(ray, _Worker, count)


def _refused(ray: Any, build: Callable[[Any], Any], *fragments: str) -> Any:
    return caught(lambda: compiled(ray, build), *fragments, kinds=(ValueError,))


# -- nodes ---------------------------------------------------------------------------------------------


def options_of_the_decorator(ray: Any) -> Any:
    @ray.remote(num_cpus=2)
    def f() -> None: ...

    @ray.remote
    def g() -> None: ...

    @ray.remote(num_cpus=2)
    class A:
        def m(self) -> None: ...

    return [
        f.bind().get_options(),
        f.options(num_cpus=3).bind().get_options(),
        f.options(name="x").bind().get_options(),
        g.bind().get_options(),
        A.bind().get_options(),
        A.options(name="y", namespace="z").bind().get_options(),
        A.bind().m.options(name="call").bind().get_options(),
    ]


def an_execution_uses_the_options(ray: Any) -> Any:
    @ray.remote
    def f(x: int) -> Any:
        return x, ray.get_runtime_context().get_assigned_resources().get("CPU")

    return ray.get(f.options(num_cpus=2).bind(f.bind(1)).execute())


def children_of_a_node(ray: Any) -> Any:
    @ray.remote
    def f(*args: Any, **kwargs: Any) -> None: ...

    one, two, three, four = (f.bind() for _ in range(4))
    node = f.bind(1, one, x=two, y={"deep": three})
    other = node._apply_and_replace_all_child_nodes(lambda child: four)
    return [
        node._get_toplevel_child_nodes() == [one, two],
        node._get_all_child_nodes() == [one, two, three],
        other._get_all_child_nodes() == [four],
        node._get_all_child_nodes() == [one, two, three],
    ]


def a_node_is_no_function(ray: Any) -> Any:
    @ray.remote
    def f() -> None: ...

    @ray.remote
    class A:
        def m(self) -> None: ...

    return [
        caught(lambda: f.bind().remote(), ".remote() cannot be used on"),
        caught(lambda: f.bind().bind(), ".bind() cannot be used again on"),
        caught(lambda: A.bind().bind(), ".bind() cannot be used again on"),
        caught(lambda: A.bind().remote(), "'A' has no attribute 'remote'"),
        caught(lambda: A.bind().nothing, "'A' has no attribute 'nothing'"),
        caught(lambda: A.bind().m.remote(), ".remote() cannot be used on ClassMethodNodes"),
    ]


def an_input_out_of_place(ray: Any) -> Any:
    dag = sub(ray, "dag")

    @ray.remote
    def f(*args: Any) -> None: ...

    @ray.remote
    class A:
        def __init__(self, x: Any) -> None: ...

    with dag.InputNode() as one:
        first = f.bind(one)
    with dag.InputNode() as other:
        both = f.bind(first, f.bind(other))
    return [
        caught(lambda: dag.InputNode(1), "should not take any args or kwargs"),
        caught(lambda: A.bind(dag.InputNode()), "cannot be used as args, kwargs"),
        caught(lambda: dag.InputNode().execute(), "only used in context manager"),
        caught(lambda: f.bind(dag.InputNode()).execute(), "only used in context manager"),
        caught(lambda: both.execute(1), "Each DAG should only have one unique InputNode"),
    ]


def modules_of_nodes(ray: Any) -> Any:
    dag = sub(ray, "dag")
    return [
        sub(ray, "dag.dag_node").DAGNode is dag.DAGNode,
        sub(ray, "dag.class_node").ClassNode is dag.ClassNode,
        sub(ray, "dag.class_node").ClassMethodNode is dag.ClassMethodNode,
        sub(ray, "dag.function_node").FunctionNode is dag.FunctionNode,
    ]


class _Source:
    pass


def objects_inside_of_others(ray: Any) -> Any:
    module = sub(ray, "dag.py_obj_scanner")
    scanner = module._PyObjScanner(source_type=_Source)
    value = [_Source(), [_Source(), {"key": (_Source(), 1)}]]
    found = scanner.find_nodes(value)
    made = scanner.replace_nodes({one: number for number, one in enumerate(found)})
    known = id(scanner) in module._instances
    scanner.clear()
    return [len(found), made, known, id(scanner) in module._instances]


# -- compiled ------------------------------------------------------------------------------------------


def calls_of_an_actor_keep_the_order_of_bind(ray: Any) -> Any:
    one, two = _actors(ray, 2)

    def build(given: Any) -> Any:
        left = two.double_and_inc.bind(one.inc.bind(given))
        right = one.double_and_inc.bind(two.inc.bind(given))
        return sub(ray, "dag").MultiOutputNode([right, left])

    return ray.get(compiled(ray, build).execute(1), timeout=PATIENCE_S)


def nodes_inside_of_arguments(ray: Any) -> Any:
    (a,) = _actors(ray)

    class Holder:
        def __init__(self, node: Any) -> None:
            self.node = node

    return [
        _refused(ray, lambda given, make=make: a.inc.bind(make(given)), "DAGNodes from the arg", "container")
        for make in (lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: [x, x], Holder)
    ]


def nodes_as_keywords(ray: Any) -> Any:
    (a,) = _actors(ray)
    says = "does not support binding to other DAG nodes as kwargs"
    refused = _refused(ray, lambda given: a.two.bind(given, y=given), says)
    graph = compiled(ray, lambda given: a.two.bind(given, y=2))
    return [refused, ray.get(graph.execute(1), timeout=PATIENCE_S)]


def values_that_nobody_takes(ray: Any) -> Any:
    (a,) = _actors(ray)
    pair = ray.method(num_returns=2)(_Worker.pair)

    class Pairs(_Worker):
        pass

    Pairs.pair = pair  # type: ignore[method-assign]
    b = ray.remote(num_cpus=0)(Pairs).remote()

    def unused(given: Any) -> Any:
        a.inc.bind(given)
        a.inc.bind(given)
        return a.inc.bind(given)

    return [
        _refused(ray, unused, "doesn't support leaf nodes", "There are 2 leaf nodes", "['inc', 'inc']"),
        _refused(ray, lambda given: b.pair.bind(given)[0], "There are 1 leaf nodes"),
    ]


def more_values_than_returns(ray: Any) -> Any:
    class Triples(_Worker):
        pass

    Triples.triple = ray.method(num_returns=2)(_Worker.triple)  # type: ignore[method-assign]
    _actors(ray)
    b = ray.remote(num_cpus=0)(Triples).remote()
    graph = compiled(ray, lambda given: sub(ray, "dag").MultiOutputNode(list(b.triple.bind(given))))
    try:
        ray.get(graph.execute(1), timeout=PATIENCE_S)
    except Exception:
        return "fails"
    return "passes"


def without_input(ray: Any) -> Any:
    a, b = _actors(ray, 2)
    one = caught(lambda: a.inc.bind(1).experimental_compile(), "No InputNode found in the DAG")

    def build(given: Any) -> Any:
        return sub(ray, "dag").MultiOutputNode([a.inc.bind(given), b.inc.bind(1)])

    return [one, _refused(ray, build, "require each task to take a ray.dag.InputNode")]


def compiled_twice(ray: Any) -> Any:
    a, b = _actors(ray, 2)
    dag = sub(ray, "dag")
    with dag.InputNode() as given:
        one, two = a.inc.bind(given), b.inc.bind(given)
        root = dag.MultiOutputNode([one, two])
    graph = root.experimental_compile()
    open_graphs.append(graph)
    same = caught(root.experimental_compile, "no matter whether `teardown` is called")
    graph.teardown()
    return [same, caught(two.experimental_compile, "The DAG was compiled more than once")]


def arguments_of_an_execution(ray: Any) -> Any:
    (a,) = _actors(ray)
    graph = compiled(ray, lambda given: a.two.bind(given[0], given.z))
    return [
        caught(lambda: graph.execute(), "must be called with 1 positional args, got 0"),
        caught(lambda: graph.execute(1, 2, z=1), "must be called with 1 positional args, got 2"),
        caught(lambda: graph.execute(1), "must be called with kwarg `z`"),
        ray.get(graph.execute(1, z=3, more=4), timeout=PATIENCE_S),
    ]


def a_result_is_nothing_else(ray: Any) -> Any:
    (a,) = _actors(ray)

    @ray.remote
    def f(x: Any) -> Any:
        return x

    graph = compiled(ray, lambda given: a.inc.bind(given))
    ref = graph.execute(1)
    shown = str(ref).replace(graph.get_id(), "ID")
    return [
        shown,
        caught(lambda: copy.copy(ref), "CompiledDAGRef cannot be copied."),
        caught(lambda: copy.deepcopy(ref), "CompiledDAGRef cannot be deep copied."),
        caught(lambda: pickle.dumps(ref), "CompiledDAGRef cannot be pickled."),
        caught(lambda: f.remote(ref), "CompiledDAGRef cannot be used as Ray task/actor argument."),
        caught(lambda: ray.wait([ref]), "wait() expected a list of ray.ObjectRef or ray.ObjectRefGenerator"),
        caught(lambda: ray.get([ref, None]), "must be a list of CompiledDAGRefs if there is any"),
        ray.get(ref, timeout=PATIENCE_S),
    ]


def a_failing_output_is_known_at_once(ray: Any) -> Any:
    a, b = _actors(ray, 2)
    gate = Flag()
    dag = sub(ray, "dag")
    graph = compiled(ray, lambda given: dag.MultiOutputNode([a.gated.bind(given), b.fail.bind(given)]))
    late, failed = graph.execute(gate)
    seen = [
        caught(lambda: ray.get(late, timeout=PATIENCE_S), kinds=(ValueError,)),
        caught(lambda: ray.get(failed, timeout=PATIENCE_S), kinds=(ValueError,)),
    ]
    gate.set()
    return seen


def buffers_of_a_graph(ray: Any) -> Any:
    (a,) = _actors(ray)
    dag = sub(ray, "dag")
    graph = compiled(ray, lambda given: dag.MultiOutputNode([a.inc.bind(given), a.inc.bind(given)]))
    first = graph.execute(1)
    one, two = graph.execute(2)
    del one
    seen = [graph._result_buffer, graph._destructed_ref_idxs, graph._got_ref_idxs]
    seen = [dict(part) for part in seen]
    seen[1] = {index: sorted(positions) for index, positions in seen[1].items()}
    value = ray.get(two, timeout=PATIENCE_S)
    buffered = list(graph._result_buffer)
    values = ray.get(first, timeout=PATIENCE_S)
    return [seen, value, buffered, values, len(graph._result_buffer), len(graph._destructed_ref_idxs)]
