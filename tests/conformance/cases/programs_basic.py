"""What Ray's own test programs do around `init` and `shutdown`, and see of processes and options."""

from __future__ import annotations

from typing import Any

from tests.conformance.kit import caught

THROUGH_RAY_COMPAT = True
INIT = None
_QUIET: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def _init(ray: Any, **options: Any) -> Any:
    return ray.init(**{"num_cpus": 2, "num_gpus": 0, **_QUIET, **options})


# -- refs of an earlier session


def refs_of_an_earlier_session(ray: Any) -> Any:
    @ray.remote
    def echo(x: Any) -> Any:
        return x

    unknown = "Ray object whose owner is unknown"
    _init(ray)
    old, result = ray.put("old"), echo.remote(1)
    ray.get(result)
    ray.shutdown()
    _init(ray)
    try:
        ready, rest = ray.wait([ray.put("new"), old])
        return [
            caught(lambda: echo.remote(old), unknown, kinds=(ValueError,)),
            caught(lambda: echo.remote([result]), unknown, kinds=(ValueError,)),
            caught(lambda: ray.get(old, timeout=30), unknown, kinds=(ValueError,)),
            [ray.get(ready), len(rest)],
            caught(lambda: ray.wait(rest, timeout=30), unknown, kinds=(ValueError,)),
        ]
    finally:
        ray.shutdown()
