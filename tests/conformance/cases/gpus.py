"""GPU ids as the program sees them; the devices are declared, none is needed."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.kit import Flag, eventually, settled

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4}


def _visible() -> Any:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def a_task_with_one_gpu(ray: Any) -> Any:
    @ray.remote(num_gpus=1)
    def f() -> Any:
        ids = ray.get_gpu_ids()
        return [len(ids), [type(i).__name__ for i in ids], _visible() == ",".join(map(str, ids))]

    return ray.get(f.remote())


def a_task_with_two_gpus(ray: Any) -> Any:
    @ray.remote(num_gpus=2)
    def f() -> Any:
        ids = ray.get_gpu_ids()
        return [len(set(ids)), set(ids) <= {0, 1, 2, 3}, _visible() == ",".join(map(str, ids))]

    return ray.get(f.remote())


def a_task_without_gpus(ray: Any) -> Any:
    @ray.remote
    def f() -> Any:
        return [ray.get_gpu_ids(), _visible()]

    return ray.get(f.remote())


def driver_gpu_ids(ray: Any) -> Any:
    return ray.get_gpu_ids()


def all_gpus(ray: Any) -> Any:
    @ray.remote(num_gpus=4)
    def f() -> Any:
        return [sorted(ray.get_gpu_ids()), sorted((_visible() or "").split(","))]

    return ray.get(f.remote())


def actors_get_different_gpus(ray: Any) -> Any:
    settled(ray)

    @ray.remote(num_gpus=1)
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

        def visible(self) -> Any:
            return _visible()

    actors = [A.remote() for _ in range(4)]
    ids = sorted(i for part in ray.get([a.ids.remote() for a in actors]) for i in part)
    visible = sorted(ray.get([a.visible.remote() for a in actors]))
    return [ids, visible]


def actor_keeps_its_gpus(ray: Any) -> Any:
    @ray.remote(num_gpus=2)
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

    a = A.remote()
    first, second = ray.get([a.ids.remote(), a.ids.remote()])
    return [first == second, len(first)]


def gpus_come_back(ray: Any) -> Any:
    @ray.remote(num_gpus=4)
    class A:
        def m(self) -> int:
            return len(ray.get_gpu_ids())

    values = []
    for _ in range(2):
        a = A.remote()
        values.append(ray.get(a.m.remote()))
        ray.kill(a)
    return [values, settled(ray)]


def fractions_share_one_device(ray: Any) -> Any:
    settled(ray)

    @ray.remote(num_gpus=0.5)
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

    pair = [A.remote(), A.remote()]
    ids = ray.get([a.ids.remote() for a in pair])
    return [ids[0] == ids[1], len(ids[0])]


def fractions_of_third_and_half(ray: Any) -> Any:
    settled(ray)

    @ray.remote
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

    actors = [A.options(num_gpus=0.6).remote() for _ in range(4)]
    return sorted(i for part in ray.get([a.ids.remote() for a in actors]) for i in part)


def available_gpus(ray: Any) -> Any:
    settled(ray)
    flag = Flag()

    @ray.remote(num_gpus=1.0)
    def f() -> bool:
        return flag.wait()

    ref = f.remote()
    held = eventually(lambda: ray.available_resources().get("GPU") == 3.0)
    flag.set()
    ray.get(ref)
    return [held, settled(ray)]


def tasks_wait_for_gpus(ray: Any) -> Any:
    settled(ray)
    flag, started = Flag(), Flag()

    @ray.remote(num_gpus=4)
    def f() -> bool:
        started.append("x")
        return flag.wait()

    refs = [f.remote(), f.remote()]
    eventually(lambda: started.lines())
    ready, _ = ray.wait(refs, timeout=0.3)
    count = len(started.lines())
    flag.set()
    return [len(ready), count, ray.get(refs)]


def gpu_list_in_the_context(ray: Any) -> Any:
    @ray.remote(num_gpus=1)
    def f() -> Any:
        context = ray.get_runtime_context()
        ids = context.get_accelerator_ids()["GPU"]
        return [ids == [str(i) for i in ray.get_gpu_ids()], context.get_assigned_resources()]

    return ray.get(f.remote())


def nested_task_does_not_inherit_gpus(ray: Any) -> Any:
    @ray.remote
    def inner() -> Any:
        return ray.get_gpu_ids()

    @ray.remote(num_gpus=1)
    def outer() -> Any:
        return [len(ray.get_gpu_ids()), ray.get(inner.remote())]

    return ray.get(outer.remote())


def child_process_inherits_the_variable(ray: Any) -> Any:
    @ray.remote(num_gpus=1)
    def f() -> Any:
        import subprocess

        shown = subprocess.run(
            ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], capture_output=True, text=True
        ).stdout
        return shown.strip() == str(ray.get_gpu_ids()[0])

    return ray.get(f.remote())


def gpus_in_a_placement_group(ray: Any) -> Any:
    settled(ray)
    pg = ray.util.placement_group([{"GPU": 2, "CPU": 1}, {"GPU": 1}])
    ray.get(pg.ready())

    @ray.remote(num_cpus=0)
    class A:
        def ids(self) -> Any:
            return ray.get_gpu_ids()

    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    first = A.options(num_gpus=1, scheduling_strategy=strategy(pg, placement_group_bundle_index=0)).remote()
    second = A.options(num_gpus=1, scheduling_strategy=strategy(pg, placement_group_bundle_index=0)).remote()
    third = A.options(num_gpus=1, scheduling_strategy=strategy(pg, placement_group_bundle_index=1)).remote()
    ids = [i for part in ray.get([a.ids.remote() for a in (first, second, third)]) for i in part]
    ray.util.remove_placement_group(pg)
    return [len(set(ids)), settled(ray)]
