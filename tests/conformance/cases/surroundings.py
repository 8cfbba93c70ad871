"""ActorPool, Queue, tqdm_ray, metrics and graphs in their rarer uses."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from typing import Any

from tests.conformance.kit import Flag, caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class _Worker:
    def double(self, x: int) -> int:
        return 2 * x

    def fail(self, x: int) -> int:
        if x == 1:
            raise ValueError("one")
        return x

    def wait(self, flag: Flag) -> str:
        flag.wait()
        return "waited"

    def pid(self, _x: Any = None) -> int:
        return os.getpid()


def _pool(ray: Any, size: int = 2) -> Any:
    kind = ray.remote(_Worker)
    return sub(ray, "util.actor_pool").ActorPool([kind.remote() for _ in range(size)])


def _double(actor: Any, x: int) -> Any:
    return actor.double.remote(x)


# -- ActorPool


def pool_of_none(ray: Any) -> Any:
    pool = sub(ray, "util.actor_pool").ActorPool([])
    return [pool.has_next(), pool.has_free(), pool.pop_idle(), caught(pool.get_next, kinds=(StopIteration,))]


def pool_more_work_than_actors(ray: Any) -> Any:
    pool = _pool(ray, 1)
    for x in range(5):
        pool.submit(_double, x)
    return [pool.has_free(), [pool.get_next() for _ in range(5)], pool.has_free(), pool.has_next()]


def pool_map_is_lazy(ray: Any) -> Any:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for x in range(3):
            taken.append(x)
            yield x

    results = _pool(ray).map(_double, items())
    before = list(taken)
    return [before, list(results), taken]


def pool_map_goes_on_after_an_error(ray: Any) -> Any:
    pool = _pool(ray)
    results = pool.map(lambda actor, x: actor.fail.remote(x), range(4))
    return [caught(lambda: next(results), kinds=(ValueError,)) for _ in range(4)]


def pool_map_twice(ray: Any) -> Any:
    pool = _pool(ray)
    return [list(pool.map(_double, range(3))), sorted(pool.map_unordered(_double, range(3)))]


def pool_map_after_unfinished_submissions(ray: Any) -> Any:
    pool = _pool(ray)
    pool.submit(_double, 100)
    return list(pool.map(_double, range(3)))


def pool_timeout_leaves_the_result(ray: Any) -> Any:
    flag = Flag()
    pool = _pool(ray, 1)
    pool.submit(lambda actor, given: actor.wait.remote(given), flag)
    first = caught(lambda: pool.get_next(timeout=0.1), kinds=(TimeoutError,))
    flag.set()
    return [first["is"], pool.has_next(), pool.get_next(timeout=30)]


def pool_timeout_ignored(ray: Any) -> Any:
    flag = Flag()
    pool = _pool(ray, 1)
    pool.submit(lambda actor, given: actor.wait.remote(given), flag)
    seen = caught(lambda: pool.get_next(timeout=0.1, ignore_if_timedout=True), kinds=(TimeoutError,))
    flag.set()
    return [seen.get("is"), pool.has_next()]


def pool_unordered_timeout(ray: Any) -> Any:
    flag = Flag()
    pool = _pool(ray, 1)
    pool.submit(lambda actor, given: actor.wait.remote(given), flag)
    first = caught(lambda: pool.get_next_unordered(timeout=0.1), kinds=(TimeoutError,))
    flag.set()
    return [first["is"], pool.get_next_unordered(timeout=30)]


def pool_mixed_orders(ray: Any) -> Any:
    pool = _pool(ray, 1)
    pool.submit(_double, 1)
    pool.submit(_double, 2)
    pool.get_next_unordered()
    return caught(pool.get_next, kinds=(ValueError,))


def pool_grows_and_shrinks(ray: Any) -> Any:
    pool = _pool(ray, 1)
    pool.push(ray.remote(_Worker).remote())
    pids = sorted(pool.map(lambda actor, x: actor.pid.remote(x), range(8)))
    actor = pool.pop_idle()
    left = list(pool.map(lambda one, x: one.pid.remote(x), range(2)))
    return [len(set(pids)), len(set(left)), ray.get(actor.pid.remote()) in left]


# -- Queue


def _queue(ray: Any, *args: Any, **kwargs: Any) -> Any:
    return sub(ray, "util.queue").Queue(*args, **kwargs)


def queue_options_of_its_actor(ray: Any) -> Any:
    queue = _queue(ray, actor_options={"num_cpus": 1, "name": "the-queue"})
    queue.put("x")
    seen = [ray.get_actor("the-queue") is not None, queue.get()]
    queue.shutdown()
    return seen


def queue_keeps_kinds(ray: Any) -> Any:
    queue = _queue(ray)
    items = [None, 0, "", b"b", (1, 2), {"k": [1]}]
    for item in items:
        queue.put(item)
    seen = [queue.get() == item for item in items]
    queue.shutdown()
    return seen


def queue_of_refs(ray: Any) -> Any:
    queue = _queue(ray)
    queue.put([ray.put(5)])
    (ref,) = queue.get()
    value = ray.get(ref)
    queue.shutdown()
    return value


def queue_wakes_who_waits(ray: Any) -> Any:
    queue = _queue(ray)

    @ray.remote
    def take(queue: Any) -> Any:
        return queue.get(timeout=30)

    waiting = take.remote(queue)
    queue.put("late")
    value = ray.get(waiting, timeout=60)
    queue.shutdown()
    return value


def queue_full_wakes_who_puts(ray: Any) -> Any:
    queue = _queue(ray, maxsize=1)
    queue.put(1)

    @ray.remote
    def add(queue: Any) -> bool:
        queue.put(2, timeout=30)
        return True

    waiting = add.remote(queue)
    seen = [queue.get(), ray.get(waiting, timeout=60), queue.get()]
    queue.shutdown()
    return seen


def queue_batches_of_wrong_kinds(ray: Any) -> Any:
    queue = _queue(ray)
    seen = [
        caught(lambda: queue.put_nowait_batch(5), kinds=(TypeError,)),
        caught(lambda: queue.get_nowait_batch("2"), kinds=(TypeError,)),
        caught(lambda: queue.get_nowait_batch(-1), kinds=(ValueError,)),
    ]
    queue.shutdown()
    return seen


def queue_async_batch(ray: Any) -> Any:
    queue = _queue(ray, maxsize=3)
    empty = sub(ray, "util.queue").Empty

    async def use() -> Any:
        await queue.put_async(1)
        await queue.put_async(2, block=False)
        got = [await queue.get_async(), await queue.get_async(block=False)]
        try:
            await queue.get_async(timeout=0.1)
        except empty as error:
            return [got, isinstance(error, empty)]
        return got

    seen = asyncio.run(use())
    queue.shutdown()
    return seen


def queue_after_its_end(ray: Any) -> Any:
    queue = _queue(ray)
    queue.shutdown(force=True)
    return caught(lambda: queue.put(1), kinds=(Exception,))["is"]


def queue_errors_are_those_of_the_library(ray: Any) -> Any:
    import queue

    module = sub(ray, "util.queue")
    return [issubclass(module.Empty, queue.Empty), issubclass(module.Full, queue.Full)]


# -- tqdm_ray


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def tqdm_over_a_list(ray: Any) -> Any:
    with _silent():
        return list(sub(ray, "experimental.tqdm_ray").tqdm([1, 2, 3], desc="list"))


def tqdm_over_a_generator(ray: Any) -> Any:
    with _silent():
        return sum(sub(ray, "experimental.tqdm_ray").tqdm(iter(range(5)), total=5))


def tqdm_by_hand(ray: Any) -> Any:
    with _silent():
        bar = sub(ray, "experimental.tqdm_ray").tqdm(total=10, desc="by hand", position=1)
        return [bar.update(3), bar.update(), bar.set_description("other"), bar.close(), bar.close()]


def tqdm_refresh(ray: Any) -> Any:
    with _silent():
        bar = sub(ray, "experimental.tqdm_ray").tqdm(total=2)
        seen = [bar.refresh(), bar.update(1)]
        bar.close()
    return seen


def tqdm_in_a_task(ray: Any) -> Any:
    name = f"{ray.__name__}.experimental.tqdm_ray"

    @ray.remote
    def work() -> int:
        bars = importlib.import_module(name)
        return sum(bars.tqdm(range(4), desc="task"))

    return ray.get(work.remote())


def tqdm_in_an_actor(ray: Any) -> Any:
    name = f"{ray.__name__}.experimental.tqdm_ray"

    @ray.remote
    class Counts:
        def run(self) -> list[int]:
            bars = importlib.import_module(name)
            bar = bars.tqdm(total=3)
            bar.update(3)
            bar.close()
            return [1, 2, 3]

    return ray.get(Counts.remote().run.remote())


def tqdm_safe_print(ray: Any) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        sub(ray, "experimental.tqdm_ray").safe_print("a", "b", sep="-")
    return out.getvalue()


def tqdm_flush_interval(ray: Any) -> Any:
    with _silent():
        bar = sub(ray, "experimental.tqdm_ray").tqdm(total=1, flush_interval_s=0.0, unit="row")
        bar.update(1)
        return bar.close()


# -- metrics


def metric_kinds(ray: Any) -> Any:
    module = sub(ray, "util.metrics")
    return [
        caught(lambda: module.Histogram("no_boundaries"), kinds=(ValueError, TypeError)).get("is"),
        caught(lambda: module.Histogram("empty_boundaries", boundaries=[]), kinds=(ValueError,)).get("is"),
        caught(lambda: module.Counter("wrong_keys", tag_keys=("a", 1)), kinds=(TypeError,)).get("is"),
        caught(lambda: module.Counter("keys_as_text", tag_keys="a"), kinds=(TypeError,)).get("is"),
        caught(lambda: module.Counter("zero").inc(0), kinds=(ValueError,)),
        caught(lambda: module.Counter("negative").inc(-1), kinds=(ValueError,)),
    ]


def metric_twice_by_one_name(ray: Any) -> Any:
    module = sub(ray, "util.metrics")
    first, second = module.Gauge("same_gauge"), module.Gauge("same_gauge")
    return [first.set(1), second.set(2), first.info["name"] == second.info["name"]]


# -- graphs


def graph_as_an_argument(ray: Any) -> Any:
    dag = sub(ray, "dag")

    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    with dag.InputNode() as given:
        node = add.bind(add.bind(given, 1), add.bind(given, 2))
    return [ray.get(node.execute(x)) for x in (1, 2)]


def graph_into_a_task(ray: Any) -> Any:
    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    def more(x: Any) -> Any:
        return x + 1

    return ray.get(more.remote(one.bind().execute()))


def graph_without_its_input(ray: Any) -> Any:
    dag = sub(ray, "dag")

    @ray.remote
    def same(x: Any) -> Any:
        return x

    with dag.InputNode() as given:
        node = same.bind(given)
    return caught(lambda: ray.get(node.execute()), kinds=(Exception,)).get("is")


def compiled_graph_round_trips(ray: Any) -> Any:
    dag = sub(ray, "dag")
    actor = ray.remote(_Worker).remote()
    with dag.InputNode() as given:
        node = actor.double.bind(given)
    graph = node.experimental_compile()
    seen = [ray.get(graph.execute(x)) for x in range(5)]
    graph.teardown()
    return seen


def compiled_graph_error_and_on(ray: Any) -> Any:
    dag = sub(ray, "dag")
    actor = ray.remote(_Worker).remote()
    with dag.InputNode() as given:
        node = actor.fail.bind(given)
    graph = node.experimental_compile()
    seen = [caught(lambda x=x: ray.get(graph.execute(x)), kinds=(ValueError,)) for x in (0, 1, 2)]  # type: ignore[misc]
    graph.teardown()
    return seen


def compiled_graph_of_two_outputs(ray: Any) -> Any:
    dag = sub(ray, "dag")
    first, second = (ray.remote(_Worker).remote() for _ in range(2))
    with dag.InputNode() as given:
        node = dag.MultiOutputNode([first.double.bind(given), second.double.bind(given)])
    graph = node.experimental_compile()
    seen = [ray.get(graph.execute(x)) for x in (1, 2)]
    graph.teardown()
    return seen


def compiled_graph_after_teardown(ray: Any) -> Any:
    dag = sub(ray, "dag")
    actor = ray.remote(_Worker).remote()
    with dag.InputNode() as given:
        node = actor.double.bind(given)
    graph = node.experimental_compile()
    ray.get(graph.execute(1))
    graph.teardown()
    return ray.get(actor.double.remote(4))
