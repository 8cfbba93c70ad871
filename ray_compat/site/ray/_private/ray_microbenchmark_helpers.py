"""Names of `ray._private.ray_microbenchmark_helpers`, for the script of ``ray microbenchmark``.

TESTS_TO_RUN and TESTS_TO_SKIP choose rows by a part of their names, as in Ray.  RAY_COMPAT_ROUND_S is
the length of one of a row's four rounds in seconds (default 2).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import spoke

ROUNDS = 4

Row = tuple[str, float, float]  # name, mean rate per second, standard deviation


def _chosen(name: str) -> bool:
    wanted, unwanted = os.environ.get("TESTS_TO_RUN", ""), os.environ.get("TESTS_TO_SKIP", "")
    return wanted in name and not (unwanted and unwanted in name)


def _round_s() -> float:
    return float(os.environ.get("RAY_COMPAT_ROUND_S", "2"))


def _row(name: str, rates: list[float]) -> list[Row | None]:
    mean, spread = statistics.fmean(rates), statistics.pstdev(rates)
    print(f"{name} per second {round(mean, 2)} +- {round(spread, 2)}", flush=True)
    return [(name, mean, spread)]


def timeit(
    name: str, fn: Callable[[], Any], multiplier: float = 1, warmup_time_sec: float = 0
) -> list[Row | None]:
    """Call `fn` over and over and print how often per second, times `multiplier`."""
    if not _chosen(name):
        return [None]
    length = _round_s()
    warm = _count_calls(fn, length / 2)
    step = warm // 10 + 1
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        calls = 0
        while time.perf_counter() - started < length:
            for _ in range(step):
                fn()
            calls += step
        rates.append(multiplier * calls / (time.perf_counter() - started))
    return _row(name, rates)


def _count_calls(fn: Callable[[], Any], seconds: float) -> int:
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not calls:
        fn()
        calls += 1
    return calls


async def asyncio_timeit(
    name: str, async_fn: Callable[[], Awaitable[Any]], multiplier: float = 1, warmup_time_sec: float = 0
) -> list[Row | None]:
    """As `timeit`, for a coroutine function."""
    if not _chosen(name):
        return [None]
    length = _round_s()
    rates = []
    for turn in range(ROUNDS + 1):
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < (length if turn else length / 2) or not calls:
            await async_fn()
            calls += 1
        if turn:  # the first one warms up
            rates.append(multiplier * calls / (time.perf_counter() - started))
    return _row(name, rates)


@contextmanager
def ray_setup_and_teardown(**init_args: Any) -> Iterator[None]:
    """A cluster for the block."""
    spoke.init(**init_args)
    try:
        yield None
    finally:
        spoke.shutdown()
