"""init, shutdown, and drivers that come and go."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.conformance.kit import QUIET, caught

INIT = None
_QUIET: dict[str, Any] = {"num_cpus": 2, "num_gpus": 0, **QUIET}


def not_initialized(ray: Any) -> Any:
    return [
        ray.is_initialized(),
        caught(lambda: ray.cluster_resources()),
        caught(lambda: ray.shutdown()),
    ]


def init_and_shutdown(ray: Any) -> Any:
    seen = []
    for _ in range(2):
        ray.init(**_QUIET)
        seen.append([ray.is_initialized(), ray.get(ray.put(1)), ray.cluster_resources()["CPU"]])
        ray.shutdown()
        seen.append(ray.is_initialized())
    return seen


def context_of_init(ray: Any) -> Any:
    context = ray.init(**_QUIET)
    try:
        return [
            bool(context.address_info["address"]),
            len(context.address_info["node_id"]),
            context["node_id"] == ray.get_runtime_context().get_node_id(),
        ]
    finally:
        ray.shutdown()


def context_manager(ray: Any) -> Any:
    with ray.init(**_QUIET):
        inside = ray.is_initialized()
    return [inside, ray.is_initialized()]


def a_task_starts_the_cluster_by_itself(ray: Any) -> Any:
    @ray.remote
    def f() -> int:
        return 3

    try:
        return [ray.get(f.remote()), ray.is_initialized()]
    finally:
        ray.shutdown()


def a_put_starts_the_cluster_by_itself(ray: Any) -> Any:
    try:
        return ray.get(ray.put(4))
    finally:
        ray.shutdown()


def a_task_defined_before_init_runs_in_two_sessions(ray: Any) -> Any:
    @ray.remote
    def f() -> str:
        return "ran"

    @ray.remote
    class A:
        def m(self) -> str:
            return "method"

    seen = []
    for _ in range(2):
        ray.init(**_QUIET)
        seen.append([ray.get(f.remote()), ray.get(A.remote().m.remote())])
        ray.shutdown()
    return seen


def a_ref_after_shutdown(ray: Any) -> Any:
    ray.init(**_QUIET)
    ref = ray.put(1)
    ray.shutdown()
    ray.init(**_QUIET)
    try:
        return "error" in caught(lambda: ray.get(ref, timeout=2))
    finally:
        ray.shutdown()


def wrong_arguments(ray: Any) -> Any:
    seen = [
        caught(lambda: ray.init(num_cpus=-1, include_dashboard=False)),
        caught(lambda: ray.init(nonsense=1)),
        caught(lambda: ray.init(namespace="", include_dashboard=False), kinds=(ValueError,)),
        caught(lambda: ray.init(namespace=5, include_dashboard=False), kinds=(ValueError, TypeError)),
        caught(lambda: ray.init(address="192.0.2.1:1", num_cpus=1), kinds=(ValueError, ConnectionError)),
        ray.is_initialized(),
    ]
    ray.shutdown()
    return seen


def a_second_driver_joins(ray: Any) -> Any:
    context = ray.init(**_QUIET, namespace="common")

    @ray.remote
    class Store:
        def __init__(self) -> None:
            self.items: list[str] = []

        def add(self, item: str) -> list[str]:
            self.items.append(item)
            return self.items

    store = Store.options(name="store").remote()
    ray.get(store.add.remote("first driver"))
    program = f"""
import {ray.__name__} as ray
ray.init(address={context.address_info["address"]!r}, namespace="common", log_to_driver=False)
store = ray.get_actor("store")
print(ray.get(store.add.remote("second driver")))
Lasting = ray.remote(type("Lasting", (), {{"m": lambda self: "lasts"}}))
lasting = Lasting.options(name="lasting", lifetime="detached").remote()
print(ray.get(lasting.m.remote()))
mine = ray.remote(type("Mine", (), {{"m": lambda self: 1}})).options(name="mine").remote()
ray.get(mine.m.remote())
"""
    try:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        from tests.conformance.kit import eventually

        lasting = ray.get_actor("lasting")
        value = ray.get(lasting.m.remote())
        gone = eventually(lambda: "error" in caught(lambda: ray.get_actor("mine")))
        ray.kill(lasting)
        return [run.returncode, run.stdout.splitlines(), value, gone, ray.get(store.add.remote("again"))]
    finally:
        ray.shutdown()


def two_namespaces_by_default(ray: Any) -> Any:
    ray.init(**_QUIET)
    first = ray.get_runtime_context().namespace
    ray.shutdown()
    ray.init(**_QUIET)
    second = ray.get_runtime_context().namespace
    ray.shutdown()
    return [first != second, len(first) >= 32]


def init_runtime_env(ray: Any) -> Any:
    ray.init(**_QUIET, runtime_env={"env_vars": {"CONFORMANCE_JOB": "job"}})

    @ray.remote
    def f() -> Any:
        import os

        return os.environ.get("CONFORMANCE_JOB")

    try:
        return ray.get([f.remote(), f.options(runtime_env={"env_vars": {"OTHER": "1"}}).remote()])
    finally:
        ray.shutdown()


def shutdown_twice(ray: Any) -> Any:
    ray.init(**_QUIET)
    return [caught(lambda: ray.shutdown()), caught(lambda: ray.shutdown())]


def exit_without_shutdown(ray: Any) -> Any:
    program = f"""
import {ray.__name__} as ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def f(): return "value"
print(ray.get(f.remote()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return [run.returncode, run.stdout.splitlines()[-1:]]


def functions_of_main(ray: Any) -> Any:
    program = f"""
import {ray.__name__} as ray
class Thing:
    def __init__(self, a): self.a = a
    def __eq__(self, other): return self.a == other.a
OFFSET = 10
def helper(x): return x + OFFSET
@ray.remote
def f(thing): return Thing(helper(thing.a))
@ray.remote
class A:
    def m(self, thing): return isinstance(thing, Thing)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get(f.remote(Thing(1))) == Thing(11), ray.get(A.remote().m.remote(Thing(1))))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return [run.returncode, run.stdout.split()[-2:]]
