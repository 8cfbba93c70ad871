"""What Ray's own test programs of actors expect: lives, concurrency groups, cancellation, handles."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from tests.conformance.kit import Flag, alive, caught, eventually, sub

# -- concurrency groups of async actors


def groups_of_an_async_actor_have_a_loop_each(ray: Any) -> Any:
    @ray.remote(concurrency_groups={"io": 2, "compute": 4})
    class A:
        def __init__(self) -> None:
            self.loops = {"first": asyncio.get_event_loop()}

        def _note(self, name: str) -> int:
            self.loops[name] = asyncio.get_event_loop()
            return threading.get_ident()

        @ray.method(concurrency_group="io")
        async def io_async(self) -> int:
            return self._note("io_async")

        @ray.method(concurrency_group="io")
        def io_sync(self) -> int:
            return self._note("io_sync")

        @ray.method(concurrency_group="compute")
        def compute(self) -> int:
            return self._note("compute")

        def rest(self) -> int:
            return self._note("rest")

        def same(self) -> list[bool]:
            loops = self.loops
            return [
                loops["io_async"] is loops["io_sync"],
                loops["io_sync"] is loops["compute"],
                loops["rest"] is loops["first"],
                loops["rest"] is loops["compute"],
            ]

    a = A.remote()
    threads = ray.get([a.io_async.remote(), a.io_sync.remote(), a.compute.remote(), a.rest.remote()])
    chosen = ray.get(a.io_sync.options(concurrency_group="compute").remote())
    back = ray.get(a.io_sync.remote())
    same = [threads[0] == threads[1], chosen == threads[2], back == threads[0]]
    return [len(set(threads)), same, ray.get(a.same.remote())]


def a_blocked_loop_holds_up_no_other_group(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(concurrency_groups={"one": 1, "other": 1})
    class A:
        async def rest(self) -> bool:
            return flag.wait()  # blocks the loop

        @ray.method(concurrency_group="one")
        async def one(self) -> bool:
            return flag.wait()

        @ray.method(concurrency_group="other")
        def other(self) -> str:
            flag.set()
            return "other"

    a = A.remote()
    blocked = [a.rest.remote(), a.one.remote(), a.one.remote()]
    return [ray.get(a.other.remote()), ray.get(blocked)]


def one_at_a_time_in_a_group_of_one(ray: Any) -> Any:
    @ray.remote(concurrency_groups={"one": 1})
    class A:
        def __init__(self) -> None:
            self.log: list[str] = []

        @ray.method(concurrency_group="one")
        async def step(self) -> None:
            self.log.append("in")
            await asyncio.sleep(0)
            self.log.append("out")

        def all(self) -> list[str]:
            return self.log

    a = A.remote()
    ray.get([a.step.remote() for _ in range(5)])
    return ray.get(a.all.remote())


# -- methods


def an_attribute_of_a_methods_name(ray: Any) -> Any:
    @ray.remote
    class A:
        def __init__(self) -> None:
            self.called = False

        def called(self) -> str:
            was, self.called = self.called, True  # type: ignore[method-assign, assignment]
            return f"called {was}"

        def seen(self) -> bool:
            return bool(self.called)

    a = A.remote()
    return ray.get([a.called.remote(), a.called.remote(), a.seen.remote()])


def class_and_static_methods_of_the_instances_class(ray: Any) -> Any:
    class Base:
        x = 1

        @classmethod
        def of_class(cls, y: int) -> int:
            return cls.x + y

        @staticmethod
        def of_none(y: int) -> int:
            return y

    class A(Base):
        x = 10

        async def wait(self) -> None:
            pass

    plain, asynchronous = ray.remote(Base).remote(), ray.remote(A).remote()
    return ray.get([h.of_class.remote(5) for h in (plain, asynchronous)] + [asynchronous.of_none.remote(3)])


def a_ref_that_an_async_actor_returns(ray: Any) -> Any:
    @ray.remote
    class A:
        def plain(self) -> Any:
            return ray.put(1)

        async def asynchronous(self) -> Any:
            return ray.put(2)

    a = A.remote()
    inner = ray.get([a.plain.remote(), a.asynchronous.remote()])
    return [[isinstance(one, ray.ObjectRef) for one in inner], ray.get(inner)]


def invocation_decorators(ray: Any) -> Any:
    def around(submit: Any) -> Any:
        return lambda args, kwargs: (submit([args[0], args[0]], {}), kwargs)

    def twice(function: Any) -> Any:
        def run(b: int, c: int) -> Any:
            return function(b + c)

        run.__ray_invocation_decorator__ = around  # type: ignore[attr-defined]
        return run

    def twice_method(function: Any) -> Any:
        def run(self: Any, b: int, c: int) -> Any:
            return function(self, b + c)

        run.__ray_invocation_decorator__ = around  # type: ignore[attr-defined]
        return run

    @ray.remote
    @twice
    def f(x: int) -> int:
        return x + 1

    @ray.remote
    class A:
        @twice_method
        def m(self, x: int) -> int:
            return x + 1

    a = A.remote()
    found = [f.remote(3, k=3), a.m.remote(4, k=4)]
    return [[ray.get(ref), extra] for ref, extra in found]


# -- handles


def names_of_a_handle(ray: Any) -> Any:
    @ray.remote
    class A:
        def one(self) -> None:
            pass

    a = A.remote()
    return [
        sorted(dir(a)),
        sorted(name for name in dir(a.one) if not name.startswith("_")),
        sorted(name for name in dir(A) if not name.startswith("_")),
    ]


def a_class_that_inherits_from_an_actor_class(ray: Any) -> Any:
    @ray.remote
    class A:
        pass

    def derive() -> None:
        class B(A):
            pass

    return caught(
        derive, "Inheriting from actor classes is not currently supported.",
        kinds=(TypeError, sub(ray, "actor").ActorClassInheritanceException),
    )  # fmt: skip


def an_actor_that_keeps_its_own_handle(ray: Any) -> Any:
    @ray.remote
    class A:
        def keep(self) -> int:
            self.me = ray.get_runtime_context().current_actor
            return os.getpid()

    a = A.remote()
    pid = ray.get(a.keep.remote())
    del a
    return eventually(lambda: not alive(pid))


def an_own_handle_that_is_passed_on(ray: Any) -> Any:
    @ray.remote
    class Keeper:
        def keep(self, handles: list[Any]) -> None:
            self.handles = handles

        def ask(self) -> Any:
            return ray.get(self.handles[0].value.remote())

    @ray.remote
    class A:
        def pid(self) -> int:
            return os.getpid()

        def pass_on(self, keeper: Any) -> None:
            ray.get(keeper.keep.remote([ray.get_runtime_context().current_actor]))

        def value(self) -> int:
            return 7

    keeper, a = Keeper.remote(), A.remote()
    pid = ray.get(a.pid.remote())
    ray.get(a.pass_on.remote(keeper))
    first = ray.get(keeper.ask.remote())
    del a  # the one that it passed on does not keep it alive
    return [first, eventually(lambda: not alive(pid))]


def an_own_handle_is_equal_to_the_others(ray: Any) -> Any:
    @ray.remote
    class A:
        def same(self, other: list[Any]) -> list[bool]:
            me = ray.get_runtime_context().current_actor
            return [me == other[0], hash(me) == hash(other[0]), repr(me) == repr(other[0])]

    a = A.remote()
    return ray.get(a.same.remote([a]))


# -- cancellation


def a_borrower_cancels(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    class A:
        async def sleep(self) -> None:
            flag.set()
            await asyncio.sleep(1000)

    @ray.remote
    def cancel(refs: list[Any]) -> None:
        ray.cancel(refs[0])

    a = A.remote()
    ref = a.sleep.remote()
    flag.wait()
    ray.get(cancel.remote([ref]))
    return _cancelled(ray, ref)


def the_text_of_a_cancelled_call(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    class A:
        async def sleep(self) -> None:
            flag.set()
            await asyncio.sleep(1000)

    a = A.options(max_concurrency=1).remote()
    running = a.sleep.remote()
    flag.wait()
    queued = [a.sleep.remote() for _ in range(3)]
    for ref in [running, *queued]:
        ray.cancel(ref)
    return [_cancelled(ray, ref) for ref in [running, *queued]]


def _cancelled(ray: Any, ref: Any) -> Any:
    """Whether a call is cancelled, and its error names it."""
    try:
        return ray.get(ref, timeout=30)
    except ray.exceptions.TaskCancelledError as error:
        return ["cancelled", ref.task_id().hex() in str(error)]


def cancelled_and_then_restarted(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class A:
        async def stay(self) -> None:
            flag.append("stay")
            while True:  # it is cancelled and goes on
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    flag.append("cancelled")

        def pid(self) -> int:
            return os.getpid()

    a = A.remote()
    pid = ray.get(a.pid.remote())
    ref = a.stay.remote()
    eventually(lambda: flag.lines() == ["stay"])
    ray.cancel(ref)
    eventually(lambda: len(flag.lines()) > 1)
    os.kill(pid, 9)
    return [caught(lambda: ray.get(ref, timeout=30)), ray.get(a.pid.remote()) != pid, flag.lines()]


def is_canceled_in_an_async_method(ray: Any) -> Any:
    @ray.remote
    class A:
        async def ask(self) -> Any:
            return ray.get_runtime_context().is_canceled()

    a = A.remote()
    return caught(lambda: ray.get(a.ask.remote()), "async", kinds=(RuntimeError,))


# -- callbacks, options


def callbacks_of_refs(ray: Any) -> Any:
    @ray.remote
    def f(x: int) -> float:
        return 1 / x

    seen: list[Any] = []
    refs = [ray.put("put"), f.remote(2), f.remote(0)]
    for number, ref in enumerate(refs):
        ref._on_completed(seen.append)
        eventually(lambda number=number: len(seen) > number)
    return [
        *seen[:2],
        isinstance(seen[2], ray.exceptions.RayTaskError),
    ]


def actor_group_warns(ray: Any) -> Any:
    import warnings

    group = sub(ray, "util.actor_group").ActorGroup
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = group(actor_cls=_Member, num_actors=2, num_cpus_per_actor=0)
        warned = {one.category.__name__ for one in said if "ray.util.multiprocessing" in str(one.message)}
    found = [len(made), ray.get(made.echo.remote(1)), sorted(warned)]
    made.shutdown()
    return [*found, caught(lambda: made.echo.remote(1))]


class _Member:
    def echo(self, x: int) -> int:
        return x


def order_of_actors_with_concurrency(ray: Any) -> Any:
    @ray.remote
    class A:
        def f(self) -> int:
            return 1

    @ray.remote
    class B:
        async def f(self) -> int:
            return 1

    made: list[Any] = [
        lambda: A.options(allow_out_of_order_execution=False, max_concurrency=2).remote(),
        lambda: B.options(allow_out_of_order_execution=False).remote(),
        lambda: A.options(allow_out_of_order_execution=True).remote(),
    ]
    return [caught(lambda one=one: ray.get(one().f.remote())) for one in made]


def the_state_of_an_actor_here(ray: Any) -> Any:
    @ray.remote
    class A:
        def f(self) -> None:
            pass

    a = A.remote()
    ray.get(a.f.remote())
    first = eventually(lambda: a._get_local_state() == 2)
    ray.kill(a)
    return [first, eventually(lambda: a._get_local_state() == 4)]


def futures_made_outside_of_a_loop(ray: Any) -> Any:
    @ray.remote
    def f(n: int) -> int:
        return n

    async def g(n: int) -> int:
        await asyncio.sleep(0)
        return n

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        both = [f.remote(1).as_future(), g(2), f.remote(3).as_future()]
        gathered = loop.run_until_complete(asyncio.gather(*both))
        futures = [f.remote(n).as_future() for n in range(3)]
        done, _ = loop.run_until_complete(asyncio.wait(futures))
        return [gathered, done == set(futures)]
    finally:
        loop.close()
        asyncio.set_event_loop(None)


def threads_of_concurrency_groups(ray: Any) -> Any:
    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    @ray.remote(concurrency_groups={"io": 2, "compute": 4})
    class A:
        async def threads(self) -> int:
            return count()

        @ray.method(concurrency_group="io")
        async def io(self) -> None:
            pass

        @ray.method(concurrency_group="compute")
        async def compute(self) -> None:
            pass

    a = A.remote()
    before = ray.get(a.threads.remote())
    ray.get([a.io.remote(), a.compute.remote()] * 3)
    return ray.get(a.threads.remote()) <= before
