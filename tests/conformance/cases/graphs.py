"""`ray.dag`: bind, execute, and what `experimental_compile` accepts."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


def _add(ray: Any) -> Any:
    @ray.remote
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def _step(ray: Any) -> Any:
    @ray.remote
    class Step:
        def __init__(self, n: int = 0) -> None:
            self.n = n

        def inc(self) -> int:
            self.n += 1
            return self.n

        def add(self, x: int, y: int = 0) -> int:
            return x + y

        def fail(self, x: int) -> int:
            raise ValueError("no")

        @ray.method(num_returns=2)
        def two(self, x: int) -> tuple[int, int]:
            return x, -x

    return Step


def _graph(ray: Any, build: Any) -> Any:
    with sub(ray, "dag").InputNode() as given:
        return build(given)


def function(ray: Any) -> Any:
    add = _add(ray)
    return [ray.get(add.bind(1, 2).execute()), ray.get(add.bind(add.bind(1, 2), y=add.bind(3)).execute())]


def options_of_a_function(ray: Any) -> Any:
    return ray.get(_add(ray).options(num_cpus=0.5).bind(1).execute())


def one_input(ray: Any) -> Any:
    return ray.get(_graph(ray, lambda given: _add(ray).bind(given, 1)).execute(5))


def parts_of_the_input(ray: Any) -> Any:
    graph = _graph(ray, lambda given: _add(ray).bind(given[0], given.k))
    return ray.get(graph.execute(5, k=2))


def items_of_the_input(ray: Any) -> Any:
    graph = _graph(ray, lambda given: _add(ray).bind(given[0], given[1]))
    return [ray.get(graph.execute(1, 2)), ray.get(graph.execute([3, 4]))]


def fields_of_the_input(ray: Any) -> Any:
    graph = _graph(ray, lambda given: _add(ray).bind(given["a"], given["b"]))
    return [ray.get(graph.execute(a=1, b=2)), ray.get(graph.execute({"a": 3, "b": 4}))]


def wrong_key_of_the_input(ray: Any) -> Any:
    return _graph(ray, lambda given: caught(lambda: given[1.5], kinds=(ValueError,)))


def nodes_in_containers(ray: Any) -> Any:
    add = _add(ray)

    @ray.remote
    def total(parts: Any) -> Any:
        return [ray.get(parts["a"][0]), ray.get(parts["b"])]

    return ray.get(total.bind({"a": [add.bind(1)], "b": add.bind(2)}).execute())


def a_node_runs_once(ray: Any) -> Any:
    step = _step(ray).remote()
    one = step.inc.bind()
    return ray.get(_add(ray).bind(one, one).execute())


def class_node(ray: Any) -> Any:
    return ray.get(_step(ray).bind(5).inc.bind().execute())


def class_node_per_execution(ray: Any) -> Any:
    graph = _step(ray).bind(5).inc.bind()
    return [ray.get(graph.execute()), ray.get(graph.execute())]


def class_node_keeps_the_order(ray: Any) -> Any:
    step = _step(ray).bind()
    first, second = step.inc.bind(), step.inc.bind()
    return [ray.get(node) for node in sub(ray, "dag").MultiOutputNode([second, first]).execute()]


def class_node_takes_nodes(ray: Any) -> Any:
    return ray.get(_step(ray).bind(_add(ray).bind(1, 1)).inc.bind().execute())


def method_of_a_handle(ray: Any) -> Any:
    step = _step(ray).remote()
    return [
        ray.get(step.add.bind(3, y=4).execute()),
        ray.get(step.inc.bind().execute()),
        ray.get(step.inc.remote()),
    ]


def several_outputs(ray: Any) -> Any:
    add = _add(ray)
    return [ray.get(ref) for ref in sub(ray, "dag").MultiOutputNode([add.bind(1), add.bind(2)]).execute()]


def several_outputs_of_no_nodes(ray: Any) -> Any:
    return caught(lambda: sub(ray, "dag").MultiOutputNode([1]), kinds=(ValueError,))


def error_in_a_node(ray: Any) -> Any:
    step = _step(ray).remote()
    graph = _add(ray).bind(step.fail.bind(1))
    return caught(lambda: ray.get(graph.execute()), "no", kinds=(ValueError,))


def wrong_arguments(ray: Any) -> Any:
    step = _step(ray).remote()
    return [
        caught(lambda: step.add.bind(1, 2, 3), "too many positional arguments", kinds=(TypeError,)),
        caught(lambda: _add(ray).bind(1, 2, 3).execute(), kinds=(TypeError,)),
        caught(lambda: _add(ray).bind(1)(), "not callable", kinds=(TypeError,)),
    ]


def kinds_of_nodes(ray: Any) -> Any:
    dag, add, step = sub(ray, "dag"), _add(ray), _step(ray)
    nodes = [
        add.bind(1), step.bind(), step.bind().inc.bind(), step.remote().inc.bind(), dag.InputNode(),
        dag.InputNode()[0], dag.MultiOutputNode([add.bind(1)]),
    ]  # fmt: skip
    return [[type(node).__name__, isinstance(node, dag.DAGNode)] for node in nodes]


def what_a_node_was_bound_with(ray: Any) -> Any:
    node = _add(ray).bind(1, y=2)
    return [list(node.get_args()), node.get_kwargs(), type(node.get_stable_uuid()).__name__]


def method_name(ray: Any) -> Any:
    return _step(ray).remote().add.bind(1).get_method_name()


def compile_of_functions(ray: Any) -> Any:
    graph = _graph(ray, lambda given: _add(ray).bind(given))
    return caught(graph.experimental_compile, "only support actor method nodes", kinds=(NotImplementedError,))


def compile_without_input(ray: Any) -> Any:
    node = _step(ray).remote().inc.bind()
    return caught(node.experimental_compile, "Compiled DAGs require", kinds=(ValueError,))


def compile_of_a_class_node(ray: Any) -> Any:
    graph = _graph(ray, lambda given: _step(ray).bind().add.bind(given))
    return caught(graph.experimental_compile, "already created", kinds=(ValueError,))


def context_defaults(ray: Any) -> Any:
    context = sub(ray, "dag").DAGContext.get_current()
    return [
        context.submit_timeout, context.get_timeout, context.teardown_timeout, context.buffer_size_bytes,
        context.max_inflight_executions, context is sub(ray, "dag").DAGContext.get_current(),
    ]  # fmt: skip
