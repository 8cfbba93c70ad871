"""Figures of jobs, pools and endpoints, beside what Python has: ``python -m spoke.bench.jobs [--quick]``.

Each row says what was measured, the figure, and its target; ratios are of figures taken in one run.  A missed
target is told and fails nothing.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import spoke
from spoke import boot, config, endpoints, jobs, spawning, zygote


def nothing(value: int = 0) -> int:
    """The trivial work."""
    return value


class Echo:
    """The callee."""

    def say(self, value: int) -> int:
        """Its argument."""
        return value


def submit_to_running(rounds: int) -> float:
    """Milliseconds from submit to RUNNING on a warm node, the median."""
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        job = jobs.submit(nothing)
        job.wait_until("RUNNING")
        samples.append((time.perf_counter() - started) * 1000)
        job.wait()
    return median(samples)


def jobs_a_second(count: int, entrypoint: object) -> float:
    """Jobs submitted and finished a second."""
    started = time.perf_counter()
    jobs.wait([jobs.submit(entrypoint, resources={"CPU": 0.25}) for _ in range(count)])
    return count / (time.perf_counter() - started)


_FLOOR = (
    "import os, sys; sys.path[:0] = sys.argv[1:]; import spoke.worker; "
    "spoke.worker.main = lambda: os._exit(0); from spoke.zygote import main; main()"
)


def forks_a_second(count: int, at_once: int) -> float:
    """The floor of a function job: processes a second that a zygote forks, end at once and are reaped."""
    pid, fd = boot.start_zygote(
        [sys.executable, "-c", _FLOOR, *spawning.own_paths()], config.environment()
    ) or (0, -1)
    config_fd = spawning.config_file({"nothing": 1})
    null = os.open(os.devnull, os.O_RDWR)
    with socket.socket(fileno=fd) as control:

        def order(number: int) -> None:
            name = number.to_bytes(zygote.NUMBER_BYTES, "little")
            control.sendmsg([name], zygote.pack_fds((config_fd, null, null)))

        def reap() -> None:
            answer = control.recv(2 * zygote.NUMBER_BYTES)
            os.waitpid(int.from_bytes(answer[zygote.NUMBER_BYTES :], "little", signed=True), 0)

        order(0)
        reap()  # it has imported all
        started = time.perf_counter()
        for number in range(count):
            order(number)
            if number >= at_once:
                reap()
        for _ in range(min(at_once, count)):
            reap()
        rate = count / (time.perf_counter() - started)
    os.close(config_fd)
    os.close(null)
    os.waitpid(pid, 0)
    return rate


def endpoint_ratio(calls: int) -> float:
    """Time of a call through a pool, as a multiple of a direct call's: medians of alternating rounds."""
    actor = spoke.remote(num_cpus=0)(Echo).remote()
    endpoints.register("bench", actor)
    with spoke.lookup("bench") as pool:
        pool.wait_for_size(1)
        call = pool.call()
        samples: dict[str, list[float]] = {"pool": [], "direct": []}
        for _ in range(10):
            started = time.perf_counter()
            for index in range(calls):
                call.say(index)
            samples["pool"].append(time.perf_counter() - started)
            started = time.perf_counter()
            for index in range(calls):
                spoke.get(actor.say.remote(index))
            samples["direct"].append(time.perf_counter() - started)
    return median(samples["pool"]) / median(samples["direct"])


def map_rate(items: int) -> float:
    """Items a second of `WorkerPool.map`, the median of three."""
    with spoke.WorkerPool(2) as pool:
        pool.wait_for_workers()
        return median(_rate(lambda: list(pool.map(nothing, range(items))), items) for _ in range(3))


def process_pool_rate(items: int, chunksize: int) -> float:
    """The same by `concurrent.futures.ProcessPoolExecutor`."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(nothing, range(10)))
        return _rate(lambda: list(pool.map(nothing, range(items), chunksize=chunksize)), items)


def _rate(run: Callable[[], object], items: int) -> float:
    started = time.perf_counter()
    run()
    return items / (time.perf_counter() - started)


def main() -> None:
    """All rows."""
    quick = "--quick" in sys.argv
    rows: list[tuple[str, str, bool | None]] = []

    def row(what: str, value: float, unit: str, met: bool | None = None) -> None:
        rows.append((what, f"{value:,.2f} {unit}", met))
        verdict = {None: "", True: "met", False: "NOT met"}[met]
        print(f"{what:58s} {value:14,.2f} {unit:8s} {verdict}", flush=True)

    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}")
    spoke.init(num_cpus=2, log_to_driver=False)
    jobs.submit(nothing).wait()
    ms = submit_to_running(5 if quick else 20)
    row("job submit to running (< 50 ms)", ms, "ms", ms < 50)
    count = 100 if quick else 1000
    rate = jobs_a_second(count, "true")
    row(f"{count} command jobs submitted and finished (>= 200/s)", rate, "/s", rate >= 200)
    rate = jobs_a_second(count, nothing)
    row(f"{count} function jobs submitted and finished (>= 200/s)", rate, "/s", rate >= 200)
    row("  bare processes of the zygote, that end at once", forks_a_second(count, 8), "/s")
    ratio = endpoint_ratio(200 if quick else 1000)
    row("EndpointPool.call beside a direct call (<= 1.10)", ratio, "x", ratio <= 1.10)
    items = 10_000 if quick else 100_000
    rate = map_rate(items)
    row(f"WorkerPool.map of {items} items (>= 30 k/s)", rate, "/s", rate >= 30_000)
    row("  ProcessPoolExecutor.map, as it comes", process_pool_rate(items // 5, 1), "/s")
    row("  ProcessPoolExecutor.map, chunks of 1,000", process_pool_rate(items, 1000), "/s")
    spoke.shutdown()


if __name__ == "__main__":
    main()
