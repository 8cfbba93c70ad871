"""`spoke.WorkerPool`: an executor on the cluster (rows F-36, F-37, F-38 and section 3.6)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke.errors import RayTaskError, WorkerCrashedError


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    spoke.init(num_cpus=4)
    yield
    spoke.shutdown()


@pytest.fixture
def pool(cluster: None) -> Iterator[spoke.WorkerPool]:
    with spoke.WorkerPool(2) as pool:
        yield pool


def square(x: int) -> int:
    return x * x


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_f36_map_of_squares(pool: Any) -> None:
    assert list(pool.map(square, [1, 2, 3, 4, 5])) == [1, 4, 9, 16, 25]
    assert list(pool.map(square, [])) == []
    assert list(pool.map(pow, [2, 3], [3, 2])) == [8, 9]
    assert list(pool.map(square, range(10_000))) == [i * i for i in range(10_000)]
    assert list(pool.map(square, range(100), chunksize=7)) == [i * i for i in range(100)]


def test_map_raises_the_error_in_its_place_and_runs_each_item_once(pool: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def item(x: int) -> int:
        with log.open("a") as file:
            file.write(f"{x}\n")
        if x == 5:
            raise ValueError("five")
        return x

    results = pool.map(item, range(8), chunksize=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five") as caught:
        next(results)
    assert "in item" in str(caught.value)  # the remote traceback
    lines = log.read_text().split()
    assert len(lines) == len(set(lines))


def test_map_is_late_by_name(pool: Any) -> None:
    with pytest.raises(TimeoutError, match="item 0"):
        list(pool.map(time.sleep, [1.0], timeout=0.05))


def test_f37_status_size_and_names(pool: Any, tmp_path: Path) -> None:
    pool.wait_for_workers(timeout=60)
    assert pool.status() == (2, 0, 0, 0, 0, 0)
    assert pool.size == 2 and pool.idle_count == 2
    assert pool.job_ids == [f"worker-{pool.pool_id}-0", f"worker-{pool.pool_id}-1"]

    def hold(path: str, go: str) -> None:
        Path(path).touch()
        while not os.path.exists(go):
            time.sleep(0.01)

    go = tmp_path / "go"
    futures = [pool.submit(hold, str(tmp_path / str(i)), str(go)) for i in range(3)]
    wait_for(tmp_path / "0")
    wait_for(tmp_path / "1")
    status = pool.status()
    assert (status.busy, status.idle, status.queued) == (2, 0, 1)
    go.touch()
    for future in futures:
        future.result(timeout=60)
    pool.print_status()
    assert pool.status().completed == 3


def test_only_idle_workers_take_work(pool: Any, tmp_path: Path) -> None:
    """A long call does not hold up those behind it: they go to the other worker."""
    go = tmp_path / "go"

    def hold(go: str) -> int:
        while not os.path.exists(go):
            time.sleep(0.01)
        return os.getpid()

    slow = pool.submit(hold, str(go))
    quick = {pool.submit(os.getpid).result(timeout=60) for _ in range(10)}
    go.touch()
    assert len(quick) == 1 and slow.result(timeout=60) not in quick


def test_f38_futures(pool: Any) -> None:
    future = pool.submit(square, 3)
    assert future.result(timeout=60) == 9 and future.done() and future.exception() is None
    with pytest.raises(TimeoutError):
        pool.submit(time.sleep, 0.5).result(timeout=0.01)
    found = {f.result() for f in as_completed([pool.submit(square, i) for i in range(5)], timeout=60)}
    assert found == {0, 1, 4, 9, 16}

    async def both() -> list[int]:
        return [await pool.submit(square, 4), await asyncio.wrap_future(pool.submit(square, 5))]

    assert asyncio.run(both()) == [16, 25]


def test_top_level_refs_arrive_as_values(pool: Any) -> None:
    assert pool.submit(square, spoke.put(6)).result(timeout=60) == 36


def test_users_exception_is_not_retried_and_the_worker_stays(cluster: None, tmp_path: Path) -> None:
    count = tmp_path / "count"

    def fail() -> None:
        with count.open("a") as file:
            file.write("x")
        raise KeyError("mine")

    with spoke.WorkerPool(1, max_retries=5) as pool:
        before = pool.submit(os.getpid).result(timeout=60)
        with pytest.raises(KeyError, match="mine") as caught:
            pool.submit(fail).result(timeout=60)
        assert isinstance(caught.value, RayTaskError)
        assert pool.submit(os.getpid).result(timeout=60) == before
    assert count.read_text() == "x"


class Odd(Exception):
    """Cannot be unpickled: its constructor wants two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def test_an_error_that_does_not_travel_comes_as_text(pool: Any) -> None:
    def fail(_: int = 0) -> None:
        raise Odd(1, 2)

    with pytest.raises(Exception, match="odd"):
        pool.submit(fail).result(timeout=60)
    with pytest.raises(Exception, match="odd"):
        list(pool.map(fail, [1]))
    assert pool.submit(square, 2).result(timeout=60) == 4


def die_once(marker: str) -> int:
    if not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_a_workers_death_is_retried_within_budget(cluster: None, tmp_path: Path) -> None:
    with spoke.WorkerPool(2, max_retries=1) as pool:
        assert pool.submit(die_once, str(tmp_path / "a")).result(timeout=60) > 0
        assert list(pool.map(die_once, [str(tmp_path / "b")], timeout=60))
        with pytest.raises(WorkerCrashedError, match="died"):
            pool.submit(os._exit, 3).result(timeout=60)
        assert pool.status().failed == 4  # 1 + 1 + 2
        pool.wait_for_workers(timeout=60)
        assert pool.size == 2


def test_without_retries_a_death_is_an_error(pool: Any) -> None:
    with pytest.raises(WorkerCrashedError):
        pool.submit(os._exit, 0).result(timeout=60)
    with pytest.raises(WorkerCrashedError):
        list(pool.map(os._exit, [1], timeout=60))
    assert pool.submit(square, 2).result(timeout=60) == 4


def test_a_dead_idle_worker_costs_no_call(cluster: None) -> None:
    with spoke.WorkerPool(1) as pool:
        pid = pool.submit(os.getpid).result(timeout=60)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not pool._is_dead(pool._idle[0]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert pool.submit(os.getpid).result(timeout=60) != pid


def test_all_workers_dead_is_an_error_and_no_hang(cluster: None) -> None:
    with spoke.WorkerPool(1, runtime_env={"env_vars": {"PYTHONHOME": "/nowhere"}}) as pool:
        future = pool.submit(square, 2)
        with pytest.raises(WorkerCrashedError, match="no workers any more"):
            future.result(timeout=100)
        with pytest.raises(WorkerCrashedError):
            pool.submit(square, 2)
        with pytest.raises(WorkerCrashedError):
            pool.wait_for_workers(timeout=60)


def test_resize(cluster: None) -> None:
    with spoke.WorkerPool(1) as pool:
        pool.resize(3)
        pool.wait_for_workers(timeout=60)
        assert pool.size == 3
        pool.resize(1)
        assert pool.size == 1 and pool.submit(square, 3).result(timeout=60) == 9
        pool.resize(0)
        with pytest.raises(RuntimeError, match="No workers available"):
            pool.submit(square, 3)
        with pytest.raises(ValueError, match="num_workers"):
            pool.resize(-1)


def test_wait_for_workers_times_out(cluster: None) -> None:
    with spoke.WorkerPool(1, resources={"CPU": 1, "absent": 1}) as pool:
        with pytest.raises(TimeoutError, match="0 of 1 workers"):
            pool.wait_for_workers(timeout=0.1)
        pool.shutdown(wait=False, cancel_futures=True)


def test_shutdown_finishes_what_is_queued(cluster: None) -> None:
    """Fluster's shutdown(wait=True) stopped its dispatchers first and hung on the queue."""
    pool = spoke.WorkerPool(1)
    futures = [pool.submit(square, i) for i in range(20)]
    pool.shutdown(wait=True)
    assert [future.result(timeout=0) for future in futures] == [i * i for i in range(20)]
    with pytest.raises(RuntimeError, match="WorkerPool has been shutdown"):
        pool.submit(square, 1)
    with pytest.raises(RuntimeError, match="WorkerPool has been shutdown"):
        pool.map(square, [1])
    pool.shutdown()


def test_shutdown_can_cancel(cluster: None, tmp_path: Path) -> None:
    pool = spoke.WorkerPool(1)

    def hold(marker: str) -> None:
        Path(marker).touch()
        time.sleep(0.3)

    first = pool.submit(hold, str(tmp_path / "on"))
    second = pool.submit(square, 2)
    wait_for(tmp_path / "on")
    pool.shutdown(cancel_futures=True)
    first.result(timeout=0)
    with pytest.raises(CancelledError):
        second.result(timeout=0)


def test_a_cancelled_future_is_not_run(cluster: None, tmp_path: Path) -> None:
    with spoke.WorkerPool(1) as pool:
        pool.submit(time.sleep, 0.2)
        future = pool.submit(Path.touch, tmp_path / "ran")
        assert future.cancel()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_workers": 0}, ValueError),
        ({"num_workers": "2"}, ValueError),
        ({"num_workers": 1, "max_retries": -1}, ValueError),
        ({"num_workers": 1, "resources": {"memory": "abc"}}, ValueError),
        ({"num_workers": 1, "resources": {"cpu": 1}}, ValueError),
        ({"num_workers": 1, "resources": 3}, TypeError),
    ],
)
def test_bad_arguments(cluster: None, arguments: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        spoke.WorkerPool(**arguments)


def test_what_does_not_pickle_is_a_type_error_at_the_call(pool: Any) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        pool.submit(lambda: lock)
    with pytest.raises(TypeError):
        pool.submit("not a function")
    with pytest.raises(TypeError):
        pool.submit(square, lock).result(timeout=60)
    assert pool.submit(square, 2).result(timeout=60) == 4
