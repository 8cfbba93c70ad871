"""`ray.util.multiprocessing.Pool` and its results."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.conformance.kit import Flag, alive, caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


def _square(x: int) -> int:
    return x * x


def _inverse(x: float) -> float:
    return 1 / x


def _pid(_: Any = None) -> int:
    return os.getpid()


def _pool(ray: Any, processes: int | None = 2, **options: Any) -> Any:
    return sub(ray, "util.multiprocessing").Pool(processes, **options)


def map_keeps_the_order(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [pool.map(_square, range(20)), pool.map(_square, []), pool.map(_square, (3, 1))]


def map_takes_iterators(ray: Any) -> Any:
    with _pool(ray) as pool:
        return pool.map(_square, (x for x in range(7)))


def map_chunksize(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [pool.map(_square, range(10), chunksize=size) for size in (1, 3, 100)]


def map_of_what_is_no_list(ray: Any) -> Any:
    import numpy as np

    class Own(list[int]):
        def __iter__(self) -> Iterator[int]:
            return iter([7, 8, 9])

    with _pool(ray) as pool:
        return [
            pool.map(str, "spoke", chunksize=2),
            pool.map(str, {"a": 1, "b": 2, "c": 3}),
            pool.map(_square, np.arange(5)),
            pool.map(_square, range(9, 0, -2), chunksize=2),
            pool.map(_square, Own([1, 2, 3])),
        ]


def map_takes_items_as_they_are(ray: Any) -> Any:
    items = [1, 2, 3, 4, 5]
    with _pool(ray) as pool:
        found = pool.map_async(_square, items)
        items.clear()
        return found.get()


def map_deals_chunks_out_in_turn(ray: Any) -> Any:
    with _pool(ray) as pool:
        pids = pool.map(_pid, range(11), chunksize=2)
        starmapped = pool.starmap(_pid, [(x,) for x in range(11)], chunksize=2)
    return [[sorted(set(found), key=found.index).index(pid) for pid in found] for found in (pids, starmapped)]


def map_with_threads_in_a_process(ray: Any) -> Any:
    flag = Flag()

    def meet(index: int) -> bool:
        flag.append(str(index))
        return eventually(lambda: len(flag.lines()) == 2)

    with _pool(ray, 1, ray_remote_args={"max_concurrency": 2}) as pool:
        return pool.map(meet, range(2), chunksize=1)


def map_errors_of_several_chunks(ray: Any) -> Any:
    def check(x: int) -> int:
        if x % 4 == 3:
            raise ValueError(f"no {x}")
        return x

    with _pool(ray) as pool:
        calls = [partial(pool.map, check, range(16), chunksize=size) for size in (1, 2, 8)]
        return [caught(call, "no 3", kinds=(ValueError,)) for call in calls]


def map_lambda_and_closure(ray: Any) -> Any:
    bias = 5
    with _pool(ray) as pool:
        return pool.map(lambda x: x + bias, range(4))


def map_of_a_callable_object(ray: Any) -> Any:
    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

    with _pool(ray) as pool:
        return pool.map(Adder(3), range(4))


def map_error(ray: Any) -> Any:
    with _pool(ray) as pool:
        return caught(lambda: pool.map(_inverse, [1, 0, 2]), "division by zero", kinds=(ZeroDivisionError,))


def map_goes_on_after_an_error(ray: Any) -> Any:
    with _pool(ray) as pool:
        caught(lambda: pool.map(_inverse, [0]))
        return pool.map(_square, [2])


def starmap(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [pool.starmap(pow, [(2, 3), (3, 2)]), pool.starmap_async(pow, [(2, 5)]).get()]


def starmap_wrong_arguments(ray: Any) -> Any:
    with _pool(ray) as pool:
        return caught(lambda: pool.starmap(_square, [(1, 2)]), kinds=(TypeError,))


def apply(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [
            pool.apply(_square, (4,)),
            pool.apply(dict, kwds) if (kwds := ()) else pool.apply(dict, (), {"a": 1}),
            pool.apply(_square, [5]),
        ]


def apply_error(ray: Any) -> Any:
    with _pool(ray) as pool:
        return caught(lambda: pool.apply(_inverse, (0,)), kinds=(ZeroDivisionError,))


def apply_async_result(ray: Any) -> Any:
    with _pool(ray) as pool:
        result = pool.apply_async(_square, (6,))
        value = result.get(timeout=30)
        return [value, result.ready(), result.successful(), result.wait()]


def apply_async_failure(ray: Any) -> Any:
    with _pool(ray) as pool:
        result = pool.apply_async(_inverse, (0,))
        result.wait(30)
        return [result.ready(), result.successful(), caught(result.get, kinds=(ZeroDivisionError,))]


def get_timeout(ray: Any) -> Any:
    flag = Flag()
    with _pool(ray) as pool:
        result = pool.apply_async(flag.wait)
        seen = [
            caught(lambda: result.get(timeout=0.1), kinds=(multiprocessing.TimeoutError,)),
            result.ready(),
            caught(result.successful, "not ready", kinds=(ValueError,)),
        ]
        flag.set()
        return [*seen, result.get(timeout=30)]


def callbacks(ray: Any) -> Any:
    seen: list[Any] = []
    with _pool(ray) as pool:
        pool.apply_async(_square, (3,), callback=seen.append).get()
        eventually(lambda: len(seen) == 1)
        pool.map_async(_square, range(3), callback=lambda found: seen.append(sorted(found))).get()
        eventually(lambda: len(seen) == 2)
        failed = pool.apply_async(
            _inverse, (0,), callback=seen.append, error_callback=lambda e: seen.append(type(e).__name__)
        )
        failed.wait()
        eventually(lambda: len(seen) == 3)
    return seen


def map_async(ray: Any) -> Any:
    with _pool(ray) as pool:
        results = [pool.map_async(_square, range(n)) for n in range(4)]
        return [result.get() for result in results]


def imap(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [list(pool.imap(_square, range(9))), list(pool.imap(_square, range(9), chunksize=4))]


def imap_next(ray: Any) -> Any:
    with _pool(ray) as pool:
        results = pool.imap(_square, [1, 2])
        return [results.next(), next(results), caught(results.next, kinds=(StopIteration,))]


def imap_error_and_on(ray: Any) -> Any:
    with _pool(ray) as pool:
        results = pool.imap(_inverse, [1, 0, 2])
        return [caught(lambda: next(results), kinds=(ZeroDivisionError,)) for _ in range(3)]


def imap_timeout(ray: Any) -> Any:
    flag = Flag()
    with _pool(ray) as pool:
        results = pool.imap(lambda _: flag.wait(), [1])
        seen = caught(lambda: results.next(timeout=0.1), kinds=(multiprocessing.TimeoutError,))
        flag.set()
        return [seen, results.next(timeout=30)]


def imap_takes_what_it_needs(ray: Any) -> Any:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for x in range(1000):
            taken.append(x)
            yield x

    with _pool(ray) as pool:
        results = pool.imap(_square, source())
        return [next(results), len(taken) < 20]


def imap_unordered(ray: Any) -> Any:
    with _pool(ray) as pool:
        return [sorted(pool.imap_unordered(_square, range(9), size)) for size in (1, 4)]


def imap_unordered_as_they_come(ray: Any) -> Any:
    flag = Flag()

    def one(x: int) -> int:
        if x == 0:
            flag.wait()
        return x

    with _pool(ray) as pool:
        results = pool.imap_unordered(one, [0, 1])
        first = next(results)
        flag.set()
        return [first, next(results)]


def initializer(ray: Any) -> Any:
    def setup(a: str, b: str) -> None:
        os.environ["POOL_CASE"] = a + b

    with _pool(ray, initializer=setup, initargs=("x", "y")) as pool:
        return pool.map(lambda _: os.environ["POOL_CASE"], range(3))


def processes_are_others(ray: Any) -> Any:
    with _pool(ray) as pool:
        pids = set(pool.map(_pid, range(8), chunksize=1))
        return [len(pids), os.getpid() in pids]


def maxtasksperchild(ray: Any) -> Any:
    with _pool(ray, 1, maxtasksperchild=2) as pool:
        return len({pool.apply(_pid) for _ in range(6)})


def default_processes(ray: Any) -> Any:
    with _pool(ray, None) as pool:
        return len(set(pool.map(_pid, range(40), chunksize=1)))


def wrong_sizes(ray: Any) -> Any:
    return [
        caught(lambda: _pool(ray, 0), "Processes in the pool must be >0.", kinds=(ValueError,)),
        caught(lambda: _pool(ray, -1), kinds=(ValueError,)),
        caught(lambda: _pool(ray, 64), "64 processes", "only 4 CPUs", kinds=(ValueError,)),
    ]


def close_and_join(ray: Any) -> Any:
    pool = _pool(ray)
    result = pool.map_async(_square, range(5))
    pool.close()
    seen = [
        caught(lambda: pool.map(_square, [1]), "Pool not running", kinds=(ValueError,)),
        caught(lambda: pool.apply_async(_square, (1,)), kinds=(ValueError,)),
        caught(lambda: pool.imap(_square, [1]), kinds=(ValueError,)),
    ]
    pool.join()
    return [*seen, result.get()]


def join_before_close(ray: Any) -> Any:
    pool = _pool(ray)
    seen = caught(pool.join, "Pool is still running", kinds=(ValueError,))
    pool.terminate()
    pool.join()
    return seen


def terminate_ends_the_processes(ray: Any) -> Any:
    flag = Flag()
    pool = _pool(ray)
    pids = pool.map(_pid, range(4), chunksize=1)
    pool.apply_async(flag.wait)
    pool.terminate()
    pool.join()
    return eventually(lambda: not any(alive(pid) for pid in pids))


def with_ends_the_pool(ray: Any) -> Any:
    with _pool(ray) as pool:
        pool.map(_square, [1])
    return caught(lambda: pool.map(_square, [1]), "Pool not running", kinds=(ValueError,))


def use_after_the_end_in_with(ray: Any) -> Any:
    pool = _pool(ray)
    pool.terminate()
    return caught(pool.__enter__, kinds=(ValueError,))


def a_process_dies(ray: Any) -> Any:
    with _pool(ray, 1) as pool:
        error = caught(lambda: pool.apply(os._exit, (1,)))
        return error["error"] in ("ActorDiedError", "RayActorError")


def remote_arguments(ray: Any) -> Any:
    with _pool(ray, 1, ray_remote_args={"num_cpus": 1}) as pool:
        pool.apply(_pid)
        return eventually(lambda: ray.available_resources().get("CPU", 0) == 3)


def in_a_task(ray: Any) -> Any:
    @ray.remote
    def outer() -> Any:
        with sub(ray, "util.multiprocessing").Pool(2) as pool:
            return pool.map(_square, range(3))

    return ray.get(outer.remote())


def refs_as_items(ray: Any) -> Any:
    with _pool(ray) as pool:
        return pool.map(lambda ref: ray.get(ref) + 1, [ray.put(1), ray.put(2)])


def names(ray: Any) -> Any:
    module = sub(ray, "util.multiprocessing")
    return [hasattr(module, name) for name in ("Pool", "TimeoutError", "JoinableQueue")]
