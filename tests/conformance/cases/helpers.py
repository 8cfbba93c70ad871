"""`ray.util`: results as they come, pools whose actors die, groups of actors, what is said once."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


def _tasks(ray: Any) -> tuple[Any, Any]:
    @ray.remote(num_cpus=0.1)
    def double(x: int) -> int:
        return 2 * x

    @ray.remote(num_cpus=0.1)
    def held(flag: Flag) -> str:
        flag.wait()
        return "held"

    return double, held


def _worker(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Worker:
        def double(self, x: int) -> int:
            return 2 * x

        @ray.method(num_returns=2)
        def both(self, x: int) -> tuple[int, int]:
            return x, -x

        def wait_for(self, flag: Flag) -> str:
            flag.wait()
            return "held"

        def fail(self, x: int) -> None:
            raise ValueError(f"no {x}")

        def die(self, x: int) -> None:
            os._exit(1)

    return Worker


# -- results as they come


def as_completed_of_all(ray: Any) -> Any:
    double, _ = _tasks(ray)
    refs = [double.remote(x) for x in range(25)]
    return [sorted(ray.util.as_completed(refs)), list(ray.util.as_completed([])), len(refs)]


def as_completed_gives_refs(ray: Any) -> Any:
    double, _ = _tasks(ray)
    refs = [double.remote(x) for x in range(5)]
    found = list(ray.util.as_completed(refs, chunk_size=2, yield_obj_refs=True))
    return [sorted(map(refs.index, found)), type(found[0]).__name__]


def as_completed_does_not_wait_for_the_slow(ray: Any) -> Any:
    double, held = _tasks(ray)
    flag = Flag()
    results = ray.util.as_completed([held.remote(flag), double.remote(2)], chunk_size=1)
    first = next(results)
    flag.set()
    return [first, *results]


def as_completed_timeout_bounds_one_wait(ray: Any) -> Any:
    _, held = _tasks(ray)
    flag = Flag()
    refs = [held.remote(flag)]
    results = ray.util.as_completed(refs, chunk_size=1, timeout=0.05)
    ray.wait(refs, timeout=0.3)
    flag.set()
    return list(results)


def as_completed_wrong_arguments(ray: Any) -> Any:
    double, _ = _tasks(ray)
    refs = [double.remote(1)]
    return [
        caught(lambda: list(ray.util.as_completed(refs, chunk_size=0)), "`chunk_size` must be >= 1"),
        caught(lambda: list(ray.util.as_completed(refs, num_returns=1)), "instead of `num_returns`"),
        caught(lambda: list(ray.util.as_completed(refs, nothing=1)), kinds=(TypeError,)),
    ]


def as_completed_error(ray: Any) -> Any:
    worker = _worker(ray).remote()
    refs = [worker.double.remote(1), worker.fail.remote(2)]
    return caught(lambda: list(ray.util.as_completed(refs)), "no 2", kinds=(ValueError,))


def map_unordered_of_all(ray: Any) -> Any:
    double, _ = _tasks(ray)
    mapped = ray.util.map_unordered
    return [
        sorted(mapped(double, range(30))),
        sorted(mapped(double, (x for x in range(7)), backpressure_size=2)),
        sorted(mapped(double, range(7), backpressure_size=3, chunk_size=2)),
        sorted(mapped(double, range(3), backpressure_size=None)),
        list(mapped(double, [])),
    ]


def map_unordered_wrong_arguments(ray: Any) -> Any:
    double, _ = _tasks(ray)
    mapped = ray.util.map_unordered
    return [
        caught(lambda: list(mapped(double, [1], backpressure_size=0)), "must be positive"),
        caught(lambda: list(mapped(double, [1], chunk_size=0)), "`chunk_size` must be >= 1"),
        caught(lambda: list(mapped(double, [1], num_returns=1)), "instead of `num_returns`"),
    ]


def map_unordered_takes_what_it_needs(ray: Any) -> Any:
    double, _ = _tasks(ray)
    taken = []

    def items() -> Any:
        for x in range(50):
            taken.append(x)
            yield x

    results = ray.util.map_unordered(double, items(), backpressure_size=4, chunk_size=1)
    next(results)
    seen = len(taken)
    return [seen <= 5, len(list(results)), len(taken)]


def map_unordered_gives_refs(ray: Any) -> Any:
    double, _ = _tasks(ray)
    refs = list(ray.util.map_unordered(double, range(4), yield_obj_refs=True))
    return [type(refs[0]).__name__, sorted(ray.get(refs))]


# -- pools of actors


def pool_leaves_a_dead_actor_out(ray: Any) -> Any:
    worker = _worker(ray)
    pool = ray.util.ActorPool([worker.remote(), worker.remote()])
    pool.submit(lambda actor, x: actor.die.remote(x), 0)
    died = caught(pool.get_next)["error"]
    later = [list(pool.map(lambda actor, x: actor.double.remote(x), range(4))) for _ in range(2)]
    return [died, later, pool.pop_idle() is not None, pool.pop_idle() is None]


def pool_leaves_a_dead_actor_out_unordered(ray: Any) -> Any:
    worker = _worker(ray)
    pool = ray.util.ActorPool([worker.remote(), worker.remote()])
    pool.submit(lambda actor, x: actor.die.remote(x), 0)
    died = caught(pool.get_next_unordered)["error"]
    return [died, sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(4)))]


def pool_of_dead_actors(ray: Any) -> Any:
    pool = ray.util.ActorPool([_worker(ray).remote()])
    for x in range(2):
        pool.submit(lambda actor, x: actor.die.remote(x), x)
    died = caught(pool.get_next)["error"]
    return [died, pool.has_next(), pool.has_free(), pool.pop_idle()]


def pool_of_methods_with_two_results(ray: Any) -> Any:
    worker = _worker(ray)
    pool = ray.util.ActorPool([worker.remote()])
    return list(pool.map(lambda actor, x: actor.both.remote(x), [1, 2, 3]))


def pool_map_forgets_what_is_not_done(ray: Any) -> Any:
    worker = _worker(ray)
    flag = Flag()
    pool = ray.util.ActorPool([worker.remote(), worker.remote()])
    pool.submit(lambda actor, x: actor.wait_for.remote(x), flag)
    results = pool.map(lambda actor, x: actor.double.remote(x), [1, 2])
    flag.set()
    return list(results)


def pool_error_keeps_the_actor(ray: Any) -> Any:
    pool = ray.util.ActorPool([_worker(ray).remote()])
    pool.submit(lambda actor, x: actor.fail.remote(x), 1)
    pool.submit(lambda actor, x: actor.double.remote(x), 2)
    return [caught(pool.get_next, "no 1", kinds=(ValueError,)), pool.get_next(), pool.has_free()]


# -- groups of actors


def _group(ray: Any, **options: Any) -> Any:
    class Plain:
        def __init__(self, n: int = 0, k: int = 0) -> None:
            self.n = n + k

        def add(self, x: int, y: int = 0) -> int:
            return self.n + x + y

    return sub(ray, "util.actor_group").ActorGroup(Plain, num_cpus_per_actor=0, **options)


def group_calls_all(ray: Any) -> Any:
    group = _group(ray, num_actors=3, init_args=(1,), init_kwargs={"k": 2})
    return [len(group), ray.get(group.add.remote(1, y=2)), caught(lambda: group.add(1), kinds=(TypeError,))]


def group_grows_and_shrinks(ray: Any) -> Any:
    group = _group(ray, num_actors=2)
    group.add_actors(2)
    sizes = [len(group)]
    group.remove_actors([0, 3])
    return [*sizes, len(group), ray.get(group.add.remote(1)), ray.get(group[0].actor.add.remote(5))]


def group_after_its_end(ray: Any) -> Any:
    group = _group(ray, num_actors=2)
    actor = group[0].actor
    started = caught(group.start, kinds=(RuntimeError,))
    group.shutdown()
    ended = eventually(lambda: "error" in caught(lambda: ray.get(actor.add.remote(1), timeout=30)))
    error = caught(lambda: group.add.remote(1), "has been shutdown", kinds=(RuntimeError,))
    group.start()
    found = ray.get(group.add.remote(1))
    group.shutdown(patience_s=0)
    return [started, ended, error, found, len(group)]


def group_of_wrong_numbers(ray: Any) -> Any:
    return [
        caught(lambda: _group(ray, num_actors=0), kinds=(ValueError,)),
        caught(lambda: _group(ray, num_gpus_per_actor=-1), kinds=(ValueError,)),
    ]


# -- what is said once


def log_once(ray: Any) -> Any:
    debug = sub(ray, "util.debug")
    found = [debug.log_once("a"), debug.log_once("a"), debug.log_once("b")]
    debug.reset_log_once("a")
    found += [debug.log_once("a"), debug.log_once("b")]
    debug.reset_log_once()
    found += [debug.log_once("b")]
    debug.disable_log_once_globally()
    return [*found, debug.log_once("c")]
