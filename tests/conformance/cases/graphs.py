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


def constants(ray: Any) -> Any:
    dag = sub(ray, "dag")
    return [
        dag.PARENT_CLASS_NODE_KEY, dag.PREV_CLASS_METHOD_CALL_KEY, dag.BIND_INDEX_KEY,
        dag.IS_CLASS_METHOD_OUTPUT_KEY, dag.COLLECTIVE_OPERATION_KEY, dag.DAGNODE_TYPE_KEY,
    ]  # fmt: skip


def _shown(values: dict[str, Any]) -> Any:
    """Names, and plain values."""
    plain = (int, str, bool, type(None))
    return {key: value if isinstance(value, plain) else type(value).__name__ for key, value in values.items()}


def what_else_a_node_depends_on(ray: Any) -> Any:
    dag, step = sub(ray, "dag"), _step(ray)
    handle, made = step.remote(), step.bind()
    first, second = made.inc.bind(), made.inc.bind()
    with dag.InputNode() as given:
        part = given[0]
    nodes = [_add(ray).bind(1), made, first, second, handle.inc.bind(), handle.inc.bind(), given, part]
    return [
        *[_shown(node.get_other_args_to_resolve()) for node in nodes],
        second.get_other_args_to_resolve()[dag.PREV_CLASS_METHOD_CALL_KEY] is first,
        second.get_other_args_to_resolve()[dag.PARENT_CLASS_NODE_KEY] is made,
    ]


def one_of_several_returns(ray: Any) -> Any:
    dag = sub(ray, "dag")
    plus, minus = _step(ray).remote().two.bind(5)
    call = plus.class_method_call
    return [
        [isinstance(node, dag.ClassMethodNode) for node in (plus, minus, call)],
        [[one.is_class_method_call, one.is_class_method_output] for one in (plus, call)],
        [[one.num_returns, one.output_idx] for one in (plus, call)],
        minus.class_method_call is call, call.class_method_call, minus.get_args()[1],
        _shown(plus.get_other_args_to_resolve()), ray.get(minus.execute()),
    ]  # fmt: skip


def _walked(ray: Any) -> Any:
    dag, handle = sub(ray, "dag"), _step(ray).remote()
    with dag.InputNode() as given:
        sum_of = _add(ray).bind(given[0], y=handle.add.bind(given.k, 1))
        return dag.MultiOutputNode([sum_of, sum_of])


def walk_upstream_first(ray: Any) -> Any:
    seen: list[str] = []

    def visit(node: Any) -> Any:
        seen.append(type(node).__name__)
        return node

    return [type(_walked(ray).apply_recursive(visit)).__name__, seen]


def walk_downstream_first(ray: Any) -> Any:
    seen: list[str] = []
    found = _walked(ray).traverse_and_apply(lambda node: seen.append(type(node).__name__))
    return [found, seen]


def a_walk_that_replaces(ray: Any) -> Any:
    add, dag = _add(ray), sub(ray, "dag")
    graph = add.bind(add.bind(1), y=add.bind(2))
    seen = graph.apply_recursive(lambda node: [list(node.get_args()), node.get_kwargs()])
    wanted = lambda item: isinstance(item, dag.DAGNode)  # noqa: E731
    return [seen, graph.apply_functional([1, [graph, 2]], wanted, lambda node: "N")]


def refs_of_the_last_execution(ray: Any) -> Any:
    node = _add(ray).bind(1, y=2)

    def refs() -> Any:
        import asyncio

        return asyncio.run(node.get_object_refs_from_last_execute())

    before = (node.execute(), refs())[1]
    node.execute(_ray_cache_refs=True)
    kept = {uuid == node.get_stable_uuid(): ray.get(ref) for uuid, ref in refs().items()}
    node.clear_cache()
    return [before, kept]


def nodes_made_by_hand(ray: Any) -> Any:
    dag = sub(ray, "dag")

    class Plain:
        def __init__(self, value: int) -> None:
            self.value = value

        def get(self) -> int:
            return self.value

    handle = ray.remote(Plain).remote(4)
    method = dag.ClassMethodNode("get", (), {}, {}, {dag.PARENT_CLASS_NODE_KEY: handle})
    return [
        ray.get(dag.FunctionNode(lambda x: x + 1, (1,), {}, {}).execute()),
        ray.get(dag.ClassNode(Plain, (7,), {}, {}).get.bind().execute()), ray.get(method.execute()),
    ]  # fmt: skip


def types_of_the_input(ray: Any) -> Any:
    kind = sub(ray, "dag").InputNode
    with kind() as nothing, kind(input_type=int) as one, kind(input_type={0: int, "k": str}) as several:
        seen = [nothing, one, several, several[0], several.k, nothing[1]]
    return [[node.get_result_type() for node in seen], several.k.key, caught(lambda: kind(5))]


def hints_how_tensors_travel(ray: Any) -> Any:
    node = _add(ray).bind(1)
    before = type(node.type_hint).__name__
    same = node.with_tensor_transport() is node
    seen = []
    for transport in ("auto", "nccl", "shm", "accelerator"):
        hint = node.with_tensor_transport(transport).type_hint
        seen.append([type(hint).__name__, hint.requires_accelerator()])
    return [
        before, same, seen, caught(lambda: node.with_tensor_transport("zz"), "Invalid transport type: zz"),
        caught(lambda: node.with_tensor_transport(device="zz"), "Invalid device 'zz'"),
    ]  # fmt: skip


def futures(ray: Any) -> Any:
    module = sub(ray, "dag.dag_operation_future")
    return [module.ResolvedFuture(3).wait(), caught(sub(ray, "dag").DAGOperationFuture, "abstract")]


def every_default_of_the_context(ray: Any) -> Any:
    import dataclasses

    module = sub(ray, "dag.context")
    constants = {name: getattr(module, name) for name in dir(module) if name.startswith("DEFAULT_")}
    return [dataclasses.asdict(module.DAGContext()), constants]


def collective_nodes(ray: Any) -> Any:
    dag, collective = sub(ray, "dag"), sub(ray, "experimental.collective")
    one, two = _step(ray).remote(), _step(ray).remote()
    with dag.InputNode() as given:
        inputs = [one.add.bind(given), two.add.bind(given)]
        made = collective.allreduce.bind(inputs)
        twice = [inputs[0], one.add.bind(given)]
        return [
            [type(node).__name__ for node in made], isinstance(made[0], dag.ClassMethodNode),
            caught(lambda: made[0].execute(1), "only supported with dag.experimental_compile()"),
            caught(lambda: collective.allreduce.bind(twice), "unique actor handles"),
            caught(lambda: collective.allreduce.bind(inputs, op="x"), "Unexpected operation: x"),
        ]  # fmt: skip
