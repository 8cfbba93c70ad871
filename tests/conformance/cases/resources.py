"""Resources: what is declared, held, given back, and waited for."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import Flag, caught, eventually, settled

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0, "resources": {"chip": 2, "unit": 1}}


def _free(ray: Any, name: str) -> float:
    return float(ray.available_resources().get(name, 0.0))


def cluster_resources_shape(ray: Any) -> Any:
    total = ray.cluster_resources()
    return [
        total["CPU"],
        total["chip"],
        total["unit"],
        "GPU" in total,
        total["memory"] > 0,
        total["object_store_memory"] > 0,
        sum(name.startswith("node:") for name in total),
        total["node:__internal_head__"],
        sorted({type(value).__name__ for value in total.values()}),
    ]


def available_at_rest(ray: Any) -> Any:
    return settled(ray)


def a_task_holds_one_cpu(ray: Any) -> Any:
    settled(ray)
    flag = Flag()

    @ray.remote
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    held = eventually(lambda: _free(ray, "CPU") == 3.0)
    flag.set()
    ray.get(ref)
    return [held, settled(ray)]


def two_cpus(ray: Any) -> Any:
    settled(ray)
    flag = Flag()

    @ray.remote(num_cpus=2)
    def f() -> bool:
        return flag.wait()

    refs = [f.remote(), f.remote()]
    held = eventually(lambda: _free(ray, "CPU") == 0.0)
    flag.set()
    ray.get(refs)
    return [held, settled(ray)]


def fractional_cpu(ray: Any) -> Any:
    settled(ray)
    flag = Flag()

    @ray.remote(num_cpus=0.5)
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    held = eventually(lambda: _free(ray, "CPU") == 3.5)
    flag.set()
    ray.get(ref)
    return [held, settled(ray)]


def zero_cpus(ray: Any) -> Any:
    settled(ray)
    flag, started = Flag(), Flag()

    @ray.remote(num_cpus=0)
    def f() -> bool:
        started.set()
        return flag.wait()

    ref = f.remote()
    started.wait()
    free = _free(ray, "CPU")
    flag.set()
    return [ray.get(ref), free]


def custom_resource(ray: Any) -> Any:
    settled(ray)
    flag = Flag()

    @ray.remote(num_cpus=0, resources={"chip": 1})
    def f() -> bool:
        return flag.wait()

    refs = [f.remote() for _ in range(2)]
    held = eventually(lambda: _free(ray, "chip") == 0.0)
    flag.set()
    ray.get(refs)
    return [held, settled(ray)]


def custom_resource_limits_parallelism(ray: Any) -> Any:
    flag, started = Flag(), Flag()

    @ray.remote(num_cpus=0, resources={"unit": 1})
    def f(i: int) -> int:
        started.append(str(i))
        flag.wait()
        return i

    refs = [f.remote(0), f.remote(1)]
    eventually(lambda: len(started.lines()) == 1)
    ready, _ = ray.wait(refs, timeout=0.3)
    seen = len(started.lines())
    flag.set()
    return [len(ready), seen, ray.get(refs)]


def fractional_custom_resource(ray: Any) -> Any:
    flag, started = Flag(), Flag()

    @ray.remote(num_cpus=0, resources={"unit": 0.5})
    def f() -> None:
        started.append("x")
        flag.wait()

    refs = [f.remote() for _ in range(2)]
    both = eventually(lambda: len(started.lines()) == 2)
    flag.set()
    ray.get(refs)
    return both


def infeasible_task_waits(ray: Any) -> Any:
    @ray.remote(num_cpus=100)
    def f() -> int:
        return 1

    ref = f.remote()
    seen = caught(lambda: ray.get(ref, timeout=0.3))
    ray.cancel(ref)
    return seen


def infeasible_custom_resource_waits(ray: Any) -> Any:
    @ray.remote(resources={"absent": 1})
    def f() -> int:
        return 1

    ref = f.remote()
    ready, _ = ray.wait([ref], timeout=0.3)
    ray.cancel(ref)
    return len(ready)


def an_infeasible_task_does_not_block_others(ray: Any) -> Any:
    @ray.remote(num_cpus=100)
    def never() -> int:
        return 1

    @ray.remote
    def f() -> int:
        return 2

    stuck = never.remote()
    value = ray.get(f.remote())
    ray.cancel(stuck)
    return value


def default_actor_holds_nothing(ray: Any) -> Any:
    settled(ray)

    @ray.remote
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    ray.get(a.m.remote())
    return eventually(lambda: _free(ray, "CPU") == 4.0)


def more_default_actors_than_cpus(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> int:
            return 1

    actors = [A.remote() for _ in range(6)]
    return ray.get([a.m.remote() for a in actors])


def actor_with_cpus_holds_them(ray: Any) -> Any:
    settled(ray)

    @ray.remote(num_cpus=1)
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    ray.get(a.m.remote())
    held = eventually(lambda: _free(ray, "CPU") == 3.0)
    ray.kill(a)
    return [held, settled(ray)]


def actor_waits_for_resources(ray: Any) -> Any:
    settled(ray)

    @ray.remote(num_cpus=4)
    class A:
        def m(self) -> int:
            return 1

    first = A.remote()
    ray.get(first.m.remote())
    second = A.remote()
    ref = second.m.remote()
    ready, _ = ray.wait([ref], timeout=0.3)
    ray.kill(first)
    return [len(ready), ray.get(ref)]


def actor_out_of_scope_gives_back(ray: Any) -> Any:
    settled(ray)

    @ray.remote(num_cpus=2, resources={"chip": 1})
    class A:
        def m(self) -> int:
            return 1

    a = A.remote()
    ray.get(a.m.remote())
    held = eventually(lambda: _free(ray, "CPU") == 2.0 and _free(ray, "chip") == 1.0)
    del a
    return [held, settled(ray)]


def memory_as_a_resource(ray: Any) -> Any:
    settled(ray)
    flag = Flag()
    before = _free(ray, "memory")

    @ray.remote(memory=100 * 1024 * 1024)
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    held = eventually(lambda: before - _free(ray, "memory") == 100 * 1024 * 1024)
    flag.set()
    ray.get(ref)
    return held


def assigned_resources_of_a_task(ray: Any) -> Any:
    @ray.remote(num_cpus=2, resources={"chip": 1})
    def f() -> Any:
        return ray.get_runtime_context().get_assigned_resources()

    return ray.get(f.remote())


def assigned_resources_of_an_actor(ray: Any) -> Any:
    @ray.remote
    class A:
        def m(self) -> Any:
            return ray.get_runtime_context().get_assigned_resources()

    return [
        ray.get(A.remote().m.remote()),
        ray.get(A.options(num_cpus=1, resources={"chip": 0.5}).remote().m.remote()),
    ]


def crash_gives_resources_back(ray: Any) -> Any:
    import os

    @ray.remote(num_cpus=4, max_retries=0)
    def f() -> None:
        os._exit(1)

    caught(lambda: ray.get(f.remote()))
    return settled(ray)


def exception_gives_resources_back(ray: Any) -> Any:
    @ray.remote(num_cpus=4, max_retries=0)
    def f() -> None:
        raise ValueError

    caught(lambda: ray.get(f.remote()))
    return settled(ray)


def options_override_resources(ray: Any) -> Any:
    @ray.remote(num_cpus=100)
    def f() -> Any:
        return ray.get_runtime_context().get_assigned_resources()

    return ray.get(f.options(num_cpus=1).remote())


def node_resource(ray: Any) -> Any:
    name = next(n for n in ray.cluster_resources() if n.startswith("node:") and "internal" not in n)

    @ray.remote(num_cpus=0, resources={name: 0.01})
    def f() -> int:
        return 1

    return ray.get(f.remote())


def threads_limit(ray: Any) -> Any:
    @ray.remote(num_cpus=2)
    def f() -> Any:
        import os

        return os.environ.get("OMP_NUM_THREADS")

    return ray.get(f.remote())
