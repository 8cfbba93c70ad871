"""What a driver hears that nobody waits for, one message after the other: errors, and its workers' output."""

from __future__ import annotations

import json
import queue
import time
from typing import Any

import spoke
from spoke import current, notices
from spoke.experimental import internal_kv

ERRORS = b"errors"  # the namespace of pushed errors in the cluster's key-value store
_LOOK_S = 0.05
_ALL = "ff" * 4  # a nil job's id


def push(job_id: Any, error_type: str, message: str) -> None:
    """Tell the drivers that subscribed of an error: those of a job, or all for None or a nil id."""
    mine = spoke.get_runtime_context().get_job_id()
    job = _ALL if job_id is None else job_id.hex()
    client = current.client
    if job == mine and client is not None and not client.is_worker:
        notices.warn(error_type, message)
        return
    now = time.time()
    error = {"job_id": job, "type": error_type, "error_message": message, "timestamp": now}
    key = f"{now:.6f}-{spoke.get_runtime_context().get_worker_id()}"
    internal_kv._internal_kv_put(key.encode(), json.dumps(error).encode(), namespace=ERRORS)


class _Subscriber:
    """Messages from `subscribe` until `close`.

    Args:
        worker_id, address: accepted for compatibility: what this driver is told comes.
    """

    def __init__(self, worker_id: bytes | None = None, address: str | None = None) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()


class GcsErrorSubscriber(_Subscriber):
    """Errors: (id of the job, dict with job_id, type, error_message, timestamp)."""

    def subscribe(self) -> None:
        """Hear of errors from now on."""
        self._job = spoke.get_runtime_context().get_job_id()
        self._seen = set(internal_kv._internal_kv_list(b"", namespace=ERRORS))
        notices.errors.append(self._heard)

    def _heard(self, kind: str, text: str) -> None:
        self._put({"job_id": self._job, "type": kind, "error_message": text, "timestamp": time.time()})

    def _put(self, error: dict[str, Any]) -> None:
        key = error["job_id"].encode()
        self._messages.put((key, {**error, "job_id": bytes.fromhex(error["job_id"])}))

    def _look(self) -> None:
        """Take what other processes have pushed."""
        for key in sorted(set(internal_kv._internal_kv_list(b"", namespace=ERRORS)) - self._seen):
            self._seen.add(key)
            error = json.loads(internal_kv._internal_kv_get(key, namespace=ERRORS) or b"{}")
            if error.get("job_id") in (_ALL, self._job):
                self._put(error)

    def poll(self, timeout: float | None = None) -> tuple[bytes | None, dict[str, Any] | None]:
        """Key and contents of the next error, or twice None after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look()
            try:
                return self._messages.get(timeout=_LOOK_S)  # type: ignore[no-any-return]
            except queue.Empty:
                if deadline is not None and time.monotonic() > deadline:
                    return None, None

    def close(self) -> None:
        """Hear no more."""
        if self._heard in notices.errors:
            notices.errors.remove(self._heard)


class GcsLogSubscriber(_Subscriber):
    """The workers' output: dicts with ip, pid, job, is_err, lines, actor_name, task_name."""

    def subscribe(self) -> None:
        """Hear of output from now on."""
        notices.lines.append(self._heard)

    def _heard(self, batch: dict[str, Any]) -> None:
        self._messages.put({**batch, "pid": str(batch["pid"])})

    def poll(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next lines of one worker, or None after `timeout` seconds."""
        try:
            found: dict[str, Any] = self._messages.get(timeout=None if timeout is None else max(timeout, 0))
        except queue.Empty:
            return None
        return found

    def close(self) -> None:
        """Hear no more."""
        if self._heard in notices.lines:
            notices.lines.remove(self._heard)
