"""Defaults of compiled graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from spoke import absent, config

DEFAULT_SUBMIT_TIMEOUT_S: Final = config.get("graph_submit_timeout")
DEFAULT_GET_TIMEOUT_S: Final = config.get("graph_get_timeout")
DEFAULT_TEARDOWN_TIMEOUT_S: Final = config.get("graph_teardown_timeout")
DEFAULT_READ_ITERATION_TIMEOUT_S: Final = config.get("graph_read_iteration_timeout_s")
DEFAULT_BUFFER_SIZE_BYTES: Final = config.get("graph_buffer_size_bytes")
DEFAULT_MAX_INFLIGHT_EXECUTIONS: Final = config.get("graph_max_inflight_executions")
DEFAULT_MAX_BUFFERED_RESULTS: Final = config.get("graph_max_buffered_results")
DEFAULT_OVERLAP_GPU_COMMUNICATION: Final = config.get("graph_overlap_gpu_communication")


@dataclass
class DAGContext:
    """What `experimental_compile` takes where it is not told; times are in seconds.

    Each has a variable, for `get_timeout` RAY_CGRAPH_get_timeout or SPOKE_CGRAPH_GET_TIMEOUT, which is
    read when this module is imported.

    submit_timeout, get_timeout: how long `execute` and ``get`` wait at most; -1 waits for ever.
    teardown_timeout: how long `teardown` waits for the actors' threads to end.
    read_iteration_timeout: how long a channel is read before the next of several has its turn.
    buffer_size_bytes: pickles up to here travel over the graph's own links, longer ones as objects.
    max_inflight_executions: executions whose results have not arrived yet.
    max_buffered_results: executions whose results have arrived and were not taken yet.
    overlap_gpu_communication: says nothing here; every value is sent as soon as it is there.
    """

    submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT_S
    get_timeout: float = DEFAULT_GET_TIMEOUT_S
    teardown_timeout: float = DEFAULT_TEARDOWN_TIMEOUT_S
    read_iteration_timeout: float = DEFAULT_READ_ITERATION_TIMEOUT_S
    buffer_size_bytes: int = DEFAULT_BUFFER_SIZE_BYTES
    max_inflight_executions: int = DEFAULT_MAX_INFLIGHT_EXECUTIONS
    max_buffered_results: int = DEFAULT_MAX_BUFFERED_RESULTS
    overlap_gpu_communication: bool = DEFAULT_OVERLAP_GPU_COMMUNICATION

    _current: ClassVar[DAGContext | None] = None

    @staticmethod
    def get_current() -> DAGContext:
        """The context of this process; assign to its fields to change defaults."""
        if DAGContext._current is None:
            DAGContext._current = DAGContext()
        return DAGContext._current


__getattr__ = absent.getter(__name__)
