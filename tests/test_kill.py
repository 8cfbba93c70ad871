"""SIGKILL of every kind of process during a running load: every waiting call ends, nothing is left.

CALL-3, PROC-1, PROC-2.  The load is a driver program in a process of its own (`DRIVER`), so that the
driver can be killed too; it prints one line per outcome and must end by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ERRORS = "RayActorError,ActorDiedError,ActorUnavailableError,WorkerCrashedError,RaySystemError," \
    "NodeDiedError,ObjectLostError,OwnerDiedError"  # fmt: skip

DRIVER = """
import os, sys, time
import spoke as ray
address = sys.argv[1] if len(sys.argv) > 1 else None
ray.init(address=address, **({} if address else {"num_cpus": 2}), log_to_driver=False)

@ray.remote(max_retries=0)
def work(seconds):
    time.sleep(seconds)
    return os.getpid()

@ray.remote
class Actor:
    def work(self, seconds):
        time.sleep(seconds)
        return os.getpid()

where = {"resources": {"far": 1}} if address else {}
actor = Actor.options(**where).remote()
pid = ray.get(actor.work.remote(0))
refs = [actor.work.remote(60)]
task = work.options(**where).remote(60)
time.sleep(0.5)
client = __import__("spoke.current", fromlist=["client"]).client
lease = next(iter(client.calls.tasks.leases.values()))
print("pids", pid, lease.info["pid"], flush=True)
waiting = {"actor": refs[0], "task": task}
for name, ref in waiting.items():
    try:
        ray.get(ref, timeout=20)
        print("done", name, "value", flush=True)
    except Exception as error:
        print("done", name, type(error).__name__, time.time(), flush=True)
"""


class Driver:
    """A driver program under load."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *args], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "SPOKE_LOG_TO_DRIVER": "0"},
        )  # fmt: skip
        self.actor_pid, self.task_pid = (int(word) for word in self.line().split()[1:])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def outcome(self, name: str) -> tuple[str, float]:
        """(error name, when) of the call that waits."""
        words = self.line().split()
        assert words[:2] == ["done", name], words
        assert words[2] in ERRORS.split(","), words
        return words[2], float(words[3])

    def finish(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all of these end within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kill_actor_and_worker_end_their_calls_by_name() -> None:
    driver = Driver()
    try:
        below = descendants(driver.process.pid)
        killed = time.time()
        os.kill(driver.actor_pid, signal.SIGKILL)
        error, when = driver.outcome("actor")
        assert error == "ActorDiedError" and when - killed < 2
        killed = time.time()
        os.kill(driver.task_pid, signal.SIGKILL)
        error, when = driver.outcome("task")
        assert error == "WorkerCrashedError" and when - killed < 2
        assert driver.process.wait(10) == 0
        assert gone(below, 2), "PROC-2: processes outlive the driver"
    finally:
        driver.finish()


def test_kill_the_embedded_daemon_ends_everything() -> None:
    driver = Driver()
    try:
        below = descendants(driver.process.pid)
        daemon = next(pid for pid in below if pid not in (driver.actor_pid, driver.task_pid)
                      and driver.actor_pid in descendants(pid))  # fmt: skip
        killed = time.time()
        os.kill(daemon, signal.SIGKILL)
        for name in ("actor", "task"):
            assert driver.outcome(name)[1] - killed < 2
        assert driver.process.wait(10) == 0
        assert gone(below, 2), "PROC-1: workers outlive their agent"
    finally:
        driver.finish()


def test_kill_the_driver_leaves_nothing() -> None:
    driver = Driver()
    try:
        below = descendants(driver.process.pid)
        driver.process.kill()
        assert gone(below, 2), "PROC-2: processes outlive the driver"
    finally:
        driver.finish()


@pytest.fixture
def far_cluster():  # type: ignore[no-untyped-def]
    from spoke.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.far = cluster.add_node(num_cpus=4, resources={"far": 4})
    yield cluster
    cluster.shutdown()


def test_kill_an_agent_of_another_node(far_cluster) -> None:  # type: ignore[no-untyped-def]
    driver = Driver(far_cluster.address)
    try:
        below = descendants(far_cluster.far.pid)
        assert driver.actor_pid in below
        killed = time.time()
        os.kill(far_cluster.far.pid, signal.SIGKILL)
        for name in ("actor", "task"):
            assert driver.outcome(name)[1] - killed < 2
        assert driver.process.wait(10) == 0
        assert gone(below, 2), "PROC-1: workers outlive their agent"
    finally:
        driver.finish()


def test_kill_the_hub(far_cluster) -> None:  # type: ignore[no-untyped-def]
    driver = Driver(far_cluster.address)
    try:
        hub = far_cluster.head_node.pid
        below = [*descendants(hub), *descendants(far_cluster.far.pid), far_cluster.far.pid]
        killed = time.time()
        os.kill(hub, signal.SIGKILL)
        for name in ("actor", "task"):
            assert driver.outcome(name)[1] - killed < 2
        assert driver.process.wait(10) == 0
        assert gone(below, 2), "PROC-2: a cluster without its hub is left behind"
    finally:
        driver.finish()


def test_kill_a_driver_of_a_cluster_releases_all(far_cluster) -> None:  # type: ignore[no-untyped-def]
    import spoke

    driver = Driver(far_cluster.address)
    try:
        workers = [driver.actor_pid, driver.task_pid]
        driver.process.kill()
        assert gone(workers, 2), "workers go on for a dead driver"
        spoke.init(address=far_cluster.address, log_to_driver=False)
        deadline = time.monotonic() + 5
        while spoke.available_resources().get("far") != 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert spoke.available_resources().get("far") == 4
    finally:
        spoke.shutdown()
        driver.finish()
