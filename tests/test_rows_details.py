"""What the rows of jobs, endpoints and pools ask besides their main check: last columns, orders, units."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spoke
from spoke import endpoints, jobs
from spoke.endpoints.resolvers import StaticCloud
from spoke.errors import ActorUnavailableError
from spoke.job_submission import JobStatus, JobSubmissionClient, _status
from spoke.jobs import HealthCheck
from spoke.quantities import amounts

pytestmark = pytest.mark.usefixtures("spoke_cluster")
LITTLE = {"CPU": 0.01}


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("PENDING", "PENDING"), ("BUILDING", "PENDING"), ("RUNNING", "RUNNING"), ("SUCCEEDED", "SUCCEEDED"),
        ("FAILED", "FAILED"), ("KILLED", "STOPPED"), ("WORKER_FAILED", "FAILED"), ("UNSCHEDULABLE", "FAILED"),
    ],
)  # fmt: skip
def test_f08_the_eight_states_as_ray_shows_them(state: str, shown: str) -> None:
    assert _status({"state": state}) == JobStatus(shown)


def test_f08_an_unschedulable_job_is_failed_with_its_message() -> None:
    job = jobs.submit("true", resources={"CPU": 100}, scheduling_timeout_s=0.2)
    assert job.wait(60) == "UNSCHEDULABLE"
    client = JobSubmissionClient()
    info = client.get_job_info(job.id)
    assert info.status == "FAILED" and "Scheduling timeout exceeded" in info.message
    client.close()


def test_f09_one_parser_of_sizes() -> None:
    sizes = {"2GB": 2 << 30, "1g": 1 << 30, "512m": 512 << 20, "512MB": 512 << 20, "3k": 3072, "7": 7}
    for text, size in sizes.items():
        assert amounts({"memory": text}) == {"memory": size}
    assert amounts({"memory": "0"}) == amounts({"memory": ""}) == amounts({"memory": 0}) == {}
    for wrong in ("abc", "1x", "-1", "GB", "1 2"):
        with pytest.raises(ValueError, match="is not a size"):
            amounts({"memory": wrong})
    for wrong_amount in (-1, float("nan"), float("inf"), "2", True):
        with pytest.raises(ValueError, match="'CPU'"):
            amounts({"CPU": wrong_amount})
    assert jobs.submit("true", resources={**LITTLE, "memory": "0.25GB"}).wait(60) == "SUCCEEDED"


def test_f22_a_timeout_counts_as_a_failure() -> None:
    job = jobs.submit("sleep 60", job_timeout_s=0.2, retries=1, resources=LITTLE)
    assert job.wait(60) == "FAILED" and job.message == "Timeout exceeded"
    assert [(one.state, one.exit_code) for one in job.attempts()] == [("FAILED", -1)] * 2


def test_f55_a_failed_health_check_is_tried_again() -> None:
    check = HealthCheck(lambda: False, period=0.05, threshold=3)
    job = jobs.submit(time.sleep, 60, health_check=check, retries=1, resources=LITTLE)
    assert job.wait(60) == "FAILED" and job.message == "health check failed 3 times"
    assert len(job.attempts()) == 2


def serve_then_fail(directory: str) -> None:
    spoke.init()
    attempt = os.environ["SPOKE_ATTEMPT_ID"]
    endpoints.register("of-attempts", "127.0.0.1:1", {"attempt": attempt}, namespace="shared")
    Path(directory, attempt).touch()
    until(lambda: os.path.exists(os.path.join(directory, "go")))
    if attempt == "0":
        os._exit(1)
    time.sleep(300)


def test_f27_an_endpoint_is_its_attempts(tmp_path: Path) -> None:
    """A job that is tried again does not bring back what its attempt before had registered."""

    def attempts() -> list[str]:
        found = endpoints.list("of-attempts", namespace="shared")
        return [one.metadata["attempt"] for one in found]

    job = jobs.submit(serve_then_fail, str(tmp_path), retries=1, resources=LITTLE)
    until((tmp_path / "0").exists)
    assert attempts() == ["0"]
    (tmp_path / "go").touch()
    until((tmp_path / "1").exists)
    assert attempts() == ["1"]
    job.terminate(force=True)
    assert job.wait(60) == "KILLED"
    until(lambda: attempts() == [])


# -- servers and clients --------------------------------------------------------------------------


def ports_of_servers() -> tuple[int, int, int]:
    with spoke.ActorServer() as mine, spoke.ActorServer(port=0) as free:
        return int(mine.address.rsplit(":")[-1]), spoke.ctx().get_port("actor"), free.port


def test_f28_a_server_takes_the_jobs_port_unless_one_is_given() -> None:
    taken, promised, free = jobs.submit(ports_of_servers, ports=["actor"], resources=LITTLE).result(60)
    assert taken == promised and free not in (0, promised)


class Touchy:
    """Counts what was asked of it."""

    def __init__(self) -> None:
        self.calls = 0

    def fail(self) -> None:
        self.calls += 1
        raise ActorUnavailableError("as if it were away")

    def count(self) -> int:
        return self.calls


def test_f31_only_the_search_for_the_name_is_repeated_never_the_call() -> None:
    with spoke.ActorServer() as server, spoke.ActorClient(spoke.ClusterResolver(), "touchy") as client:
        server.register("touchy", Touchy())
        with pytest.raises(ActorUnavailableError, match="as if"):
            client.fail()
        assert client.count() == 1


class Named:
    """Says who it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def who(self) -> str:
        return self.name


def test_f33_threads_share_one_round() -> None:
    with spoke.ActorServer() as server, spoke.lookup("round") as pool:
        for number in range(3):
            server.register(f"round-{number}", Named(str(number)))
            endpoints.register("round", f"spoke://{server.address}/round-{number}")
        pool.wait_for_size(3)
        with ThreadPoolExecutor(6) as threads:
            seen = list(threads.map(lambda _: pool.call().who(), range(90)))
        assert sorted(seen) == ["0"] * 30 + ["1"] * 30 + ["2"] * 30


def test_f33_members_may_come_and_go_under_calls() -> None:
    with spoke.ActorServer() as server, spoke.lookup("churn") as pool:
        server.register("steady", Named("steady"))
        endpoints.register("churn", f"spoke://{server.address}/steady")
        pool.wait_for_size(1)
        over = threading.Event()

        def churn() -> None:
            while not over.is_set():
                extra = endpoints.register("churn", f"spoke://{server.address}/steady")
                endpoints.unregister(extra)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            assert {pool.call().who() for _ in range(300)} == {"steady"}
        finally:
            over.set()
            thread.join()


def test_f35_a_resolver_that_answers_nothing_or_fails() -> None:
    for resolver in (spoke.FixedResolver({}), spoke.CloudResolver(StaticCloud([])), spoke.ClusterResolver()):
        assert resolver.resolve("nothing").is_empty
        with spoke.lookup("nothing", resolver=resolver) as pool:
            with pytest.raises(RuntimeError, match="No endpoints for 'nothing'"):
                pool.call().who()
            with pytest.raises(TimeoutError, match="0 of 1"):
                pool.wait_for_size(1, timeout=0.05)

    class Broken:
        def list_instances(self) -> list[Any]:
            raise ConnectionError("the cloud is away")

    with pytest.raises(ConnectionError, match="the cloud is away"):
        spoke.lookup("nothing", resolver=spoke.CloudResolver(Broken())).call().who()


# -- tasks, actors, objects -----------------------------------------------------------------------


@spoke.remote(num_cpus=0)
class Holder:
    """Holds a value and says what memory this process accounts for."""

    def hold(self, value: Any) -> tuple[int, float]:
        self.value = value
        return int(value[0]), float(value[::4096].sum())

    def held_bytes(self) -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def test_m07_readers_of_one_array_share_its_memory() -> None:
    size = 128 << 20
    holders = [Holder.remote() for _ in range(4)]
    before = sum(spoke.get([one.held_bytes.remote() for one in holders]))
    array = np.ones(size // 8)
    ref = spoke.put(array)
    array[0] = 5  # whoever wrote it may go on: readers have what was put
    assert spoke.get([one.hold.remote(ref) for one in holders]) == [(1, size / 8 / 4096)] * 4
    grown = sum(spoke.get([one.held_bytes.remote() for one in holders])) - before
    assert grown < 1.5 * size, "each has a copy"


def test_m16_a_task_waits_for_the_refs_it_is_given_and_runs_once(tmp_path: Path) -> None:
    """Fan-out in any order of completion; a failed argument fails who depends on it without running it."""

    @spoke.remote(num_cpus=0)
    def after(path: str, *values: int) -> int:
        with open(path, "a") as file:
            file.write("x")
        return sum(values)

    @spoke.remote(num_cpus=0)
    def slow(seconds: float) -> int:
        time.sleep(seconds)
        return 1

    @spoke.remote(num_cpus=0)
    def fail() -> int:
        raise ZeroDivisionError("upstream")

    ran = tmp_path / "ran"
    parts = [slow.remote(seconds) for seconds in (0.2, 0.0, 0.1)]
    assert spoke.get(after.remote(str(ran), parts[0], *parts), timeout=60) == 4
    assert ran.read_text() == "x"
    with pytest.raises(ZeroDivisionError, match="upstream"):
        spoke.get(after.remote(str(ran), parts[0], fail.remote()), timeout=60)
    assert ran.read_text() == "x"
