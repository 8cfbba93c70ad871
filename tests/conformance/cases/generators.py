"""Streaming generators."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.conformance.kit import Flag, caught, eventually


def _numbers(ray: Any) -> Any:
    @ray.remote
    def numbers(n: int) -> Any:
        for i in range(n):  # noqa: UP028 (Ray drives a generator by send, which range has not)
            yield i

    return numbers


def iterates_refs(ray: Any) -> Any:
    generator = _numbers(ray).remote(4)
    refs = list(generator)
    return [all(isinstance(ref, ray.ObjectRef) for ref in refs), ray.get(refs)]


def type_of_the_generator(ray: Any) -> Any:
    generator = _numbers(ray).remote(1)
    return [type(generator).__name__, isinstance(generator, ray.ObjectRefGenerator), len(list(generator))]


def explicit_streaming(ray: Any) -> Any:
    return [ray.get(ref) for ref in _numbers(ray).options(num_returns="streaming").remote(3)]


def empty_generator(ray: Any) -> Any:
    return list(_numbers(ray).remote(0))


def next_and_stop(ray: Any) -> Any:
    generator = _numbers(ray).remote(2)
    values = [ray.get(next(generator)), ray.get(next(generator))]
    return [values, caught(lambda: next(generator), kinds=(StopIteration,)), caught(lambda: next(generator))]


def items_come_before_the_end(ray: Any) -> Any:
    go = Flag()

    @ray.remote
    def f() -> Any:
        yield "first"
        go.wait()
        yield "second"

    generator = f.remote()
    first = ray.get(next(generator))
    go.set()
    return [first, ray.get(next(generator))]


def exception_in_the_middle(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        yield 1
        raise ValueError("after one")

    generator = f.remote()
    first = ray.get(next(generator))
    second = next(generator)
    return [
        first,
        caught(lambda: ray.get(second), "after one", kinds=(ValueError,)),
        caught(lambda: next(generator), kinds=(StopIteration,)),
    ]


def exception_before_the_first(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        if True:
            raise KeyError("none")
        yield 1

    refs = list(f.remote())
    return [len(refs), caught(lambda: ray.get(refs[0]), kinds=(KeyError,))]


def wait_on_a_generator(ray: Any) -> Any:
    generator = _numbers(ray).remote(2)
    ready, rest = ray.wait([generator], timeout=20)
    first = ray.get(next(generator))
    return [len(ready), len(rest), ready[0] is generator, first]


def wait_on_a_generator_that_has_nothing(ray: Any) -> Any:
    go = Flag()

    @ray.remote
    def f() -> Any:
        go.wait()
        yield 1

    generator = f.remote()
    ready, rest = ray.wait([generator], timeout=0.2)
    go.set()
    return [len(ready), len(rest), [ray.get(ref) for ref in generator]]


def get_of_a_generator(ray: Any) -> Any:
    return caught(lambda: ray.get(_numbers(ray).remote(2)))


def completed_ref(ray: Any) -> Any:
    generator = _numbers(ray).remote(3)
    ray.get(generator.completed())
    return [ray.get(ref) for ref in generator]


def completed_ref_of_a_failure(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        yield 1
        raise ValueError("x")

    generator = f.remote()
    return caught(lambda: ray.get(generator.completed()), kinds=(ValueError,))


def is_finished(ray: Any) -> Any:
    generator = _numbers(ray).remote(1)
    before = generator.is_finished()
    list(generator)
    return [before, eventually(generator.is_finished)]


def large_items(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        for i in range(3):
            yield bytes([i]) * 500_000

    return [len(ray.get(ref)) for ref in f.remote()]


def items_as_arguments(ray: Any) -> Any:
    @ray.remote
    def double(x: int) -> int:
        return x * 2

    return ray.get([double.remote(ref) for ref in _numbers(ray).remote(4)])


def items_nested_in_arguments(ray: Any) -> Any:
    @ray.remote
    def total(refs: list[Any]) -> int:
        return sum(ray.get(refs))

    return ray.get(total.remote(list(_numbers(ray).remote(4))))


def backpressure(ray: Any) -> Any:
    made = Flag()

    @ray.remote(_generator_backpressure_num_objects=2)
    def f() -> Any:
        for i in range(6):
            made.append(str(i))
            yield i

    generator = f.remote()
    eventually(lambda: len(made.lines()) >= 2)
    eventually(lambda: len(made.lines()) > 3, 0.3)
    early = len(made.lines())
    return [early <= 3, [ray.get(ref) for ref in generator], len(made.lines())]


def actor_method(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.n = 0

        def items(self, n: int) -> Any:
            for _ in range(n):
                self.n += 1
                yield self.n

        def count(self) -> int:
            return self.n

    a = A.remote()
    return [[ray.get(ref) for ref in a.items.remote(3)], ray.get(a.count.remote())]


def actor_method_error(ray: Any) -> Any:
    @ray.remote
    class A:
        def items(self) -> Any:
            yield 1
            raise ValueError("x")

        def m(self) -> int:
            return 2

    a = A.remote()
    refs = list(a.items.remote())
    return [ray.get(refs[0]), caught(lambda: ray.get(refs[1])), ray.get(a.m.remote())]


def async_iteration(ray: Any) -> Any:
    numbers = _numbers(ray)

    async def main() -> Any:
        return [await ref async for ref in numbers.remote(3)]

    return asyncio.run(main())


def async_actor_generator(ray: Any) -> Any:
    @ray.remote
    class A:
        async def items(self) -> Any:
            for i in range(3):
                await asyncio.sleep(0)
                yield i

    a = A.remote()
    return [ray.get(ref) for ref in a.items.remote()]


def iterated_in_a_task(ray: Any) -> Any:
    numbers = _numbers(ray)

    @ray.remote
    def f() -> Any:
        return [ray.get(ref) for ref in numbers.remote(3)]

    return ray.get(f.remote())


def generator_as_an_argument(ray: Any) -> Any:
    @ray.remote
    def f(generator: Any) -> Any:
        return [ray.get(ref) for ref in generator]

    return caught(lambda: ray.get(f.remote(_numbers(ray).remote(2))), kinds=(TypeError,))


def cancelled_generator(ray: Any) -> Any:
    never = Flag()

    @ray.remote
    def f() -> Any:
        yield 1
        never.wait()
        yield 2

    generator = f.remote()
    first = ray.get(next(generator))
    ray.cancel(generator)
    ref = next(generator)
    seen = caught(lambda: ray.get(ref, timeout=20), kinds=(ray.exceptions.TaskCancelledError,))
    return [first, seen.get("is", seen)]


def worker_dies_in_the_middle(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        yield 1
        os._exit(1)

    generator = f.remote()
    refs = list(generator)
    return caught(lambda: ray.get(refs), kinds=(ray.exceptions.WorkerCrashedError,))


def yields_none_and_refs(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        yield None
        yield [ray.put(5)]

    first, second = list(f.remote())
    return [ray.get(first), ray.get(ray.get(second)[0])]


def yield_from(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def f() -> Any:
        yield from [1, 2, 3]

    return [ray.get(ref) for ref in f.remote()]


def generator_with_a_return_value(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        yield 1
        return 2

    return [ray.get(ref) for ref in f.remote()]


def fixed_num_returns_of_a_generator(ray: Any) -> Any:
    return ray.get(_numbers(ray).options(num_returns=3).remote(3))


def many_items(ray: Any) -> Any:
    return sum(ray.get(list(_numbers(ray).remote(300))))


def dropped_generator(ray: Any) -> Any:
    _numbers(ray).remote(5)

    @ray.remote
    def f() -> int:
        return 1

    return ray.get(f.remote())


def backpressure_of_none_and_without_limit(ray: Any) -> Any:
    numbers = _numbers(ray)
    option = "_generator_backpressure_num_objects"
    free = numbers.options(**{option: -1}).remote(5)
    return [
        caught(lambda: numbers.options(**{option: 0}).remote(1), kinds=(ValueError,)),
        caught(lambda: numbers.options(**{option: "2"}).remote(1), kinds=(TypeError,)),
        [ray.get(ref) for ref in free],
    ]


def more_items_than_returns(ray: Any) -> Any:
    numbers = _numbers(ray)
    return [
        caught(lambda: ray.get(numbers.options(num_returns=2, max_retries=0).remote(3)), kinds=(ValueError,)),
        caught(lambda: ray.get(numbers.options(num_returns=3, max_retries=0).remote(2)), kinds=(ValueError,)),
    ]


def _stopping(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def stopping(path: str, items: list[Any], retried: bool = False) -> Any:
        first = not os.path.exists(path)
        with open(path, "a", encoding="utf-8"):
            pass
        for item in items:  # noqa: UP028 (Ray drives a generator by send, which a list has not)
            yield item
        if first or not retried:
            raise ValueError("stopped")

    return stopping


def _each(ray: Any, refs: Any) -> list[Any]:
    return [caught(lambda ref=ref: ray.get(ref), kinds=(ValueError,)) for ref in refs]


def values_before_an_error(ray: Any) -> Any:
    refs = _stopping(ray).options(num_returns=3).remote(Flag().path, ["a", "b"])
    return _each(ray, refs)


def an_error_after_all_values(ray: Any) -> Any:
    return _each(ray, _stopping(ray).options(num_returns=2).remote(Flag().path, ["a", "b"]))


def large_values_and_refs_before_an_error(ray: Any) -> Any:
    inner = ray.put("inner")
    refs = _stopping(ray).options(num_returns=3).remote(Flag().path, [[inner], bytes(1 << 20)])
    found = ray.get(refs[:2])
    return [ray.get(found[0][0]), len(found[1]), _each(ray, refs[2:])]


def values_before_an_error_that_is_retried(ray: Any) -> Any:
    inner, flag = ray.put("inner"), Flag()
    again = _stopping(ray).options(num_returns=2, max_retries=1, retry_exceptions=True)
    refs = again.remote(flag.path, [bytes(1 << 20), [inner]], True)
    return [len(ray.get(refs[0])), ray.get(ray.get(refs[1])[0]), flag.is_set()]


def fewer_items_than_returns(ray: Any) -> Any:
    return _each(ray, _numbers(ray).options(num_returns=3, max_retries=0).remote(1))


def an_item_that_does_not_serialize(ray: Any) -> Any:
    import threading

    @ray.remote(num_returns=2, max_retries=0)
    def odd() -> Any:
        yield 1
        yield threading.Lock()

    first, second = odd.remote()
    return [ray.get(first), caught(lambda: ray.get(second), kinds=(TypeError,))]


def dynamic_items_before_an_error(ray: Any) -> Any:
    inner = ray.put("inner")
    made = _stopping(ray).options(num_returns="dynamic").remote(Flag().path, [[inner], bytes(1 << 20)])
    refs = list(ray.get(made))
    return [len(refs), ray.get(ray.get(refs[0])[0]), len(ray.get(refs[1])), _each(ray, refs[2:])]


def dynamic_items_of_a_call_that_is_retried(ray: Any) -> Any:
    again = _stopping(ray).options(num_returns="dynamic", max_retries=1, retry_exceptions=True)
    return ray.get(list(ray.get(again.remote(Flag().path, [1, 2], True))))


def fixed_returns_of_an_actors_generator(ray: Any) -> Any:
    @ray.remote
    class Actor:
        @ray.method(num_returns=2)
        def two(self) -> Any:
            yield 1
            raise ValueError("second")

    actor = Actor.remote()
    return _each(ray, actor.two.remote())


def a_generator_of_one_return(ray: Any) -> Any:
    numbers = _numbers(ray).options(num_returns=1, max_retries=0)

    @ray.remote
    class Actor:
        @ray.method(num_returns=1)
        def one(self) -> Any:
            yield "item"

    hidden = ray.remote(lambda: (i for i in range(3)))
    actor = Actor.remote()
    return [*_each(ray, [numbers.remote(1), numbers.remote(2), numbers.remote(0)]),
            ray.get(hidden.remote()), ray.get(actor.one.remote())]  # fmt: skip


def text_of_a_killed_actor(ray: Any) -> Any:
    @ray.remote
    class Actor:
        def f(self) -> int:
            return 1

    actor = Actor.remote()
    ray.get(actor.f.remote())
    ray.kill(actor)
    text = "The actor is dead because it was killed by `ray.kill`."
    return caught(lambda: ray.get(actor.f.remote(), timeout=30), text, kinds=(ray.exceptions.ActorDiedError,))
