"""What stands upon actors: pools, joblib, compiled graphs.  Run in the same way as `workloads`.

Each body warms its processes up first, as a program that uses them more than once does.  joblib must be
installed beside each engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

if __package__:
    from .workloads import Plan, actor, own_cluster, workload
else:  # run by path
    from workloads import Plan, actor, own_cluster, workload  # type: ignore[import-not-found,no-redef]


def engine(name: str = "") -> Any:
    """The engine that runs, or a module of it."""
    import importlib
    import sys

    root = "spoke" if "spoke" in sys.modules else "ray"
    return importlib.import_module(f"{root}.{name}" if name else root)


def square(x: int) -> int:
    return x * x


class Step:
    def add(self, x: int) -> int:
        return x + 1

    def small_value(self) -> bytes:
        return b"ok"


def times(once: Callable[[], Any], rounds: int, unit: float) -> list[float]:
    """Durations of `once`, the first two left out; `unit` per second."""
    samples = []
    for index in range(rounds + 2):
        begin = time.perf_counter()
        once()
        if index >= 2:
            samples.append((time.perf_counter() - begin) * unit)
    return samples


@workload("Pool.map of 10,000 small items", "ms", init={"num_cpus": 2})
def pool_map(plan: Plan) -> list[float]:
    items = range(plan.sized(10_000))
    with engine("util.multiprocessing").Pool(2) as pool:
        return times(lambda: pool.map(square, items), 10, 1e3)


@workload("joblib Parallel of 1,000 calls", "ms", init={"num_cpus": 2})
def joblib_parallel(plan: Plan) -> list[float]:
    import joblib

    engine("util.joblib").register_ray()
    count = plan.sized(1_000)
    with joblib.parallel_backend("ray", n_jobs=2):
        return times(lambda: joblib.Parallel()(joblib.delayed(square)(x) for x in range(count)), 3, 1e3)


def graph_of_three() -> Any:
    """Three actors in a row, compiled, and used once."""
    with engine("dag").InputNode() as value:
        node: Any = value
        for step in [actor(Step) for _ in range(3)]:
            node = step.add.bind(node)
    graph = node.experimental_compile()
    assert graph.execute(0).get(timeout=60) == 3
    return graph


@workload("compiled graph of 3 actors, round trip", "us", init={"num_cpus": 4})
def compiled_graph(plan: Plan) -> list[float]:
    graph = graph_of_three()
    count = plan.sized(100)

    def rounds() -> None:
        for index in range(count):
            assert graph.execute(index).get(timeout=60) == index + 3

    return times(rounds, 10, 1e6 / count)


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that all threads of these processes have used; theirs who are gone counts no more."""
    total = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[0])
        except OSError:
            continue
    return total / 1e9


@workload("compiled graph of 3 actors, idle", "% of a core", init={"num_cpus": 4})
def idle_graph(plan: Plan) -> list[float]:
    graph = graph_of_three()
    pids = [os.getpid(), *own_cluster()]

    def once() -> float:
        """What the program and every process of its cluster use while nothing is executed."""
        begin, used = time.perf_counter(), cpu_seconds(pids)
        time.sleep(1.0)
        return (cpu_seconds(pids) - used) / (time.perf_counter() - begin) * 100

    samples = [once() for _ in range(plan.rounds)]
    graph.teardown()
    return samples


if __name__ == "__main__":
    from workloads import main

    main()
