"""joblib's `Parallel` on the engine's workers."""

from __future__ import annotations

import importlib
from typing import Any

from tests.conformance.kit import caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}
NEEDS = ("joblib",)


def _square(x: int) -> int:
    return x * x


def _joblib(ray: Any) -> Any:
    sub(ray, "util.joblib").register_ray()
    return importlib.import_module("joblib")


def keeps_the_order(ray: Any) -> Any:
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(_square)(x) for x in range(20))


def error_of_a_call(ray: Any) -> Any:
    joblib = _joblib(ray)

    def divide(x: int) -> float:
        return 1 / x

    with joblib.parallel_backend("ray", n_jobs=2):
        return caught(
            lambda: joblib.Parallel()(joblib.delayed(divide)(x) for x in (1, 0)), kinds=(ZeroDivisionError,)
        )["is"]


def all_cpus(ray: Any) -> Any:
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray"):
        results = joblib.Parallel()(joblib.delayed(_square)(x) for x in range(9))
        return [joblib.effective_n_jobs(), sum(results)]


def arguments_by_name(ray: Any) -> Any:
    joblib = _joblib(ray)

    def power(base: int, to: int = 1) -> int:
        return int(base**to)

    with joblib.parallel_backend("ray", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(power)(2, to=x) for x in range(4))


def of_nothing(ray: Any) -> Any:
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2):
        return joblib.Parallel()([])


def generator_of_results(ray: Any) -> Any:
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2):
        return list(joblib.Parallel(batch_size=2)(joblib.delayed(_square)(x) for x in range(7)))


def twice_in_one_block(ray: Any) -> Any:
    joblib = _joblib(ray)
    with joblib.parallel_backend("ray", n_jobs=2), joblib.Parallel() as parallel:
        return [parallel(joblib.delayed(_square)(x) for x in range(3)) for _ in range(2)]
