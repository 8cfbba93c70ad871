"""Async actors, threaded actors, concurrency groups."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.conformance.kit import Flag, caught, eventually


def async_methods(ray: Any) -> Any:
    @ray.remote
    class A:
        async def m(self, x: int) -> int:
            await asyncio.sleep(0)
            return x + 1

    a = A.remote()
    return ray.get([a.m.remote(i) for i in range(5)])


def async_methods_overlap(ray: Any) -> Any:
    @ray.remote
    class Gate:
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def wait(self) -> str:
            await self.event.wait()
            return "passed"

        async def open(self) -> None:
            self.event.set()

    gate = Gate.remote()
    waiting = [gate.wait.remote() for _ in range(20)]
    first, _ = ray.wait(waiting, timeout=0.2)
    gate.open.remote()
    return [len(first), ray.get(waiting)]


def async_max_concurrency(ray: Any) -> Any:
    @ray.remote(max_concurrency=3)
    class A:
        def __init__(self) -> None:
            self.now = 0
            self.most = 0

        async def m(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            for _ in range(20):
                await asyncio.sleep(0.001)
            self.now -= 1

        async def peak(self) -> int:
            return self.most

    a = A.remote()
    ray.get([a.m.remote() for _ in range(12)])
    return ray.get(a.peak.remote())


def async_sync_methods_mix(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.thread = threading.get_ident()

        async def in_async(self) -> int:
            return threading.get_ident()

        def in_sync(self) -> int:
            return threading.get_ident()

    a = A.remote()
    x, y = ray.get([a.in_async.remote(), a.in_sync.remote()])
    return x == y


def async_exception(ray: Any) -> Any:
    @ray.remote
    class A:
        async def m(self) -> None:
            raise KeyError("async")

    a = A.remote()
    return caught(lambda: ray.get(a.m.remote()), "async", kinds=(KeyError,))


def async_method_awaits_a_ref(ray: Any) -> Any:
    @ray.remote
    def f(x: int) -> int:
        return x * 2

    @ray.remote
    class A:
        async def m(self, refs: list[Any]) -> Any:
            return [await refs[0], await f.remote(4), await asyncio.gather(f.remote(1), f.remote(2))]

    a = A.remote()
    return ray.get(a.m.remote([f.remote(3)]))


def async_methods_all_run(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def m(self, i: int) -> None:
            self.seen.append(i)

        async def all(self) -> list[int]:
            return self.seen

    a = A.remote()
    ray.get([a.m.remote(i) for i in range(50)])
    return sorted(ray.get(a.all.remote())) == list(range(50))


def async_actor_running_loop(ray: Any) -> Any:
    @ray.remote
    class A:
        async def same(self) -> bool:
            loop = asyncio.get_running_loop()
            return asyncio.get_event_loop() is loop

        async def task(self) -> int:
            async def inner() -> int:
                return 5

            return await asyncio.create_task(inner())

    a = A.remote()
    return ray.get([a.same.remote(), a.task.remote()])


def async_generator_method(ray: Any) -> Any:
    @ray.remote
    class A:
        async def items(self, n: int) -> Any:
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    a = A.remote()
    return [ray.get(ref) for ref in a.items.options(num_returns="streaming").remote(4)]


def async_actor_calls_another(ray: Any) -> Any:
    @ray.remote
    class B:
        async def m(self, x: int) -> int:
            return x + 1

    @ray.remote
    class A:
        def __init__(self, b: Any) -> None:
            self.b = b

        async def m(self, x: int) -> int:
            return int(await self.b.m.remote(x)) * 10

    return ray.get(A.remote(B.remote()).m.remote(1))


def threads_overlap(ray: Any) -> Any:
    @ray.remote(max_concurrency=2)
    class A:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(2, timeout=30)

        def m(self) -> bool:
            self.barrier.wait()
            return True

    a = A.remote()
    return ray.get([a.m.remote(), a.m.remote()])


def threads_are_bounded(ray: Any) -> Any:
    @ray.remote(max_concurrency=2)
    class A:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.now = self.most = 0

        def m(self) -> None:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            threading.Event().wait(0.01)
            with self.lock:
                self.now -= 1

        def peak(self) -> int:
            return self.most

    a = A.remote()
    ray.get([a.m.remote() for _ in range(10)])
    return ray.get(a.peak.remote()) <= 2


def one_thread_by_default(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.now = 0
            self.overlaps = 0

        def m(self) -> int:
            self.now += 1
            self.overlaps += self.now > 1
            threading.Event().wait(0.002)
            self.now -= 1
            return self.overlaps

    a = A.remote()
    return max(ray.get([a.m.remote() for _ in range(20)]))


def default_actor_runs_in_the_main_thread(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> bool:
            return threading.current_thread() is threading.main_thread()

    return ray.get(A.remote().m.remote())


def task_runs_in_the_main_thread(ray: Any) -> Any:
    @ray.remote
    def f() -> bool:
        return threading.current_thread() is threading.main_thread()

    return ray.get(f.remote())


def max_concurrency_by_options(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3, timeout=30)

        def m(self) -> bool:
            self.barrier.wait()
            return True

    a = A.options(max_concurrency=3).remote()
    return ray.get([a.m.remote() for _ in range(3)])


def concurrency_groups(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(concurrency_groups={"io": 2, "compute": 1})
    class A:
        @ray.method(concurrency_group="compute")
        def blocked(self) -> bool:
            return flag.wait()

        @ray.method(concurrency_group="io")
        def quick(self) -> str:
            return "quick"

        def default(self) -> str:
            return "default"

    a = A.remote()
    blocked = a.blocked.remote()
    others = ray.get([a.quick.remote(), a.default.remote()])
    flag.set()
    return [others, ray.get(blocked)]


def concurrency_group_by_options(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(concurrency_groups={"io": 1})
    class A:
        def wait(self) -> bool:
            return flag.wait()

        def quick(self) -> str:
            return "quick"

    a = A.remote()
    blocked = a.wait.remote()
    other = ray.get(a.quick.options(concurrency_group="io").remote())
    flag.set()
    return [other, ray.get(blocked)]


def unknown_concurrency_group(ray: Any) -> Any:
    @ray.remote(concurrency_groups={"io": 1})
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    return caught(
        lambda: ray.get(a.m.options(concurrency_group="none").remote(), timeout=10), kinds=(ValueError,)
    )


def async_actor_blocks_with_get(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 3

    @ray.remote
    class A:
        def m(self) -> int:
            return int(ray.get(f.remote()))

        async def other(self) -> int:
            return 4

    a = A.remote()
    return ray.get([a.m.remote(), a.other.remote()])


def asyncio_timeout_inside_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        async def m(self) -> str:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.05)
            except asyncio.TimeoutError:
                return "timeout"
            return "no"

    return ray.get(A.remote().m.remote())


def background_task_goes_on(ray: Any) -> Any:
    @ray.remote
    class A:
        async def start(self) -> None:
            self.ticks = 0

            async def tick() -> None:
                while self.ticks < 5:
                    self.ticks += 1
                    await asyncio.sleep(0.001)

            self.task = asyncio.create_task(tick())

        async def count(self) -> int:
            return self.ticks

    a = A.remote()
    ray.get(a.start.remote())
    return eventually(lambda: ray.get(a.count.remote()) == 5)


def threaded_calls_from_a_driver_keep_state(ray: Any) -> Any:
    @ray.remote(max_concurrency=4)
    class A:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.n = 0

        def add(self) -> None:
            with self.lock:
                self.n += 1

        def value(self) -> int:
            return self.n

    a = A.remote()
    ray.get([a.add.remote() for _ in range(100)])
    return ray.get(a.value.remote())


def async_constructor(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.loop_runs = True
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self.loop_runs = False

        async def had_loop(self) -> bool:
            return self.loop_runs

    return ray.get(A.remote().had_loop.remote())
