"""Tasks that wait for tasks: no deadlock, resources lent while waiting."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import Flag, caught, eventually

INIT: dict[str, Any] = {"num_cpus": 2, "num_gpus": 0}


def tasks_meet_after_many_short_ones(ray: Any) -> Any:
    """Two tasks that wait for each other need two workers, however short the tasks before were.

    The first case of its area, so that no other case has left workers behind.
    """
    met = Flag()

    @ray.remote
    def short(i: int) -> int:
        return i

    @ray.remote
    def meet() -> bool:
        met.append("here")
        return eventually(lambda: len(met.lines()) >= 2, 10)

    for i in range(30):
        ray.get(short.remote(i))
    return ray.get([meet.remote(), meet.remote()])


def deeper_than_the_cpus(ray: Any) -> Any:
    @ray.remote
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + ray.get(down.remote(n - 1))

    return ray.get(down.remote(6))


def wider_than_the_cpus(ray: Any) -> Any:
    @ray.remote
    def leaf(i: int) -> int:
        return i

    @ray.remote
    def parent(i: int) -> int:
        return sum(ray.get([leaf.remote(i), leaf.remote(i)]))

    return ray.get([parent.remote(i) for i in range(8)])


def fibonacci(ray: Any) -> Any:
    @ray.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    return ray.get(fib.remote(5))


def wait_inside_a_task(ray: Any) -> Any:
    @ray.remote
    def leaf(i: int) -> int:
        return i

    @ray.remote
    def parent() -> Any:
        rest, done = [leaf.remote(i) for i in range(5)], []
        while rest:
            ready, rest = ray.wait(rest)
            done += ray.get(ready)
        return sorted(done)

    return ray.get([parent.remote(), parent.remote()])


def all_parents_block_on_one_child(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def child() -> str:
        flag.wait()
        return "child"

    @ray.remote
    def parent(refs: list[Any]) -> str:
        return str(ray.get(refs[0]))

    ref = child.remote()
    parents = [parent.remote([ref]) for _ in range(4)]
    flag.set()
    return ray.get(parents)


def an_actor_blocks_on_tasks(ray: Any) -> Any:
    @ray.remote
    def leaf(i: int) -> int:
        return i

    @ray.remote(num_cpus=2)
    class A:
        def m(self) -> Any:
            return ray.get([leaf.remote(i) for i in range(3)])

    a = A.options(num_cpus=1).remote()
    return ray.get(a.m.remote())


def tasks_block_on_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self, i: int) -> int:
            return i * 10

    @ray.remote
    def f(a: Any, i: int) -> int:
        return int(ray.get(a.m.remote(i)))

    a = A.remote()
    return ray.get([f.remote(a, i) for i in range(6)])


def actor_created_by_blocked_tasks(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> int:
            return 1

    @ray.remote
    def f() -> int:
        return int(ray.get(A.remote().m.remote()))

    return sum(ray.get([f.remote() for _ in range(4)]))


def dependencies_do_not_take_cpus(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def first() -> int:
        flag.wait()
        return 1

    @ray.remote
    def after(x: int) -> int:
        return x + 1

    @ray.remote
    def other() -> str:
        return "other"

    a = first.remote()
    waiting = [after.remote(a) for _ in range(10)]
    value = ray.get(other.remote())
    flag.set()
    return [value, ray.get(waiting)]


def get_in_a_thread_of_a_task(ray: Any) -> Any:
    @ray.remote
    def leaf() -> int:
        return 5

    @ray.remote
    def parent() -> Any:
        import threading

        out: list[int] = []
        thread = threading.Thread(target=lambda: out.append(ray.get(leaf.remote())))
        thread.start()
        thread.join()
        return out

    return ray.get(parent.remote())


def timeout_in_a_nested_get(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def leaf() -> int:
        flag.wait()
        return 5

    @ray.remote
    def parent() -> Any:
        ref = leaf.remote()
        try:
            ray.get(ref, timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            flag.set()
            return ["timeout", ray.get(ref)]
        return None

    return ray.get(parent.remote())


def mutual_calls_of_two_actors(ray: Any) -> Any:
    @ray.remote(max_concurrency=2)
    class A:
        def start(self, me: Any, other: Any) -> Any:
            return ["A", ray.get(other.back.remote(me))]

        def leaf(self) -> str:
            return "leaf"

    @ray.remote
    class B:
        def back(self, a: Any) -> Any:
            return ["B", ray.get(a.leaf.remote())]

    a, b = A.remote(), B.remote()
    return ray.get(a.start.remote(a, b))


def tree_of_tasks(ray: Any) -> Any:
    @ray.remote
    def node(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(ray.get([node.remote(depth - 1) for _ in range(2)]))

    return ray.get(node.remote(3))


def pipeline_of_stages(ray: Any) -> Any:
    @ray.remote
    def stage(x: int, k: int) -> int:
        return x * 2 + k

    refs = [ray.put(i) for i in range(5)]
    for k in range(4):
        refs = [stage.remote(ref, k) for ref in refs]
    return ray.get(refs)


def tasks_meet_after_a_cancelled_one(ray: Any) -> Any:
    started, never, met = Flag(), Flag(), Flag()

    @ray.remote
    def cancelled() -> bool:
        started.set()
        return never.wait()

    @ray.remote
    def meet() -> bool:
        met.append("here")
        return eventually(lambda: len(met.lines()) >= 2, 10)

    ref = cancelled.remote()
    started.wait()
    ray.cancel(ref)
    caught(lambda: ray.get(ref))
    return ray.get([meet.remote(), meet.remote()])


def a_short_task_behind_a_long_one_moves(ray: Any) -> Any:
    """A task sent ahead to a worker that turns out to be busy for long runs elsewhere."""
    go = Flag()

    @ray.remote
    def step(wait: bool) -> bool:
        return go.wait() if wait else True

    ray.get([step.remote(False) for _ in range(40)])
    blocked = step.remote(True)
    others = ray.get([step.remote(False) for _ in range(10)], timeout=10)
    go.set()
    return [all(others), ray.get(blocked)]
