"""The budget that can be held in any run on any machine: frames, modules, threads, not microseconds.

Times depend on the machine and on its neighbours, so only one is asserted here, in units of what a bare
interpreter takes beside it; `python -m spoke.bench` measures the others beside Ray.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spoke.bench.budget import TARGETS
from spoke.bench.runner import Engine, run_once
from spoke.bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[1]

# What costs tens of milliseconds or megabytes, and must wait until it is used.
HEAVY = [
    *("numpy", "torch", "aiohttp", "rich", "click", "sqlite3", "asyncio", "cloudpickle", "psutil", "pandas"),
    *("email", "http", "unittest", "xml", "multiprocessing", "concurrent.futures", "ssl", "ctypes", "pydoc"),
]

IMPORT_LIMIT = 3.0  # processor time of `import spoke`, in starts of a bare interpreter: 40 ms where one is 13
IMPORT_MODULES = 110  # modules that `import spoke` adds to a bare interpreter
DRIVER_THREADS = 2  # the program's own, and the one that leads when nobody waits
DAEMON_THREADS = 2  # its loop, and the one that spawns while the loop goes on
WORKER_THREADS = 3

THREADS = """
import json, os, sys, time
import spoke as ray
sys.path.insert(0, os.path.join({root!r}, "spoke", "bench"))
from workloads import cluster_processes

class Counter:
    def value(self):
        return sorted(set(sys.modules) & set({heavy!r}))

def threads(pid):
    with open(f"/proc/{{pid}}/status") as status:
        return int(next(line for line in status if line.startswith("Threads:")).split()[1])

def command(pid):
    with open(f"/proc/{{pid}}/cmdline") as cmdline:
        return cmdline.read().replace("\\0", " ")

ray.init()
counter = ray.remote(Counter).remote()
heavy = ray.get(counter.value.remote())
ray.get(ray.remote(lambda: 1).remote())
time.sleep(0.3)
found = [[command(p), threads(p)] for p in cluster_processes(os.getpid(), os.environ["SPOKE_BENCH_MARK"])]
driver = threads(os.getpid())
ray.shutdown()
time.sleep(0.1)
after = threads(os.getpid())
print(json.dumps({{"cluster": found, "driver": driver, "after": after, "worker_heavy": heavy}}))
"""


def surroundings() -> dict[str, str]:
    # An installed package has its bytecode beside it; so must one that is measured in its checkout.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def python(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**surroundings(), **environ},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def added_modules() -> list[str]:
    code = "import sys; before = set(sys.modules); import spoke; print(*sorted(set(sys.modules) - before))"
    return python(code).split()


@pytest.mark.parametrize("name", ["Python frames to submit an actor call", "Python frames to get its result"])
def test_frames_per_call(name: str) -> None:
    figure = run_once(Engine("spoke", "spoke", sys.executable), WORKLOADS[name], quick=True, timeout_s=60)
    assert figure.error == ""
    limit = TARGETS[name].limit
    assert limit is not None
    assert figure.samples[0] <= limit  # the median


def test_import_adds_few_modules_and_no_heavy_one() -> None:
    added = added_modules()
    heavy = [name for name in HEAVY if name in added]
    assert heavy == []
    assert len(added) <= IMPORT_MODULES, added


def processor_s(code: str) -> float:
    """Processor time of an interpreter that runs `code`: unlike the clock, it counts no other program's."""
    child = subprocess.Popen([sys.executable, "-c", code], env=surroundings())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_import_time() -> None:
    python("import spoke")  # writes the bytecode that the first import ever has to compile
    bare, whole = [], []
    for _ in range(9):  # in turn, so that both see the same neighbours
        bare.append(processor_s("pass"))
        whole.append(processor_s("import spoke"))
    assert min(whole) - min(bare) < IMPORT_LIMIT * min(bare), (bare, whole)


@pytest.fixture(scope="module")
def census() -> dict[str, Any]:
    code = THREADS.format(root=str(ROOT), heavy=HEAVY)
    result: dict[str, Any] = json.loads(
        python(code, SPOKE_BENCH_MARK=f"budget-{os.getpid()}").splitlines()[-1]
    )
    return result


def test_threads_per_process(census: dict[str, Any]) -> None:
    assert census["driver"] <= DRIVER_THREADS
    daemons = [threads for command, threads in census["cluster"] if command.startswith("spoke-daemon")]
    workers = [threads for command, threads in census["cluster"] if not command.startswith("spoke-daemon")]
    assert len(daemons) == 1
    assert workers
    assert max(daemons) <= DAEMON_THREADS
    assert max(workers) <= WORKER_THREADS


def test_shutdown_ends_the_threads_of_the_driver(census: dict[str, Any]) -> None:
    assert census["after"] == 1


def test_worker_imports_nothing_heavy_by_itself(census: dict[str, Any]) -> None:
    # cloudpickle is what unpickles the user's functions and classes; nothing else is excused.
    assert [name for name in census["worker_heavy"] if name in ("numpy", "torch", "aiohttp", "rich")] == []
