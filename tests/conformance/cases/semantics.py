"""Options and corners of tasks and actors that the other areas only define: what they do when calls run."""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.conformance.kit import Flag, caught, eventually, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "resources": {"accelerator_type:L4": 1}}


def max_calls_ends_the_process(ray: Any) -> Any:
    @ray.remote(max_calls=1)
    def pid() -> int:
        return os.getpid()

    @ray.remote
    def kept() -> int:
        return os.getpid()

    once = [ray.get(pid.remote()) for _ in range(3)]
    return [len(set(once)), ray.get(kept.remote()) not in once]


def max_calls_of_two(ray: Any) -> Any:
    @ray.remote(max_calls=2)
    def pid() -> int:
        return os.getpid()

    seen = [ray.get(pid.remote()) for _ in range(4)]
    return [seen.count(one) for one in dict.fromkeys(seen)]


def max_pending_calls(ray: Any) -> Any:
    flag = Flag()

    @ray.remote(max_pending_calls=2)
    class Slow:
        def wait(self, flag: Flag) -> bool:
            return flag.wait()

    slow = Slow.remote()
    first, second = slow.wait.remote(flag), slow.wait.remote(flag)
    full = caught(lambda: slow.wait.remote(flag), kinds=(ray.exceptions.PendingCallsLimitExceeded,))
    flag.set()
    return [full, ray.get([first, second]), ray.get(slow.wait.remote(flag))]


def out_of_order_execution(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def late(flag: Flag) -> str:
        flag.wait()
        return "late"

    class Order:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def note(self, what: str) -> list[str]:
            self.seen.append(what)
            return self.seen

    free = ray.remote(allow_out_of_order_execution=True, max_concurrency=2)(Order).remote()
    held = free.note.remote(late.remote(flag))
    early = ray.get(free.note.remote("early"))
    flag.set()
    return [early, ray.get(held)]


def out_of_order_needs_a_bool(ray: Any) -> Any:
    class Order:
        pass

    decorator = lambda: ray.remote(allow_out_of_order_execution="yes")(Order)  # noqa: E731
    return caught(decorator, kinds=(TypeError, ValueError))


def metadata_of_an_option(ray: Any) -> Any:
    @ray.remote
    def one() -> int:
        return 1

    return [
        caught(lambda: ray.get(one.options(_metadata={"a": 1}).remote())),
        caught(lambda: one.options(_metadata=3), kinds=(TypeError, ValueError)),
    ]


def memory_is_taken_and_given_back(ray: Any) -> Any:
    total = ray.cluster_resources()["memory"]
    part = int(total // 2)

    @ray.remote(memory=part)
    class Holder:
        def ping(self) -> int:
            return 1

    def free() -> float:
        return float(ray.available_resources().get("memory", 0.0))

    holder = Holder.remote()
    ray.get(holder.ping.remote())
    taken = eventually(lambda: free() <= total - part + 1)
    ray.kill(holder)
    return [taken, eventually(lambda: free() >= total - 1)]


def accelerator_type_is_a_resource(ray: Any) -> Any:
    @ray.remote(accelerator_type="L4", num_cpus=0)
    def here() -> int:
        return 1

    @ray.remote(accelerator_type="H100", num_cpus=0)
    def nowhere() -> int:
        return 1

    pending = nowhere.remote()
    ready, waiting = ray.wait([pending], timeout=0.5)
    ray.cancel(pending)
    return [ray.get(here.remote()), len(ready), len(waiting)]


def labels_that_no_node_has(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    def here() -> int:
        return 1

    pending = here.options(label_selector={"zone": "a"}).remote()
    _, waiting = ray.wait([pending], timeout=0.5)
    ray.cancel(pending)
    return [ray.get(here.options(label_selector={"zone": "!a"}).remote()), len(waiting)]


def fallback_strategy(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    def here() -> int:
        return 1

    fallback = [{"label_selector": {"zone": "!a"}}]
    return [
        ray.get(here.options(label_selector={"zone": "a"}, fallback_strategy=fallback).remote(), timeout=20),
        caught(lambda: here.options(fallback_strategy=3), kinds=(TypeError, ValueError)),
    ]


def dynamic_returns(ray: Any) -> Any:
    @ray.remote(num_returns="dynamic")
    def numbers(count: int) -> Any:
        yield from range(count)

    found = ray.get(numbers.remote(3))
    return [type(found).__name__, len(found), [ray.get(ref) for ref in found]]


def dynamic_returns_of_a_failure(ray: Any) -> Any:
    @ray.remote(num_returns="dynamic", max_retries=0)
    def failing() -> Any:
        yield 1
        raise ValueError("late")

    return caught(lambda: [type(one).__name__ for one in ray.get(failing.remote())], kinds=(ValueError,))


def returns_as_an_option_of_a_call(ray: Any) -> Any:
    @ray.remote
    def pair() -> Any:
        return 1, 2

    first, second = pair.options(num_returns=2).remote()
    return [ray.get(first), ray.get(second), list(ray.get(pair.remote()))]


def names_of_calls(ray: Any) -> Any:
    @ray.remote
    def told() -> Any:
        context = ray.get_runtime_context()
        return context.get_task_name(), context.get_task_function_name().rpartition(".")[2]

    return [list(ray.get(told.options(name="mine").remote())), list(ray.get(told.remote()))[1]]


def a_class_redefined_in_main(ray: Any) -> Any:
    main = sys.modules["__main__"]
    seen = []
    for value in (1, 2):
        source = f"class Redefined:\n    def get(self):\n        return {value}\n"
        exec(source, main.__dict__)
        handle = ray.remote(main.Redefined).remote()
        seen.append(ray.get(handle.get.remote()))
    del main.Redefined
    return seen


def a_function_redefined_as_in_a_notebook(ray: Any) -> Any:
    seen = []
    for value in (1, 2):
        cell = f"def f():\n    return {value}\n"
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(cell, f"<cell {value}>", "exec"), scope)
        seen.append(ray.get(ray.remote(scope["f"]).remote()))
    return seen


def causes_and_contexts(ray: Any) -> Any:
    @ray.remote(max_retries=0)
    def chained() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    try:
        ray.get(chained.remote())
    except ValueError as error:
        cause = error.cause  # type: ignore[attr-defined]
        return [
            type(cause).__name__, type(cause.__cause__).__name__, "first" in str(error),
            "direct cause" in str(error),
        ]  # fmt: skip


def inspect_serializability(ray: Any) -> Any:
    import contextlib
    import io
    import threading

    lock = threading.Lock()

    def uses() -> Any:
        return lock

    inspect = sub(ray, "util.check_serialize").inspect_serializability
    with contextlib.redirect_stdout(io.StringIO()):
        fine, nothing = inspect(3, name="three")
        wrong, found = inspect(uses, name="uses")
    names = sorted(str(one).partition("(")[2].partition(" ")[0] for one in found)
    return [fine, sorted(map(str, nothing)), wrong, names]


def get_actor_races_with_creation(ray: Any) -> Any:
    class Named:
        def one(self) -> int:
            return 1

    seen = []
    for number in range(10):
        made = ray.remote(num_cpus=0)(Named).options(name=f"race-{number}").remote()
        seen.append(ray.get(ray.get_actor(f"race-{number}").one.remote()))
        ray.kill(made)
    return sum(seen)


def get_if_exists_from_many_tasks(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self) -> int:
            self.count += 1
            return self.count

    @ray.remote(num_cpus=0.5)
    def use() -> int:
        options = {"name": "shared-counter", "get_if_exists": True, "lifetime": "detached"}
        return int(ray.get(Counter.options(**options).remote().add.remote()))

    seen = sorted(ray.get([use.remote() for _ in range(6)]))
    ray.kill(ray.get_actor("shared-counter"))
    return seen


def method_options(ray: Any) -> Any:
    class Several:
        @ray.method(num_returns=2)
        def pair(self) -> Any:
            return 1, 2

        @ray.method(concurrency_group="io")
        def grouped(self) -> int:
            return 3

    handle = ray.remote(concurrency_groups={"io": 2})(Several).remote()
    first, second = handle.pair.remote()
    whole = handle.pair.options(num_returns=1).remote()
    return [ray.get([first, second]), list(ray.get(whole)), ray.get(handle.grouped.remote())]


def limits_of_a_concurrency_group(ray: Any) -> Any:
    flag, entered = Flag(), Flag()

    class Grouped:
        @ray.method(concurrency_group="one")
        def wait(self, flag: Flag, entered: Flag) -> bool:
            entered.append("in")
            return flag.wait()

        def free(self) -> str:
            return "free"

    handle = ray.remote(concurrency_groups={"one": 1})(Grouped).remote()
    waiting = [handle.wait.remote(flag, entered) for _ in range(2)]
    eventually(entered.lines)
    seen = [ray.get(handle.free.remote()), len(entered.lines())]
    flag.set()
    return [*seen, ray.get(waiting), len(entered.lines())]


def cancel_of_a_generator_that_waits(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def items(flag: Flag) -> Any:
        yield 1
        flag.wait()
        yield 2

    found = items.remote(flag)
    first = ray.get(next(found))
    ray.cancel(found)
    kinds = (ray.exceptions.TaskCancelledError,)

    def rest() -> Any:
        return [ray.get(ref) for ref in found]

    return [first, caught(rest, kinds=kinds)["is"]]


def cancel_recursive_reaches_an_actor_call(ray: Any) -> Any:
    started = Flag()

    @ray.remote(num_cpus=0)
    class Async:
        async def forever(self, started: Flag) -> None:
            import asyncio

            started.set()
            await asyncio.sleep(600)

        async def ping(self) -> int:
            return 1

    @ray.remote
    def parent(actor: Any, started: Flag) -> Any:
        return ray.get(actor.forever.remote(started))

    actor = Async.remote()
    ref = parent.remote(actor, started)
    started.wait()
    ray.cancel(ref, recursive=True)
    error = caught(lambda: ray.get(ref, timeout=30), kinds=(ray.exceptions.TaskCancelledError,))
    return [error["is"], ray.get(actor.ping.remote())]


def defaults_are_checked_at_the_call(ray: Any) -> Any:
    class Strict:
        def needs(self, a: int, *, b: int = 2) -> int:
            return a + b

    handle = ray.remote(Strict).remote()
    return [
        ray.get(handle.needs.remote(1)), ray.get(handle.needs.remote(1, b=5)),
        caught(lambda: handle.needs.remote(), kinds=(TypeError,)),
        caught(lambda: handle.needs.remote(1, 2), kinds=(TypeError,)),
        caught(lambda: handle.needs.remote(1, c=2), kinds=(TypeError,)),
    ]  # fmt: skip


def generators_in_an_inherited_actor(ray: Any) -> Any:
    class Base:
        def items(self, count: int) -> Any:
            yield from range(count)

        @staticmethod
        def double(x: int) -> int:
            return 2 * x

        @classmethod
        def name(cls) -> str:
            return cls.__name__

    class Child(Base):
        def items(self, count: int) -> Any:
            for item in super().items(count):
                yield -item

    handle = ray.remote(Child).remote()
    found = handle.items.options(num_returns="streaming").remote(3)
    return [[ray.get(ref) for ref in found], ray.get(handle.double.remote(4)), ray.get(handle.name.remote())]
