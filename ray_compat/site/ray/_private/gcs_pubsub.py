"""What programs subscribe to: lines that workers print, and errors that are pushed to drivers."""

from __future__ import annotations

import json
import queue
import time
from typing import Any

import spoke
from ray._private import ray_constants
from spoke import current
from spoke.experimental import internal_kv

ERRORS = b"errors"  # the namespace of pushed errors in the cluster's key-value store
_LOOK_S = 0.05


def publish(job_id: Any, error_type: str, message: str) -> None:
    """Leave an error for the drivers that subscribed; a nil job means all of them."""
    now = time.time()
    error = {"job_id": job_id.hex(), "type": error_type, "error_message": message, "timestamp": now}
    key = f"{now:.6f}-{spoke.get_runtime_context().get_worker_id()}"
    internal_kv._internal_kv_put(key.encode(), json.dumps(error).encode(), namespace=ERRORS)


class GcsLogSubscriber:
    """Lines that the workers of this driver print, as they come.

    Args:
        address: accepted for compatibility: they are those that this driver is sent.
    """

    def __init__(self, address: str | None = None) -> None:
        self._batches: queue.Queue[dict[str, Any]] = queue.Queue()
        self._shown: Any = None
        self._hub: Any = None

    def subscribe(self) -> None:
        """From now on."""
        client = current.client
        assert client is not None, "call init() first"
        self._hub, self._shown = client.hub, client.hub.on_log_lines
        self._hub.on_log_lines = self._take
        self._job = spoke.get_runtime_context().get_job_id()
        self._addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in spoke.nodes()}

    def _take(self, node_id: bytes, pid: int, name: str, stream: str, lines: list[Any]) -> None:
        node = bytes(node_id).hex()
        batch = {"ip": self._addresses.get(node), "pid": str(pid), "job": self._job, "lines": list(lines)}
        is_err = stream in ("stderr", "err")
        self._batches.put({**batch, "is_err": is_err, "actor_name": name, "task_name": name})
        if self._shown is not None:
            self._shown(node_id, pid, name, stream, lines)

    def poll(self, timeout: float | None = None) -> dict[str, Any]:
        """The next lines of one worker, or nothing after `timeout` seconds."""
        try:
            return self._batches.get(timeout=None if timeout is None else max(timeout, 0))
        except queue.Empty:
            return {}

    def close(self) -> None:
        """Hear no more."""
        if self._hub is not None and self._hub.on_log_lines == self._take:
            self._hub.on_log_lines = self._shown


class GcsErrorSubscriber:
    """Workers that died, and what programs push (`ray._private.utils.push_error_to_driver`).

    Args:
        address: accepted for compatibility: they are those of this driver's cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        self._seen: set[Any] = set()
        self._waiting: list[tuple[bytes, dict[str, Any]]] = []

    def subscribe(self) -> None:
        """From now on."""
        self._look()
        self._waiting.clear()

    def _look(self) -> None:
        mine = ("ff" * 4, spoke.get_runtime_context().get_job_id())
        for key in sorted(internal_kv._internal_kv_list(b"", namespace=ERRORS)):
            value = None if key in self._seen else internal_kv._internal_kv_get(key, namespace=ERRORS)
            self._seen.add(key)
            error = {} if value is None else json.loads(value)
            if error.get("job_id") in mine:
                self._waiting.append((error["job_id"].encode(), error))
        client: Any = current.client
        for worker_id, text in [*_workers(client.request("deaths")), *_actors(client.request("actors"))]:
            if worker_id not in self._seen:
                self._seen.add(worker_id)
                kind = ray_constants.WORKER_DIED_PUSH_ERROR
                error = {"job_id": mine[1], "type": kind, "error_message": text, "timestamp": time.time()}
                self._waiting.append((mine[1].encode(), error))

    def poll(self, timeout: float | None = None) -> tuple[bytes | None, dict[str, Any] | None]:
        """Key and contents of the next error, or twice None after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look()
            if self._waiting:
                return self._waiting.pop(0)
            if deadline is not None and time.monotonic() > deadline:
                return None, None
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Hear no more: nothing was opened."""


def _workers(deaths: list[dict[str, Any]]) -> list[tuple[bytes, str]]:
    return [(bytes(row["worker_id"]), _text(row["cause"])) for row in deaths]


def _actors(rows: list[dict[str, Any]]) -> list[tuple[bytes, str]]:
    """Actors that ended by the end of their worker, and not as somebody wanted it."""
    return [
        (bytes(row["actor_id"]), _text(row["info"].get("cause")))
        for row in rows
        if row["state"] == "DEAD" and (row["info"].get("code") or row["info"].get("signal"))
    ]


def _text(cause: Any) -> str:
    return f"A worker died or was killed while executing a task or an actor: {cause}"
