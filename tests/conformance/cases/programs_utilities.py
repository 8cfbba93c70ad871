"""`ray.util.iter`, and pools as test programs use them."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


def _iter(ray: Any) -> Any:
    return sub(ray, "util.iter")


def sources_of_an_iterator(ray: Any) -> Any:
    util = _iter(ray)
    made = [
        util.from_items([1, 2, 3, 4]),
        util.from_items([], num_shards=1),
        util.from_range(5, 2),
        util.from_iterators([range(2), [7, 8, 9], lambda: (x for x in "ab")]),
    ]
    return [[repr(one), one.num_shards(), list(one.gather_sync())] for one in made]


def an_iterator_that_repeats(ray: Any) -> Any:
    util = _iter(ray)
    numbers = util.from_items([1, 2, 3], repeat=True)
    return [repr(numbers), numbers.take(7), util.from_range(2, 1, repeat=True).take(5)]


def operators_in_the_actors(ray: Any) -> Any:
    numbers = _iter(ray).from_range(6, 2)
    made = [
        numbers.for_each(lambda x: x * 2),
        numbers.filter(lambda x: x % 2 == 0),
        numbers.batch(2),
        numbers.batch(2).flatten(),
        numbers.combine(lambda x: [x, -x]),
        numbers.transform(lambda items: (x + 1 for x in items)),
        numbers.for_each(lambda x: x).for_each(lambda x: x + 1),
    ]
    return [[repr(one), list(one.gather_sync())] for one in made]


def operators_here(ray: Any) -> Any:
    numbers = _iter(ray).from_range(6, 2).gather_sync()
    made = numbers.for_each(lambda x: x * 2).filter(lambda x: x > 2).batch(2).flatten()
    return [repr(made), list(made)]


def ways_to_gather(ray: Any) -> Any:
    numbers = _iter(ray).from_range(5, 2)
    return [
        [repr(numbers.gather_sync()), list(numbers.gather_sync())],
        [repr(numbers.gather_async()), sorted(numbers.gather_async())],
        sorted(numbers.gather_async(batch_ms=10, num_async=2)),
        [repr(numbers.batch_across_shards()), list(numbers.batch_across_shards())],
        next(numbers.gather_sync()),
        caught(lambda: iter(numbers), "gather_sync", "gather_async"),
        caught(lambda: numbers.gather_async(num_async=0)),
        caught(lambda: numbers.gather_async(batch_ms=-1)),
    ]


def shards_of_an_iterator(ray: Any) -> Any:
    util = _iter(ray)
    parts = util.from_iterators([[0, 1], [2], [3, 4]])
    few = parts.select_shards([0, 2])
    dealt = util.from_range(9, 3).repartition(2)
    both = parts.union(util.from_items(["a"], 1))
    return [
        [list(shard) for shard in parts.shards()],
        list(parts.get_shard(2, batch_ms=5, num_async=2)),
        repr(parts.get_shard(1)),
        caught(lambda: parts.get_shard(3)),
        [repr(few), list(few.gather_sync())],
        [repr(dealt), sorted(dealt.get_shard(0)), sorted(dealt.get_shard(1))],
        [repr(both), both.num_shards(), list(both.gather_sync())],
        caught(lambda: both.select_shards([0])),
        caught(lambda: parts.select_shards([])),
        caught(lambda: parts.union([1])),
    ]


def an_iterator_in_a_task(ray: Any) -> Any:
    util = _iter(ray)

    @ray.remote
    def read(items: Any) -> list[Any]:
        return list(items)

    @ray.remote
    def read_shard(items: Any) -> list[Any]:
        return list(items.get_shard(1))

    numbers = util.from_range(4, 2)
    local = numbers.gather_sync().for_each(lambda x: x + 1)
    return [ray.get(read.remote(local)), ray.get(read_shard.remote(numbers))]


def iterators_of_own_actors(ray: Any) -> Any:
    util = _iter(ray)

    @ray.remote
    class Source(util.ParallelIteratorWorker):  # type: ignore[misc,name-defined]
        def __init__(self, first: int) -> None:
            super().__init__([first, first + 1], False)

    made = util.from_actors([Source.remote(1), Source.remote(5)])
    return [repr(made), list(made.gather_sync())]


def what_operators_count(ray: Any) -> Any:
    util = _iter(ray)

    def total(x: int) -> int:
        counters = util.LocalIterator.get_metrics().counters
        counters["total"] += x
        return int(counters["total"])

    def chain() -> Any:
        return util.from_items([1, 2, 3], 1).gather_async().for_each(total)

    saved = sub(ray, "util.iter_metrics").MetricsContext()
    saved.counters["x"] += 2
    saved.info["y"] = 1
    other = sub(ray, "util.iter_metrics").MetricsContext()
    other.restore(saved.save())
    pairs = list(util.from_items([1, 2], 2).gather_async().zip_with_source_actor())
    return [
        chain().take(3),
        list(chain().union(chain(), deterministic=True)),
        [saved.save(), dict(other.counters), other.info],
        len({actor for actor, _ in pairs}),
    ]


def local_iterators_joined_and_copied(ray: Any) -> Any:
    util = _iter(ray)
    few = util.from_range(2, 1).gather_sync()
    many = util.from_range(6, 1).gather_sync().for_each(lambda x: x + 10)
    weighed = few.union(many, deterministic=True, round_robin_weights=[1, 3])
    one, other = util.from_range(3, 1).gather_sync().duplicate(2)
    shuffled = util.from_range(8, 1).local_shuffle(4, seed=0)
    return [
        repr(weighed).replace("ParallelIterator", "P").replace("LocalIterator", "L"),
        list(weighed),
        sorted(one.for_each(lambda x: x + 100).union(other)),
        [repr(shuffled), list(shuffled.gather_sync())],
        caught(lambda: few.union([1])),
        caught(lambda: few.duplicate(1)),
        caught(lambda: few.union(many, round_robin_weights=[1])),
    ]


def pool_initializers_have_run(ray: Any) -> Any:
    def note(folder: str) -> None:
        with open(os.path.join(folder, str(os.getpid())), "w", encoding="utf-8"):
            pass

    with tempfile.TemporaryDirectory() as folder:
        pool = sub(ray, "util.multiprocessing").Pool(3, initializer=note, initargs=(folder,))
        count = len(os.listdir(folder))
        pool.terminate()
        pool.join()
    return count


def a_pool_that_is_closed_finishes(ray: Any) -> Any:
    go = Flag()

    def work(number: int) -> int:
        go.wait()
        return number

    pool = sub(ray, "util.multiprocessing").Pool(3)
    result = pool.map_async(work, range(3))
    pool.close()
    before = result.ready()
    go.set()
    pool.join()
    result.wait(timeout=30)
    return [before, eventually(result.ready), result.successful(), result.get()]


def the_last_answers_of_an_actor_that_exits(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class A:
        def m(self, x: int) -> int:
            return x

    found = []
    for number in range(20):
        a = A.remote()
        ref = a.m.remote(number)
        a.__ray_terminate__.remote()
        found.append(ray.get(ref, timeout=30))
    return found == list(range(20))
