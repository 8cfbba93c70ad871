"""Memory stays flat: calls and blocks that are done with leave nothing behind, in any process.

The load is run twice over in a fresh cluster, and the second half must cost no memory that the
first did not: what is allocated once (caches, arenas, code) is there after the first half.
`SPOKE_TEST_CALLS` scales the number of calls of the ordinary test (default 40,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CALLS = int(os.environ.get("SPOKE_TEST_CALLS", "40000"))
BLOCKS = 10_000
ALLOWED_MB = 6.0  # what fragmentation of the allocators may move; one leaked call in ten would show

PROGRAM = """
import gc, json, os, sys, time
import spoke as ray
sys.path.insert(0, os.path.join({root!r}, "spoke", "bench"))
from workloads import cluster_processes, pss

class Echo:
    def value(self, x):
        return x

def memory():
    gc.collect()
    time.sleep(0.5)
    pids = [os.getpid(), *cluster_processes(os.getpid(), os.environ["SPOKE_BENCH_MARK"])]
    return sum(map(pss, pids)) / 1e6

def calls(n):
    echo = ray.remote(Echo).remote()
    task = ray.remote(lambda x: x)
    done = 0
    while True:
        for start in range(0, n, 2000):
            batch = range(start, min(n, start + 2000))
            answers = ray.get([echo.value.remote(i) for i in batch])
            assert answers == list(batch)
            done += len(answers)
            if start % 8000 == 0:
                assert ray.get([task.remote(i) for i in range(200)]) == list(range(200))
        yield

def blocks(n):
    payload = os.urandom(256 * 1024)
    ref = ray.put(payload)
    echo = ray.remote(Echo).remote()
    while True:
        for i in range(n):
            ref = ray.put(payload)
            if i % 500 == 0:
                assert ray.get(ref) == payload
                assert ray.get(echo.value.remote(ref)) == payload
        yield

ray.init()
load = {kind}({n} // 2)
next(load)
before = memory()
next(load)
after = memory()
ray.shutdown()
print(json.dumps([before, after]))
"""


def growth_mb(kind: str, n: int, timeout_s: float = 120) -> float:
    """MB of all processes of a cluster together that the second half of `n` operations added."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT), kind=kind, n=n)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPOKE_BENCH_MARK": f"memory-{kind}-{os.getpid()}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = json.loads(done.stdout.splitlines()[-1])
    return float(after - before)


def test_calls_leave_memory_flat() -> None:
    assert growth_mb("calls", CALLS) < ALLOWED_MB


def test_blocks_put_and_dropped_leave_memory_flat() -> None:
    assert growth_mb("blocks", BLOCKS) < ALLOWED_MB


@pytest.mark.slow
def test_a_million_calls_leave_memory_flat() -> None:
    assert growth_mb("calls", 1_000_000, timeout_s=900) < ALLOWED_MB
