"""Cancelling tasks and actor calls."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.conformance.kit import Flag, alive, caught, eventually

INIT: dict[str, Any] = {"num_cpus": 2, "num_gpus": 0}


def _cancelled(ray: Any, ref: Any) -> Any:
    """The kinds of the error; whether a task error wraps it is the engine's matter."""
    kinds = (ray.exceptions.TaskCancelledError, ray.exceptions.RayError)
    seen = caught(lambda: ray.get(ref, timeout=20), kinds=kinds)
    return seen.get("is", seen)


def a_running_task(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.set()
        return never.wait()

    ref = f.remote()
    started.wait()
    ray.cancel(ref)
    return _cancelled(ray, ref)


def a_running_task_sees_keyboard_interrupt(ray: Any) -> Any:
    started, never, seen = Flag(), Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.set()
        try:
            return never.wait()
        except KeyboardInterrupt:
            seen.set()
            raise

    ref = f.remote()
    started.wait()
    ray.cancel(ref)
    return [_cancelled(ray, ref), eventually(seen.is_set)]


def a_queued_task(ray: Any) -> Any:
    flag, started, ran = Flag(), Flag(), Flag()

    @ray.remote
    def hold() -> bool:
        started.append("x")
        return flag.wait()

    @ray.remote
    def queued() -> None:
        ran.set()

    holds = [hold.remote(), hold.remote()]
    eventually(lambda: len(started.lines()) == 2)
    ref = queued.remote()
    ray.cancel(ref)
    seen = _cancelled(ray, ref)
    flag.set()
    return [seen, ray.get(holds), ran.is_set()]


def a_task_that_waits_for_its_arguments(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def first() -> bool:
        return flag.wait()

    @ray.remote
    def second(x: Any) -> Any:
        return x

    a = first.remote()
    b = second.remote(a)
    ray.wait([b], timeout=0.2)  # lets the submission finish: cancelling in its middle aborts a Ray driver
    ray.cancel(b)
    seen = _cancelled(ray, b)
    flag.set()
    return [seen, ray.get(a)]


def a_finished_task(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 1

    ref = f.remote()
    ray.get(ref)
    return [caught(lambda: ray.cancel(ref)), ray.get(ref)]


def twice(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.set()
        return never.wait()

    ref = f.remote()
    started.wait()
    ray.cancel(ref)
    ray.cancel(ref)
    return _cancelled(ray, ref)


def by_force(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.append(str(os.getpid()))
        while not never.is_set():
            try:
                never.wait()
            except KeyboardInterrupt:
                pass
        return True

    ref = f.remote()
    eventually(started.lines)
    ray.cancel(ref, force=True)
    seen = _cancelled(ray, ref)
    pid = int(started.lines()[0])
    return [seen, eventually(lambda: not alive(pid))]


def force_does_not_retry(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote(max_retries=3)
    def f() -> bool:
        started.append("run")
        return never.wait()

    ref = f.remote()
    eventually(started.lines)
    ray.cancel(ref, force=True)
    caught(lambda: ray.get(ref, timeout=20))

    @ray.remote
    def after() -> int:
        return 1

    ray.get(after.remote())
    return len(started.lines())


def dependents_fail_too(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.set()
        return never.wait()

    @ray.remote
    def g(x: Any) -> Any:
        return x

    a = f.remote()
    b = g.remote(a)
    started.wait()
    ray.cancel(a)
    return _cancelled(ray, b)


def children_are_cancelled_too(ray: Any) -> Any:
    started, never, seen = Flag(), Flag(), Flag()

    @ray.remote
    def child() -> bool:
        started.set()
        try:
            return never.wait()
        except KeyboardInterrupt:
            seen.set()
            raise

    @ray.remote
    def parent() -> Any:
        return ray.get(child.remote())

    ref = parent.remote()
    started.wait()
    ray.cancel(ref, recursive=True)
    return [_cancelled(ray, ref), eventually(seen.is_set)]


def children_go_on_without_recursion(ray: Any) -> Any:
    started, go, done = Flag(), Flag(), Flag()

    @ray.remote
    def child() -> None:
        started.set()
        go.wait()
        done.set()

    @ray.remote
    def parent() -> Any:
        return ray.get(child.remote())

    ref = parent.remote()
    started.wait()
    ray.cancel(ref, recursive=False)
    seen = _cancelled(ray, ref)
    go.set()
    return [seen, eventually(done.is_set)]


def an_async_actor_call(ray: Any) -> Any:
    started, seen = Flag(), Flag()

    @ray.remote
    class A:
        async def m(self) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.set()
                raise

        async def other(self) -> int:
            return 1

    a = A.remote()
    ref = a.m.remote()
    started.wait()
    ray.cancel(ref)
    return [_cancelled(ray, ref), eventually(seen.is_set), ray.get(a.other.remote())]


def a_queued_actor_call(ray: Any) -> Any:
    started, flag = Flag(), Flag()

    @ray.remote
    class A:
        def hold(self) -> bool:
            started.set()
            return flag.wait()

        def queued(self) -> None:
            pass

    a = A.remote()
    hold = a.hold.remote()
    started.wait()
    ref = a.queued.remote()
    ray.cancel(ref)
    ray.wait([ref], timeout=5)  # the word has arrived, on engines that answer only later, too
    flag.set()
    return [_cancelled(ray, ref), ray.get(hold)]


def an_actor_call_by_force(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    ref = a.m.remote()
    seen = caught(lambda: ray.cancel(ref, force=True), kinds=(ValueError,))
    return [seen, ray.get(ref)]


def of_something_else(ray: Any) -> Any:
    return [caught(lambda: ray.cancel(5), kinds=(TypeError,)), caught(lambda: ray.cancel(None))]


def of_a_put_object(ray: Any) -> Any:
    return caught(lambda: ray.cancel(ray.put(1)))


def the_worker_goes_on_after_a_cancel(ray: Any) -> Any:
    started, never = Flag(), Flag()

    @ray.remote
    def f() -> bool:
        started.set()
        return never.wait()

    @ray.remote
    def g(i: int) -> int:
        return i

    ref = f.remote()
    started.wait()
    ray.cancel(ref)
    caught(lambda: ray.get(ref, timeout=20))
    return ray.get([g.remote(i) for i in range(10)])


def is_canceled_in_a_threaded_actor(ray: Any) -> Any:
    started, seen = Flag(), Flag()

    @ray.remote(max_concurrency=2)
    class A:
        def m(self) -> str:
            started.set()
            if eventually(lambda: ray.get_runtime_context().is_canceled(), 20):
                seen.set()
            return "left"

    a = A.remote()
    ref = a.m.remote()
    started.wait()
    ray.cancel(ref)
    return [caught(lambda: ray.get(ref, timeout=25)), eventually(seen.is_set)]


def many_queued_tasks(ray: Any) -> Any:
    flag, started = Flag(), Flag()

    @ray.remote
    def f(i: int) -> int:
        started.append(str(i))
        flag.wait()
        return i

    refs = [f.remote(i) for i in range(2)]
    eventually(lambda: len(started.lines()) == 2)
    more = [f.remote(i) for i in range(2, 30)]
    for ref in more:
        ray.cancel(ref)
    errors = {str(_cancelled(ray, ref)) for ref in more}
    flag.set()
    return [errors, ray.get(refs), len(started.lines())]
