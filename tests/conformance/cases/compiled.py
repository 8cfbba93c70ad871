"""Compiled graphs: inputs, outputs, what is refused, waiting, capacity, asyncio, their end."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

from tests.conformance.kit import actors_for_graphs, caught, compiled, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class _Worker:
    def __init__(self, start: int = 0) -> None:
        self.total = start

    def add(self, x: Any, y: Any = 1) -> Any:
        return x + y

    def keep(self, x: int) -> int:
        self.total += x
        return self.total

    def both(self, x: Any, y: Any) -> Any:
        return [x, y]

    def two(self, x: int) -> tuple[int, int]:
        return x, -x

    def fail(self, x: int) -> int:
        if x % 2:
            raise ValueError(f"no {x}")
        return x

    def nap(self, seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    def nothing(self, x: Any) -> None: ...


def _made(ray: Any, count: int = 1) -> list[Any]:
    return actors_for_graphs(ray, _Worker, count)


def _several(ray: Any, nodes: list[Any]) -> Any:
    return sub(ray, "dag").MultiOutputNode(nodes)


# -- what goes in and comes out


def constants_and_names(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given, y=5))
    return [graph.execute(x).get() for x in (1, 2)]


def several_inputs(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.both.bind(given[0], given[1]))
    return [graph.execute(1, 2).get(), graph.execute("x", None).get()]


def named_inputs(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.both.bind(given[0], given.other))
    return graph.execute(1, other=2).get()


def wrong_inputs(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.both.bind(given[0], given.other))
    kinds = (ValueError, TypeError)
    return [
        caught(lambda: graph.execute(), kinds=kinds),
        caught(lambda: graph.execute(1), kinds=kinds),
        caught(lambda: graph.execute(1, 2, other=3), kinds=kinds),
        caught(lambda: graph.execute(1, another=3), kinds=kinds),
        graph.execute(1, other=2).get(),
    ]


def the_whole_input_of_several(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    return [caught(lambda: graph.execute(1, 2).get(), kinds=(ValueError, TypeError)), graph.execute(3).get()]


def none_goes_through(ray: Any) -> Any:
    a, b = _made(ray, 2)
    graph = compiled(ray, lambda given: b.both.bind(a.nothing.bind(given), given))
    return graph.execute(None).get()


def kinds_of_values(ray: Any) -> Any:
    import numpy as np

    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.both.bind(given, "c"))
    values = [b"bytes", {"k": (1, 2)}, np.arange(3), "text" * 3, {1, 2}]
    return [graph.execute(value).get() for value in values]


def state_is_kept(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.keep.bind(given))
    seen = [graph.execute(x).get() for x in (1, 2, 3)]
    graph.teardown()
    return [seen, ray.get(a.keep.remote(4))]


def one_actor_twice(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(a.add.bind(given), 10))
    return graph.execute(1).get()


def one_value_for_several(ray: Any) -> Any:
    a, b, c = _made(ray, 3)

    def build(given: Any) -> Any:
        first = a.add.bind(given)
        return _several(ray, [b.add.bind(first), c.add.bind(first, 2), first])

    graph = compiled(ray, build)
    return [ray.get(graph.execute(x)) for x in (1, 2)]


def one_output_in_a_list(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: _several(ray, [a.add.bind(given)]))
    found = graph.execute(1)
    return [type(found).__name__, ray.get(found)]


def parts_of_what_is_returned(ray: Any) -> Any:
    a, b = _made(ray, 2)

    def build(given: Any) -> Any:
        first, second = a.two.options(num_returns=2).bind(given)
        return _several(ray, [b.add.bind(first), b.add.bind(second)])

    graph = compiled(ray, build)
    return ray.get(graph.execute(5))


# -- refs


def refs_of_several_outputs(ray: Any) -> Any:
    a, b = _made(ray, 2)
    graph = compiled(ray, lambda given: _several(ray, [a.add.bind(given), b.add.bind(given, 2)]))
    first, second = graph.execute(1)
    return [second.get(), first.get(), type(first).__name__]


def a_ref_is_asked_once(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    ref = graph.execute(1)
    return [ref.get(), caught(ref.get, "only be called once", kinds=(ValueError,))]


def a_ref_stays_here(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    ref = graph.execute(1)
    tried = [pickle.dumps, copy.copy, copy.deepcopy]
    errors = [caught(lambda one=one: one(ref), kinds=(ValueError, TypeError)) for one in tried]  # type: ignore[misc]
    return [errors, ref.get()]


def refs_in_another_order(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.keep.bind(given))
    refs = [graph.execute(x) for x in range(4)]
    return [ray.get(ref) for ref in reversed(refs)]


def a_list_of_refs(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.keep.bind(given))
    return ray.get([graph.execute(x) for x in range(4)])


def waiting_for_a_late_result(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.nap.bind(given))
    graph.execute(0.0).get()
    ref = graph.execute(1.0)
    return caught(lambda: ray.get(ref, timeout=0.05), kinds=(TimeoutError,))


# -- errors and limits


def an_error_travels_on(ray: Any) -> Any:
    a, b = _made(ray, 2)
    graph = compiled(ray, lambda given: _several(ray, [b.add.bind(a.fail.bind(given)), b.add.bind(given)]))
    return [caught(lambda x=x: ray.get(graph.execute(x)), "no", kinds=(ValueError,)) for x in (0, 1, 2)]  # type: ignore[misc]


def too_many_executions(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given), _max_inflight_executions=2)
    refs = [graph.execute(x) for x in range(2)]
    error = caught(lambda: graph.execute(3))
    return [error, ray.get(refs), graph.execute(4).get()]


def what_is_refused(ray: Any) -> Any:
    a, b = _made(ray, 2)
    task = ray.remote(num_cpus=0)(lambda x: x)
    kinds = (ValueError, TypeError, NotImplementedError)

    def unused(given: Any) -> Any:
        b.add.bind(given)
        return a.add.bind(given)

    builds: list[Callable[[Any], Any]] = [
        lambda given: task.bind(given),
        lambda given: a.add.bind(1),
        lambda given: given,
        lambda given: a.add.bind(task.bind(given)),
        lambda given: _several(ray, []),
        unused,
    ]
    return [bool(caught(lambda one=one: compiled(ray, one), kinds=kinds).get("error")) for one in builds]  # type: ignore[misc]


def the_death_of_an_actor(ray: Any) -> Any:
    a, b = _made(ray, 2)
    graph = compiled(ray, lambda given: b.add.bind(a.add.bind(given)))
    first = graph.execute(1).get()
    ray.kill(a)
    return [first, eventually(lambda: "error" in caught(lambda: graph.execute(2).get(timeout=10)))]


# -- asyncio


def the_wrong_way_to_execute(ray: Any) -> Any:
    a, b = _made(ray, 2)
    plain = compiled(ray, lambda given: a.add.bind(given))
    with_asyncio = compiled(ray, lambda given: b.add.bind(given), enable_asyncio=True)
    return [
        caught(lambda: asyncio.run(plain.execute_async(1)), "enable_asyncio=False", kinds=(ValueError,)),
        caught(lambda: with_asyncio.execute(1), "enable_asyncio=True", kinds=(ValueError,)),
    ]


# -- the end


def torn_down(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    graph.execute(1).get()
    graph.teardown()
    graph.teardown()
    return ["error" in caught(lambda: graph.execute(2).get(timeout=10)), ray.get(a.add.remote(1))]


def torn_down_with_its_actors(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    graph.execute(1).get()
    graph.teardown(kill_actors=True)
    return eventually(lambda: "error" in caught(lambda: ray.get(a.add.remote(1), timeout=30)))


def an_actor_for_the_next_graph(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    seen = [graph.execute(1).get()]
    graph.teardown()
    graph = compiled(ray, lambda given: a.add.bind(given, 10))
    return [*seen, graph.execute(1).get()]


def compiled_twice(ray: Any) -> Any:
    (a,) = _made(ray)
    with sub(ray, "dag").InputNode() as given:
        node = a.add.bind(given)
    first = node.experimental_compile()
    return [first.execute(1).get(), caught(node.experimental_compile, kinds=(ValueError,))]


def what_it_says_of_itself(ray: Any) -> Any:
    (a,) = _made(ray)
    graph = compiled(ray, lambda given: a.add.bind(given))
    before = graph.is_teardown
    ref = graph.execute(1)
    text = str(ref).startswith("CompiledDAGRef(") and graph.get_id() in str(ref)
    ref.get()
    graph.teardown()
    return [before, graph.is_teardown, isinstance(graph.get_id(), str), text]
