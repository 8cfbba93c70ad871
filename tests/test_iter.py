"""Iterators over actors: order, operators, shards, unions, what they count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import spoke as ray
from spoke.util.iter import (
    LocalIterator,
    ParallelIteratorWorker,
    from_actors,
    from_items,
    from_iterators,
    from_range,
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4)
    yield
    ray.shutdown()


def test_items_of_shards_in_turn_through_operators() -> None:
    assert from_items([1, 2, 3, 4]).take(9) == [1, 2, 3, 4]
    assert from_items([1, 2], repeat=True).take(5) == [1, 2, 1, 2, 1]
    numbers = from_range(5, 2)
    assert list(numbers.gather_sync()) == [0, 2, 1, 3, 4]
    assert list(numbers.batch_across_shards()) == [[0, 2], [1, 3], [4]]
    made = numbers.for_each(lambda x: x * 10).filter(lambda x: x != 20).combine(lambda x: [x, x + 1]).batch(3)
    assert sorted(made.flatten().gather_async()) == [0, 1, 10, 11, 30, 31, 40, 41]
    assert repr(made) == "ParallelIterator[from_range[5, shards=2].for_each().filter().combine().batch(3)]"
    assert sorted(numbers.for_each(lambda x: -x, max_concurrency=2).gather_sync()) == [-4, -3, -2, -1, 0]
    with pytest.raises(TypeError, match=r"gather_sync\(\) or it.gather_async"):
        iter(numbers)


def test_shards_and_partitions() -> None:
    parts = from_iterators([[0, 1], lambda: (x for x in (3, 4)), range(5, 8)])
    assert parts.num_shards() == 3
    assert [list(shard) for shard in parts.shards()] == [[0, 1], [3, 4], [5, 6, 7]]
    with pytest.raises(ValueError, match="out of range"):
        parts.get_shard(3)
    dealt = from_range(9, 3).repartition(2)
    assert set(dealt.get_shard(0, batch_ms=5, num_async=2)) == {0, 2, 3, 5, 6, 8}
    assert set(dealt.get_shard(1)) == {1, 4, 7}
    assert from_items([1, 2, 3, 4], num_shards=4).select_shards([1, 3]).take(4) == [2, 4]
    both = from_items(["a"], 1).union(from_items(["b"], 1))
    assert both.num_shards() == 2 and list(both.gather_sync()) == ["a", "b"]

    @ray.remote
    def read(items: Any) -> list[int]:
        return list(items.get_shard(0))

    assert ray.get(read.remote(parts)) == [0, 1]


def test_an_actor_of_the_users() -> None:
    @ray.remote
    class Source(ParallelIteratorWorker):
        def __init__(self, first: int) -> None:
            super().__init__([first, first + 1], False)

    assert list(from_actors([Source.remote(1), Source.remote(5)]).gather_sync()) == [1, 5, 2, 6]


def test_operators_share_what_they_count_also_in_a_union() -> None:
    def total(x: int) -> int:
        counters = LocalIterator.get_metrics().counters
        counters["total"] += x
        return counters["total"]

    first, second = (from_items([1, 2, 3], 1).gather_async().for_each(total) for _ in range(2))
    assert first.take(3) == [1, 3, 6]
    assert list(first.union(second, deterministic=True)) == [1, 2, 4, 6, 9, 12]
    actors = [actor for actor, _ in from_items([1, 2], 2).gather_async().zip_with_source_actor()]
    assert len(set(actors)) == 2


def test_copies_and_weights_of_local_iterators() -> None:
    one, other = from_range(4, 1).gather_sync().duplicate(2)
    assert sorted(one.for_each(lambda x: x + 100).union(other)) == [0, 1, 2, 3, 100, 101, 102, 103]
    few = from_range(2, 1).gather_sync()
    many = from_range(6, 1).gather_sync().for_each(lambda x: x + 10)
    weighed = few.union(many, deterministic=True, round_robin_weights=[1, 3])
    assert list(weighed) == [0, 10, 11, 12, 1, 13, 14, 15]
    shuffled = [list(from_range(8, 1).local_shuffle(4, seed=0).gather_sync()) for _ in range(2)]
    assert shuffled[0] == shuffled[1] and sorted(shuffled[0]) == list(range(8)) != shuffled[0]


def test_what_is_slow_does_not_hold_up_the_others_of_a_union() -> None:
    @ray.remote
    class Gate:
        def __init__(self) -> None:
            self.open = False

        def set(self) -> None:
            self.open = True

        def get(self) -> bool:
            return self.open

    gate = Gate.remote()

    def late() -> Iterator[int]:
        while not ray.get(gate.get.remote()):
            pass
        yield 0

    union = (
        from_iterators([late]).gather_async().union(from_range(3, 1).for_each(lambda x: x + 1).gather_async())
    )
    assert union.take(3) == [1, 2, 3]
    ray.get(gate.set.remote())
    assert list(union) == [0]
