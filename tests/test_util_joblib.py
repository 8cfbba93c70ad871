"""joblib's Parallel on the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

joblib = pytest.importorskip("joblib")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import spoke
    from spoke.util.joblib import register_ray

    spoke.init(num_cpus=2)
    register_ray()
    yield
    spoke.shutdown()


def where(_: int) -> int:
    return os.getpid()


def inverse(x: int) -> float:
    return 1 / x


def parallel(n_jobs: int, function: Any, items: Any) -> list[Any]:
    with joblib.parallel_backend("ray", n_jobs=n_jobs):
        return list(joblib.Parallel()(joblib.delayed(function)(item) for item in items))


def test_results_are_in_order() -> None:
    assert parallel(2, lambda x: x * x, range(500)) == [x * x for x in range(500)]
    assert parallel(-1, str, range(10)) == [str(x) for x in range(10)]


def test_the_processes_serve_the_next_parallel() -> None:
    """Most of what a new process would do first is to import joblib again."""
    first, second = set(parallel(2, where, range(40))), set(parallel(2, where, range(40)))
    assert os.getpid() not in first and len(first) <= 2
    assert first & second


def test_one_job_runs_here() -> None:
    assert set(parallel(1, where, range(4))) == {os.getpid()}


def test_an_error_is_the_callers_and_the_next_one_works() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel(2, inverse, [1, 0, 2])
    assert parallel(2, inverse, [1, 2]) == [1.0, 0.5]


def test_a_process_that_dies_ends_the_call_by_name() -> None:
    import spoke

    with pytest.raises(spoke.exceptions.RayActorError):
        parallel(2, os._exit, [1, 1])
    assert parallel(2, inverse, [1, 2]) == [1.0, 0.5]
