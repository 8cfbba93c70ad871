"""The workloads, in one self-contained file that runs against any engine with Ray's API.

Run by path, one workload in one fresh process and one fresh cluster, so that no workload inherits
another's workers, caches or memory::

    PYTHON workloads.py ENGINE NAME [--quick]

ENGINE is the module to import (``spoke`` or ``ray``), NAME a key of `WORKLOADS`.  The last line of
output is ``RESULT <json>`` with the samples in the workload's unit.  No workload knows its engine:
every call here is public Ray API.  Only numpy is needed beside the engine.

A sample is one short round (`Plan.round_s`); the first rounds warm up and are not counted.  Rates
are calls a second, so that they compare with the rows of ``ray microbenchmark``, whose names are
used where the workload is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from types import FrameType
from typing import Any

MARK = "SPOKE_BENCH_MARK"  # inherited by every process of the cluster, wherever it is reparented

ray: Any = None  # the engine; bound by main()


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Plan:
    """How long to measure: durations in seconds, `scale` shrinks the big sizes and batches."""

    warm_s: float = 0.6
    round_s: float = 0.5
    rounds: int = 5
    limit_s: float = 25.0
    scale: float = 1.0

    def sized(self, n: int) -> int:
        return max(1, int(n * self.scale))

    def rate(self, fn: Callable[[], object], units: float = 1) -> list[float]:
        """Rounds of `fn`, each sample being `units` times its calls a second."""
        started = time.perf_counter()
        calls = 0
        while not calls or time.perf_counter() - started < self.warm_s:
            fn()
            calls += 1
        # The clock is read once in `step` calls, so that it weighs nothing on calls of microseconds.
        step = int(calls * self.round_s / (time.perf_counter() - started) / 8) + 1
        samples: list[float] = []
        while len(samples) < self.rounds:
            begin = time.perf_counter()
            done = 0
            while not done or time.perf_counter() - begin < self.round_s:
                for _ in range(step):
                    fn()
                done += step
            samples.append(units * done / (time.perf_counter() - begin))
            if time.perf_counter() - started > self.limit_s:
                break
        return samples

    def each(self, fn: Callable[[], float], rounds: int | None = None) -> list[float]:
        """One sample per call of `fn`, which measures itself."""
        started = time.perf_counter()
        samples: list[float] = []
        while len(samples) < (rounds or self.rounds):
            samples.append(fn())
            if time.perf_counter() - started > self.limit_s:
                break
        return samples


QUICK = Plan(warm_s=0.2, round_s=0.2, rounds=3, limit_s=8.0, scale=0.25)

Body = Callable[[Plan], list[float]]


@dataclass(frozen=True)
class Workload:
    """`init` holds the arguments of init(); None: the body starts the cluster itself.
    `passes` is the processes wanted per pass, more for workloads that give one sample each."""

    name: str
    unit: str
    body: Body
    init: dict[str, Any] | None
    passes: int

    @property
    def higher(self) -> bool:
        """Whether more is better: of rates it is, of times, sizes and counts it is not."""
        return self.unit.endswith("/s")


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str, unit: str = "/s", init: dict[str, Any] | None = None, started: bool = True, passes: int = 1
) -> Callable[[Body], Body]:
    def add(body: Body) -> Body:
        WORKLOADS[name] = Workload(name, unit, body, (init or {}) if started else None, passes)
        return body

    return add


# ------------------------------------------------------------------ the remote side


def small_value() -> bytes:
    return b"ok"


def put_small(n: int) -> None:
    for _ in range(n):
        ray.put(0)


def put_large(n: int, count: int) -> None:
    import numpy as np

    for _ in range(n):
        ray.put(np.zeros(count, dtype=np.int64))


def put_refs(n: int) -> list[Any]:
    return [ray.put(1) for _ in range(n)]


def call_actors(actors: list[Any], n: int) -> None:
    ray.get([actors[i % len(actors)].small_value.remote() for i in range(n)])


class Actor:
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: object) -> bytes:
        return b"ok"

    def small_value_batch(self, n: int) -> None:
        task = remote(small_value)
        ray.get([task.remote() for _ in range(n)])


class AsyncActor:
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: object) -> bytes:
        return b"ok"


class Client:
    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers

    def small_value_batch(self, n: int) -> None:
        ray.get([s.small_value.remote() for s in self.servers for _ in range(n)])

    def small_value_batch_arg(self, n: int) -> None:
        x = ray.put(0)
        ray.get([s.small_value_arg.remote(x) for s in self.servers for _ in range(n)])


class Producer:
    """Puts arrays of `count` float32 in the store, so that the reader is another process than the writer."""

    def produce(self, count: int, n: int) -> list[Any]:
        import numpy as np

        return [ray.put(np.full(count, i + 1, dtype=np.float32)) for i in range(n)]


def remote(target: Any, **options: Any) -> Any:
    return ray.remote(**options)(target) if options else ray.remote(target)


def actor(cls: type, *args: Any, **options: Any) -> Any:
    """An actor of `cls` that holds no CPU, constructed: its first call has been answered."""
    options.setdefault("num_cpus", 0)
    handle = remote(cls, **options).remote(*args)
    if hasattr(cls, "small_value"):
        ray.get(handle.small_value.remote())
    return handle


def some() -> int:
    """Peers in the 1:n and n:n workloads: half the CPUs, as in Ray's benchmark."""
    return max(1, (os.cpu_count() or 2) // 2)


# ------------------------------------------------------------------ objects


@workload("single client get calls (Plasma Store)")
def get_small(plan: Plan) -> list[float]:
    value = ray.put(0)
    return plan.rate(lambda: ray.get(value))


@workload("single client put calls (Plasma Store)")
def put_small_objects(plan: Plan) -> list[float]:
    return plan.rate(lambda: ray.put(0))


@workload("multi client put calls (Plasma Store)")
def put_small_multi(plan: Plan) -> list[float]:
    task = remote(put_small)
    return plan.rate(lambda: ray.get([task.remote(100) for _ in range(10)]), 1000)


@workload("single client put gigabytes", "GB/s")
def put_gigabytes(plan: Plan) -> list[float]:
    import numpy as np

    # Ones, not zeros: untouched zeros all read from one cached page, and would flatter the copy.
    array = np.ones(plan.sized(100 * 1024 * 1024), dtype=np.int64)
    return plan.rate(lambda: ray.put(array), array.nbytes / 1e9)


@workload("multi client put gigabytes", "GB/s")
def put_gigabytes_multi(plan: Plan) -> list[float]:
    task = remote(put_large)
    count = plan.sized(10 * 1024 * 1024)
    return plan.rate(lambda: ray.get([task.remote(4, count) for _ in range(4)]), 16 * count * 8 / 1e9)


def first_gets(plan: Plan, nbytes: int, n: int) -> list[float]:
    """us of the first get of each of `n` arrays that another process of the node wrote."""
    import numpy as np

    count = nbytes // 4
    producer = remote(Producer, num_cpus=0).remote()
    # The first object opens what is opened once per pair of processes; it is not counted.
    ray.get(ray.get(producer.produce.remote(count, 1)))
    refs = ray.get(producer.produce.remote(count, n))
    ray.wait(refs, num_returns=n)
    samples = []
    for i, ref in enumerate(refs):
        begin = time.perf_counter()
        array = ray.get(ref)
        samples.append((time.perf_counter() - begin) * 1e6)
        assert array[0] == i + 1 == array[-1] and array.dtype == np.float32 and len(array) == count
    return samples


@workload("get 1 MiB tensor, first time", "us")
def get_1mib(plan: Plan) -> list[float]:
    return first_gets(plan, 1 << 20, plan.sized(64))


@workload("get 64 MiB tensor, first time", "us")
def get_64mib(plan: Plan) -> list[float]:
    return first_gets(plan, 1 << 26, plan.sized(16))


@workload("get 1 GiB tensor, first time", "us")
def get_1gib(plan: Plan) -> list[float]:
    return first_gets(plan, 1 << 30, plan.sized(4))


@workload("single client get object containing 10k refs")
def get_containing_refs(plan: Plan) -> list[float]:
    holder = remote(put_refs).remote(10_000)
    ray.wait([holder])
    return plan.rate(lambda: ray.get(holder))


@workload("single client wait 1k refs")
def wait_refs(plan: Plan) -> list[float]:
    task = remote(small_value)

    def once() -> None:
        pending = [task.remote() for _ in range(1000)]
        # Asking once for each object is enough to have it fetched.
        _, pending = ray.wait(pending, fetch_local=True)
        while pending:
            _, pending = ray.wait(pending, fetch_local=False)

    return plan.rate(once)


# ------------------------------------------------------------------ tasks


@workload("single client tasks sync")
def tasks_sync(plan: Plan) -> list[float]:
    task = remote(small_value)
    return plan.rate(lambda: ray.get(task.remote()))


@workload("single client tasks async")
def tasks_async(plan: Plan) -> list[float]:
    task = remote(small_value)
    return plan.rate(lambda: ray.get([task.remote() for _ in range(1000)]), 1000)


@workload("single client tasks and get batch")
def tasks_batch(plan: Plan) -> list[float]:
    task = remote(small_value)
    return plan.rate(lambda: ray.get([task.remote() for _ in range(1000)]))


@workload("multi client tasks async")
def tasks_multi(plan: Plan) -> list[float]:
    n, m = plan.sized(1000), 4
    clients = [actor(Actor) for _ in range(m)]
    return plan.rate(lambda: ray.get([c.small_value_batch.remote(n) for c in clients]), n * m)


# ------------------------------------------------------------------ actor calls


@workload("1:1 actor calls sync")
def actor_sync(plan: Plan) -> list[float]:
    a = actor(Actor)
    return plan.rate(lambda: ray.get(a.small_value.remote()))


@workload("1:1 actor calls async")
def actor_async(plan: Plan) -> list[float]:
    a = actor(Actor)
    return plan.rate(lambda: ray.get([a.small_value.remote() for _ in range(1000)]), 1000)


@workload("1:1 actor calls concurrent")
def actor_concurrent(plan: Plan) -> list[float]:
    a = actor(Actor, max_concurrency=16)
    return plan.rate(lambda: ray.get([a.small_value.remote() for _ in range(1000)]), 1000)


@workload("1:n actor calls async")
def actor_one_to_n(plan: Plan) -> list[float]:
    n, servers = plan.sized(2000), [actor(Actor) for _ in range(some())]
    client = remote(Client, num_cpus=0).remote(servers)
    return plan.rate(lambda: ray.get(client.small_value_batch.remote(n)), n * len(servers))


@workload("n:n actor calls async")
def actor_n_to_n(plan: Plan) -> list[float]:
    n, m, servers = plan.sized(2000), 4, [actor(Actor) for _ in range(some())]
    task = remote(call_actors)
    return plan.rate(lambda: ray.get([task.remote(servers, n) for _ in range(m)]), n * m)


@workload("n:n actor calls with arg async")
def actor_n_to_n_arg(plan: Plan) -> list[float]:
    n, servers = plan.sized(1000), [actor(Actor) for _ in range(some())]
    clients = [remote(Client, num_cpus=0).remote([s]) for s in servers]
    return plan.rate(lambda: ray.get([c.small_value_batch_arg.remote(n) for c in clients]), n * len(clients))


@workload("1:1 async-actor calls sync")
def async_actor_sync(plan: Plan) -> list[float]:
    a = actor(AsyncActor)
    return plan.rate(lambda: ray.get(a.small_value.remote()))


@workload("1:1 async-actor calls async")
def async_actor_async(plan: Plan) -> list[float]:
    a = actor(AsyncActor)
    return plan.rate(lambda: ray.get([a.small_value.remote() for _ in range(1000)]), 1000)


@workload("1:1 async-actor calls with args async")
def async_actor_args(plan: Plan) -> list[float]:
    a = actor(AsyncActor)
    return plan.rate(lambda: ray.get([a.small_value_with_arg.remote(i) for i in range(1000)]), 1000)


@workload("1:n async-actor calls async")
def async_actor_one_to_n(plan: Plan) -> list[float]:
    n, servers = plan.sized(2000), [actor(AsyncActor) for _ in range(some())]
    client = remote(Client, num_cpus=0).remote(servers)
    return plan.rate(lambda: ray.get(client.small_value_batch.remote(n)), n * len(servers))


@workload("n:n async-actor calls async")
def async_actor_n_to_n(plan: Plan) -> list[float]:
    n, m, servers = plan.sized(2000), 4, [actor(AsyncActor) for _ in range(some())]
    task = remote(call_actors)
    return plan.rate(lambda: ray.get([task.remote(servers, n) for _ in range(m)]), n * m)


@workload("awaited actor calls, 100 at a time")
def awaited_calls(plan: Plan) -> list[float]:
    """What a server does: an asyncio program in the driver awaits refs."""
    a = actor(AsyncActor)

    async def batch() -> None:
        async def one() -> None:
            await a.small_value.remote()

        await asyncio.gather(*(one() for _ in range(100)))

    loop = asyncio.new_event_loop()
    try:
        return plan.rate(lambda: loop.run_until_complete(batch()), 100)
    finally:
        loop.close()


# ------------------------------------------------------------------ clusters


@workload("init to first task's result", "s", started=False, passes=3)
def init_first_task(plan: Plan) -> list[float]:
    begin = time.perf_counter()
    ray.init()
    ray.get(remote(small_value).remote())
    return [time.perf_counter() - begin]


@workload("whole script: start, one task, exit", "s", started=False, passes=3)
def whole_script(plan: Plan) -> list[float]:
    """A child process runs the shortest useful script; what a user waits for at a prompt."""
    import subprocess

    name = ray.__name__
    script = f"import {name} as ray\nray.init()\nf = ray.remote(lambda: 1)\nassert ray.get(f.remote()) == 1\n"
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
    return [time.perf_counter() - begin]


@workload("placement group create/removal", init={"resources": {"custom": 100}})
def placement_groups(plan: Plan) -> list[float]:
    n = 100

    def once() -> None:
        groups = [ray.util.placement_group(bundles=[{"custom": 0.001}]) for _ in range(n)]
        for group in groups:
            assert group.wait(timeout_seconds=30)
        for group in groups:
            ray.util.remove_placement_group(group)

    return plan.rate(once, n)


@workload("20 actors created and called", "s")
def twenty_actors(plan: Plan) -> list[float]:
    def once() -> float:
        begin = time.perf_counter()
        cls = remote(Actor, num_cpus=0)
        actors = [cls.remote() for _ in range(20)]
        answers = ray.get([a.small_value.remote() for a in actors])
        took = time.perf_counter() - begin
        assert answers == [b"ok"] * 20
        for a in actors:
            ray.kill(a)
        time.sleep(1.0)  # the killed processes go; a pool of spare workers, if any, is refilled
        return took

    return plan.each(once, max(1, plan.rounds - 2))


def parents() -> dict[int, int]:
    """Parent of each process, by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    # The command, in parentheses, may hold spaces and parentheses itself.
                    found[int(entry)] = int(stat.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    return found


def cluster_processes(driver: int, mark: str) -> list[int]:
    """The live processes of the cluster, excluding `driver`: its descendants, those that inherited `mark`
    (a daemon that has left its parent), and theirs."""
    tree = parents()
    found = {driver}
    wanted = f"{MARK}={mark}".encode()
    for pid in tree:
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.add(pid)
        except OSError:
            continue
    while more := {pid for pid, parent in tree.items() if parent in found and pid not in found}:
        found |= more
    return sorted(found - {driver})


def own_cluster() -> list[int]:
    """The processes of this program's cluster."""
    return cluster_processes(os.getpid(), os.environ[MARK])


def pss(pid: int) -> int:
    """Bytes of memory of one process, shared pages counted in proportion; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    except OSError:
        return 0


@workload("idle cluster memory", "MB")
def idle_memory(plan: Plan) -> list[float]:
    ray.get(remote(small_value).remote())
    time.sleep(3.0)

    def once() -> float:
        time.sleep(0.3)
        return sum(map(pss, own_cluster())) / 1e6

    return plan.each(once, 3)


@workload("idle cluster processes", "processes")
def idle_processes(plan: Plan) -> list[float]:
    ray.get(remote(small_value).remote())
    return [float(len(own_cluster()))]


def frames(fn: Callable[[], object]) -> int:
    """Python frames entered in this thread while `fn` runs, its own frame excluded."""
    entered = 0

    def profiler(frame: FrameType, event: str, arg: object) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(profiler)
    try:
        fn()
    finally:
        sys.setprofile(None)
    return entered - 1


def call_frames(part: str, n: int) -> list[float]:
    a = actor(Actor)
    samples = []
    for _ in range(n):
        method = a.small_value  # bound outside: the call is measured, not the attribute
        refs: list[Any] = []
        submit = frames(lambda: refs.append(method.remote()))  # noqa: B023 - called at once
        ray.wait(refs)
        fetch = frames(lambda: ray.get(refs[0]))  # noqa: B023
        samples.append(float(submit if part == "submit" else fetch))
    return [median(samples[n // 2 :]), min(samples), max(samples[n // 2 :])]


@workload("Python frames to submit an actor call", "frames")
def frames_submit(plan: Plan) -> list[float]:
    return call_frames("submit", 40)


@workload("Python frames to get its result", "frames")
def frames_get(plan: Plan) -> list[float]:
    return call_frames("get", 40)


# ------------------------------------------------------------------ one process, one workload


def main() -> None:
    global ray
    parser = argparse.ArgumentParser(description="Run one workload on one engine.")
    parser.add_argument("engine")
    parser.add_argument("name", choices=sorted(WORKLOADS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    # This file's folder must not shadow the modules of the engine, nor of its workers.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    os.environ.setdefault(MARK, str(os.getpid()))
    ray = importlib.import_module(args.engine)
    chosen = WORKLOADS[args.name]
    if chosen.init is not None:
        ray.init(**chosen.init)
    samples = chosen.body(QUICK if args.quick else Plan())
    ray.shutdown()
    version = getattr(ray, "__version__", "unknown")
    print("\nRESULT " + json.dumps({"name": chosen.name, "samples": samples, "version": version}), flush=True)


if __name__ == "__main__":
    main()
