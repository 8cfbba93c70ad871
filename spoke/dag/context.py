"""Defaults of compiled graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spoke import absent


@dataclass
class DAGContext:
    """What `experimental_compile` takes where it is not told; times are in seconds.

    submit_timeout, get_timeout: how long `execute` and ``get`` wait at most; -1 waits for ever.
    teardown_timeout: how long `teardown` waits for the actors' threads to end.
    max_inflight_executions: executions whose results were not taken yet.
    buffer_size_bytes: pickles up to here travel over the graph's own links, longer ones as objects.
    """

    submit_timeout: float = 10
    get_timeout: float = 10
    teardown_timeout: float = 30
    buffer_size_bytes: int = 1_000_000
    max_inflight_executions: int = 10

    _current: ClassVar[DAGContext | None] = None

    @staticmethod
    def get_current() -> DAGContext:
        """The context of this process; assign to its fields to change defaults."""
        if DAGContext._current is None:
            DAGContext._current = DAGContext()
        return DAGContext._current


__getattr__ = absent.getter(__name__)
