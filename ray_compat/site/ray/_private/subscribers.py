"""What a driver hears that nobody waits for, one message after the other: errors, and its workers' output.

Under the names that Ray's tests and tools use.  Only what this process is told itself comes here.
"""

from __future__ import annotations

import queue
import time
from typing import Any

import spoke
from spoke import notices


class _Subscriber:
    """Messages from `subscribe` until `close`."""

    def __init__(self, worker_id: bytes | None = None, address: str | None = None) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def poll(self, timeout: float | None = None) -> Any:
        """The next message, or None for each part of it when none comes in time."""
        try:
            return self._messages.get(timeout=timeout if timeout is None else max(0.0, timeout))
        except queue.Empty:
            return self._nothing

    _nothing: Any = None


class GcsErrorSubscriber(_Subscriber):
    """Errors: (id of the job, dict with job_id, type, error_message, timestamp)."""

    _nothing = (None, None)

    def subscribe(self) -> None:
        """Hear of errors from now on."""
        notices.errors.append(self._heard)

    def _heard(self, kind: str, text: str) -> None:
        job = spoke.get_runtime_context().job_id if spoke.is_initialized() else spoke.JobID.nil()
        told = {"job_id": job.binary(), "type": kind, "error_message": text, "timestamp": time.time()}
        self._messages.put((job.hex().encode(), told))

    def close(self) -> None:
        """Hear no more."""
        if self._heard in notices.errors:
            notices.errors.remove(self._heard)


class GcsLogSubscriber(_Subscriber):
    """The workers' output: dicts with ip, pid, job, is_err, lines, actor_name, task_name."""

    def subscribe(self) -> None:
        """Hear of output from now on."""
        notices.lines.append(self._messages.put)

    def close(self) -> None:
        """Hear no more."""
        if self._messages.put in notices.lines:
            notices.lines.remove(self._messages.put)
