"""Names of `ray._common.test_utils`: what test programs written for Ray are helped by."""

from __future__ import annotations

import asyncio
import enum
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import spoke
from ray_compat.refusing import refused


@spoke.remote(num_cpus=0)
class SignalActor:
    """A gate: callers of `wait` pass once somebody has called `send`."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._waiting = 0

    async def send(self, clear: bool = False) -> None:
        """Let all pass who wait; with `clear` only those, else later ones too."""
        self._opened.set()
        if clear:
            self._opened.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Return when the gate is open."""
        if should_wait:
            self._waiting += 1
            try:
                await self._opened.wait()
            finally:
                self._waiting -= 1

    async def cur_num_waiters(self) -> int:
        """How many wait now."""
        return self._waiting


@spoke.remote(num_cpus=0)
class Semaphore:
    """An `asyncio.Semaphore` that processes share."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        """Wait for a place and take it."""
        await self._semaphore.acquire()

    async def release(self) -> None:
        """Give a place back."""
        self._semaphore.release()

    async def locked(self) -> bool:
        """Whether there is no place."""
        return self._semaphore.locked()


def wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Call `condition_predictor(**kwargs)` until it is true.

    Args:
        timeout: seconds.
        raise_exceptions: what it raises ends the wait, instead of counting as not true.

    Raises:
        RuntimeError: it was not true in time.
        TypeError: it is asynchronous.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        found: Any = False
        try:
            found = condition_predictor(**kwargs)
        except Exception as error:
            if raise_exceptions:
                raise
            last = error
        if inspect.iscoroutine(found):
            found.close()
            raise TypeError("an asynchronous predicate goes to async_wait_for_condition")
        if found:
            return
        _check_time(deadline, last)
        time.sleep(retry_interval_ms / 1000)


async def async_wait_for_condition(
    condition_predictor: Callable[..., bool | Awaitable[bool]],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    **kwargs: Any,
) -> None:
    """As `wait_for_condition`, for asynchronous programs and predicates."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            found = condition_predictor(**kwargs)
            if await found if inspect.isawaitable(found) else found:
                return
        except Exception as error:
            last = error
        _check_time(deadline, last)
        await asyncio.sleep(retry_interval_ms / 1000)


def _check_time(deadline: float, last: Exception | None) -> None:
    if time.monotonic() > deadline:
        why = "" if last is None else f" Last exception: {last!r}"
        raise RuntimeError(f"The condition wasn't met before the timeout expired.{why}") from last


def run_string_as_driver(driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8") -> str:
    """Run a program of its own; what it printed, errors included.

    Raises:
        subprocess.CalledProcessError: it failed; `output` has what it printed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding=encode) as file:
        file.write(driver_script)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name],
            env={**os.environ, **env} if env else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    printed = done.stdout.decode(encode)
    if done.returncode:
        print(printed, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, driver_script, printed)
    return printed


def is_named_tuple(cls: type) -> bool:
    """Whether a class was made by `collections.namedtuple`."""
    fields = getattr(cls, "_fields", None)
    return (
        issubclass(cls, tuple) and isinstance(fields, tuple) and all(isinstance(one, str) for one in fields)
    )


def assert_tensors_equivalent(obj1: Any, obj2: Any) -> None:
    """Compare structures with torch tensors in them, wherever those lie."""
    import torch

    if isinstance(obj1, torch.Tensor):
        torch.testing.assert_close(obj1.cpu(), obj2.cpu())
    elif isinstance(obj1, dict):
        assert obj1.keys() == obj2.keys()
        for key in obj1:
            assert_tensors_equivalent(obj1[key], obj2[key])
    elif isinstance(obj1, (list, tuple)):
        assert type(obj1) is type(obj2) and len(obj1) == len(obj2)
        for one, other in zip(obj1, obj2, strict=True):
            assert_tensors_equivalent(one, other)
    elif hasattr(obj1, "__dict__"):
        assert_tensors_equivalent(vars(obj1), vars(obj2))
    else:
        assert obj1 == obj2


class FakeTimer:
    """A clock that a test moves by hand."""

    def __init__(self, start_time: float | None = None) -> None:
        self._now = time.time() if start_time is None else start_time

    def time(self) -> float:
        """Seconds."""
        return self._now

    def reset(self, start_time: float | None = None) -> None:
        """Start again."""
        self.__init__(start_time)  # type: ignore[misc]

    def advance(self, by: float) -> None:
        """Let so many seconds pass."""
        self._now += by

    def realistic_sleep(self, amt: float) -> None:
        """Sleep, as seen by this clock."""
        self._now += amt + 0.001


class TelemetryCallsite(enum.Enum):
    """Where a library is used; nothing is reported of it."""

    DRIVER = "driver"
    ACTOR = "actor"
    TASK = "task"


# Test programs import these at once and call them where a test asks for it.
_PARTS: Final = {
    "there is no server of metrics; see ray.util.metrics": (
        "MetricSamplePattern", "PrometheusTimeseries", "fetch_prometheus", "fetch_prometheus_metrics",
        "fetch_prometheus_metric_timeseries", "fetch_prometheus_timeseries", "fetch_raw_prometheus",
    ),
    "no usage is reported": ("check_library_usage_telemetry",),
    "there is no S3 to simulate": ("simulate_s3_bucket",),
}  # fmt: skip
for _why, _names in _PARTS.items():
    globals().update({_name: refused(f"{__name__}.{_name}", _why) for _name in _names})
