"""Streaming generators as test programs use them: timeouts, readiness, deaths, several items per yield."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.conformance.kit import Flag, caught, eventually

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


def _gated(ray: Any, gate: Flag) -> Any:
    @ray.remote(max_retries=0)
    def items() -> Any:
        yield 1
        gate.wait()
        yield 2

    return items.remote()


def a_timeout_gives_the_nil_ref(ray: Any) -> Any:
    gate = Flag()
    generator = _gated(ray, gate)
    first = ray.get(generator._next_sync(timeout_s=30))
    nothing = generator._next_sync(timeout_s=0)
    gate.set()
    second = generator._next_sync(timeout_s=30)
    return [first, nothing.is_nil(), second.is_nil(), ray.get(second)]


def a_timeout_of_the_awaited_next(ray: Any) -> Any:
    gate = Flag()
    generator = _gated(ray, gate)
    next(generator)

    async def look() -> Any:
        nothing = await generator._next_async(timeout_s=0)
        gate.set()
        ref = await generator._next_async(timeout_s=30)
        return [nothing.is_nil(), await ref]

    return asyncio.run(look())


def readiness(ray: Any) -> Any:
    gate = Flag()
    generator = _gated(ray, gate)
    ray.wait([generator])
    seen = [generator.next_ready(), generator.is_finished()]
    next(generator)
    seen += [generator.next_ready(), generator.is_finished()]
    gate.set()
    ray.get(generator.completed())
    seen += [generator.next_ready(), generator.is_finished()]
    next(generator)
    return [*seen, generator.next_ready(), generator.is_finished(), len(ray.wait([generator])[0])]


def the_ref_of_the_call(ray: Any) -> Any:
    gate = Flag()
    gate.set()
    generator = _gated(ray, gate)
    return [generator._generator_ref == generator.completed(), ray.get(generator._generator_ref)]


def the_last_ref_after_a_crash(ray: Any) -> Any:
    taken = Flag()

    @ray.remote(max_retries=0)
    def items() -> Any:
        yield 1
        taken.wait()
        os._exit(1)

    generator = items.remote()
    first = ray.get(next(generator))
    taken.set()
    last = next(generator)
    kinds = (ray.exceptions.WorkerCrashedError,)
    return [
        first,
        last == generator.completed(),
        caught(lambda: ray.get(last), kinds=kinds),
        caught(lambda: ray.get(generator.completed()), kinds=kinds),
        caught(lambda: next(generator)),
    ]


def the_last_ref_after_the_death_of_an_actor(ray: Any) -> Any:
    taken = Flag()

    @ray.remote
    class A:
        def items(self) -> Any:
            yield 1
            taken.wait()
            os._exit(1)

    generator = A.remote().items.remote()
    first = ray.get(next(generator))
    taken.set()
    last = next(generator)
    return [
        first,
        last == generator.completed(),
        caught(lambda: ray.get(last), kinds=(ray.exceptions.RayActorError,)),
        caught(lambda: next(generator)),
    ]


def the_last_ref_after_an_exception(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def items() -> Any:
        yield 1
        raise ValueError("no more")

    generator = items.remote()
    first, last = list(generator)
    return [
        ray.get(first),
        last == generator.completed(),
        caught(lambda: ray.get(last), kinds=(ValueError,)),
        ray.get(generator.completed()),
    ]


def several_items_per_yield(ray: Any) -> Any:
    @ray.remote(_num_objects_per_yield=2)
    def pairs() -> Any:
        yield 1, 2
        yield [3, 4]

    @ray.remote
    class A:
        @ray.method(_num_objects_per_yield=3)
        def threes(self) -> Any:
            yield "a", "b", "c"

        @ray.method(_num_objects_per_yield=2)
        async def twos(self) -> Any:
            yield 5, 6

    a = A.remote()
    return [
        [ray.get(ref) for ref in generator]
        for generator in (pairs.remote(), a.threes.remote(), a.twos.remote())
    ]


def another_number_of_items_per_yield(ray: Any) -> Any:
    @ray.remote(_num_objects_per_yield=2, max_retries=0)
    def items(value: Any) -> Any:
        yield value

    return [
        caught(lambda value=value: ray.get(next(items.remote(value))), "_num_objects_per_yield=2")
        for value in ((1, 2, 3), 5, (1,))
    ]


def items_per_yield_are_the_functions_own(ray: Any) -> Any:
    @ray.remote(_num_objects_per_yield=2)
    def items() -> Any:
        yield 1, 2

    @ray.remote
    class A:
        def items(self) -> Any:
            yield 1

    a = A.remote()
    return [
        caught(lambda: items.options(_num_objects_per_yield=1).remote(), "cannot be overridden"),
        len(list(items.options(_num_objects_per_yield=2).remote())),
        caught(lambda: a.items.options(_num_objects_per_yield=2).remote(), "cannot be overridden"),
        caught(lambda: ray.remote(_num_objects_per_yield=0)(len), "_num_objects_per_yield"),
        caught(lambda: ray.method(_num_objects_per_yield=0)(len), "_num_objects_per_yield"),
    ]


def backpressure_counts_items_and_not_yields(ray: Any) -> Any:
    made = Flag()

    @ray.remote(_generator_backpressure_num_objects=2, _num_objects_per_yield=2)
    def pairs() -> Any:
        for number in range(4):
            made.append(str(number))
            yield number, -number

    generator = pairs.remote()
    first = eventually(lambda: len(made.lines()) == 1)
    early = eventually(lambda: len(made.lines()) > 1, 0.5)
    next(generator)
    second = eventually(lambda: len(made.lines()) == 2)
    return [first, early, second, len(list(generator))]


def backpressure_of_an_async_generator(ray: Any) -> Any:
    @ray.remote
    class A:
        async def items(self) -> Any:
            for number in range(3):
                yield number

    generator = A.remote().items.options(_generator_backpressure_num_objects=1).remote()
    return [ray.get(ref) for ref in generator]


def no_items_ahead_of_all_generators_of_an_actor(ray: Any) -> Any:
    class A:
        pass

    option = "_actor_generator_backpressure_num_objects"
    return [caught(lambda n=n: type(ray.remote(**{option: n})(A)).__name__, option) for n in (0, -2, -1, 1)]


def a_return_ends_the_items(ray: Any) -> Any:
    @ray.remote
    def items() -> Any:
        for number in range(3):
            yield number
            return

    return [ray.get(ref) for ref in items.remote()]


def a_mix_of_generators_and_refs_in_wait(ray: Any) -> Any:
    @ray.remote
    def items() -> Any:
        yield 0
        yield 1

    @ray.remote
    def one() -> int:
        return 10

    waiting: list[Any] = [items.remote(), one.remote()]
    found = set()
    while waiting:
        ready, waiting = ray.wait(waiting)
        for some in ready:
            if isinstance(some, ray.ObjectRefGenerator):
                try:
                    found.add(ray.get(next(some)))
                    waiting.append(some)
                except StopIteration:
                    pass
            else:
                found.add(ray.get(some))
    return sorted(found)


def the_name_of_the_coroutine_stays(ray: Any) -> Any:
    @ray.remote
    class A:
        async def items(self) -> Any:
            name = _task_name()
            for _ in range(3):
                yield _task_name() == name

    return [ray.get(ref) for ref in A.remote().items.remote()]


def _task_name() -> str:
    task = asyncio.current_task()
    return "" if task is None else task.get_name()


def a_dropped_generator_runs_to_its_end(ray: Any) -> Any:
    made = Flag()

    def numbers(option: int) -> Any:
        for number in range(6):
            made.append(f"{option} {number}")
            yield bytes(200_000)

    @ray.remote
    class A:
        def items(self, option: int) -> Any:
            for item in numbers(option):  # noqa: UP028 (Ray drives a generator by send)
                yield item

    @ray.remote
    def items(option: int) -> Any:
        for item in numbers(option):  # noqa: UP028
            yield item

    option = "_generator_backpressure_num_objects"
    a = A.remote()
    items.remote(1)
    a.items.remote(2)
    generator = items.options(**{option: 1}).remote(3)
    next(generator)
    del generator
    a.items.options(**{option: 1}).remote(4)
    return [eventually(lambda n=n: f"{n} 5" in made.lines()) for n in (1, 2, 3, 4)]
