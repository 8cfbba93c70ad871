"""A stopwatch: seconds per unit of work over a sliding window."""

from __future__ import annotations

import time
from collections import deque


class _Timer:
    """``with timer: ...`` measures a piece of work; `mean` and `mean_throughput` are of the window."""

    def __init__(self, window_size: int = 10) -> None:
        self._samples: deque[float] = deque(maxlen=window_size)
        self._units: deque[float] = deque(maxlen=window_size)
        self._started = 0.0
        self._total = 0.0
        self.count = 0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.push(time.perf_counter() - self._started)

    def push(self, value: float) -> None:
        """Add a piece of work of `value` seconds."""
        self._samples.append(value)
        self._total += value
        self.count += 1

    def push_units_processed(self, n: float) -> None:
        """Say how many units the last piece of work was."""
        self._units.append(n)

    def has_units_processed(self) -> bool:
        """Was it ever said how many units there were?"""
        return bool(self._units)

    @property
    def mean(self) -> float:
        """Mean seconds per piece of work."""
        return sum(self._samples) / len(self._samples) if self._samples else 0.0

    @property
    def mean_units_processed(self) -> float:
        """Mean units per piece of work."""
        return sum(self._units) / len(self._units) if self._units else 0.0

    @property
    def mean_throughput(self) -> float:
        """Units per second."""
        seconds = sum(self._samples)
        return sum(self._units) / seconds if seconds else 0.0

    @property
    def total(self) -> float:
        """Seconds of all pieces of work."""
        return self._total
