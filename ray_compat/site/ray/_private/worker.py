"""Names of `ray._private.worker`: `global_worker` and the functions that programs import from there."""

from __future__ import annotations

import logging
import sys
from typing import Any

import spoke
from ray_compat import batches
from spoke import SCRIPT_MODE, WORKER_MODE, current, inspecting
from spoke.ids import JobID, NodeID, WorkerID
from spoke.remote_function import RemoteFunction

__all__ = [
    "SCRIPT_MODE",
    "WORKER_MODE",
    "RemoteFunctionNoArgs",
    "Worker",
    "cancel",
    "get",
    "get_actor",
    "get_gpu_ids",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "logger",
    "print_to_stdstream",
    "print_worker_logs",
    "put",
    "remote",
    "shutdown",
    "wait",
]

logger = logging.getLogger("ray")
RemoteFunctionNoArgs = RemoteFunction

cancel = spoke.cancel
get = spoke.get
get_actor = spoke.get_actor
get_gpu_ids = spoke.get_gpu_ids
init = spoke.init
is_initialized = spoke.is_initialized
kill = spoke.kill
put = spoke.put
remote = spoke.remote
shutdown = spoke.shutdown
wait = spoke.wait


class _HubClient:
    """What `global_worker.gcs_client` is asked for."""

    @property
    def address(self) -> str:
        """``host:port`` of the cluster."""
        return spoke.get_runtime_context().gcs_address

    def internal_kv_get(
        self, key: bytes, namespace: bytes | None = None, timeout: Any = None
    ) -> bytes | None:
        """The value of a key of the cluster's store, or None."""
        from spoke.experimental.internal_kv import _internal_kv_get

        return _internal_kv_get(key, namespace=namespace)

    def internal_kv_put(
        self, key: bytes, value: bytes, overwrite: bool, namespace: bytes | None = None, timeout: Any = None
    ) -> int:
        """Set a key of the cluster's store; 1 if it was not there before."""
        from spoke.experimental.internal_kv import _internal_kv_put

        return int(not _internal_kv_put(key, value, overwrite, namespace=namespace))


class _Node:
    """What `global_worker.node` is asked for."""

    @property
    def gcs_address(self) -> str:
        """``host:port`` of the cluster."""
        return spoke.get_runtime_context().gcs_address

    address = gcs_address

    @property
    def node_ip_address(self) -> str:
        """The address of this node."""
        from spoke.util import get_node_ip_address

        return get_node_ip_address()

    @property
    def unique_id(self) -> str:
        """The id of this node, in hexadecimal."""
        return spoke.get_runtime_context().get_node_id()

    node_id = unique_id

    def get_session_dir_path(self) -> str:
        """The directory that holds the session's files."""
        return spoke.get_runtime_context().get_temp_dir()

    def get_logs_dir_path(self) -> str:
        """The directory that holds the workers' output."""
        return spoke.get_runtime_context().get_temp_dir()


class _Objects:
    """What `global_worker.core_worker` is asked about objects."""

    def object_exists(self, object_ref: Any, memory_store_only: bool = False) -> bool:
        """Whether the object is there to be read; `memory_store_only`: as a small result is, in no block."""
        client: Any = current.client
        with client.lock:
            return inspecting.is_known(client, object_ref.binary(), memory_store_only)

    def get_all_reference_counts(self) -> dict[bytes, dict[str, int]]:
        """Refs of this process, and uses by its calls, by the object's id in hexadecimal."""
        client: Any = current.client
        with client.lock:
            found = inspecting.counts(client)
        return {
            object_id.hex().encode(): {"local": local, "submitted": submitted}
            for object_id, (local, submitted) in found.items()
        }


class Worker:
    """This process, as `ray._private.worker.global_worker` shows it."""

    def __init__(self) -> None:
        self.gcs_client = _HubClient()
        self.core_worker = _Objects()
        self._node = _Node()

    @property
    def connected(self) -> bool:
        """Is this process connected to a cluster?"""
        return spoke.is_initialized()

    @property
    def mode(self) -> int | None:
        """SCRIPT_MODE in a driver, WORKER_MODE in a worker, None when not connected."""
        if not spoke.is_initialized():
            return None
        return WORKER_MODE if spoke.get_runtime_context().get_task_id() else SCRIPT_MODE

    @property
    def node(self) -> _Node | None:
        """The node that this process runs on, or None when not connected."""
        return self._node if spoke.is_initialized() else None

    @property
    def current_job_id(self) -> JobID:
        """The job of this process; nil when not connected."""
        return spoke.get_runtime_context().job_id if spoke.is_initialized() else JobID.nil()

    @property
    def current_node_id(self) -> NodeID:
        """The node that this process runs on."""
        return spoke.get_runtime_context().node_id

    @property
    def worker_id(self) -> bytes:
        """The id of this process."""
        return WorkerID.from_hex(spoke.get_runtime_context().get_worker_id()).binary()

    @property
    def node_ip_address(self) -> str:
        """The address of this node."""
        return self._node.node_ip_address

    @property
    def actor_id(self) -> Any:
        """The actor that runs in this process; nil outside of actors."""
        text = spoke.get_runtime_context().get_actor_id()
        return spoke.ActorID.from_hex(text) if text else spoke.ActorID.nil()

    @property
    def namespace(self) -> str:
        """The namespace of named actors."""
        return spoke.get_runtime_context().namespace

    @property
    def runtime_env(self) -> Any:
        """The runtime environment of this job or worker."""
        return spoke.get_runtime_context().runtime_env

    def check_connected(self) -> None:
        """Pass when connected.

        Raises:
            RaySystemError: `init` was not called.
        """
        if not spoke.is_initialized():
            raise spoke.exceptions.RaySystemError(
                "Spoke has not been started yet. You can start it with 'ray.init()'."
            )


global_worker = Worker()


def __getattr__(name: str) -> Any:
    if name == "_global_node":
        return global_worker.node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: see spoke/COVERAGE.md")


def _wait_generators_bulk(
    ray_generators: list[tuple[Any, list[bool]]], *, num_return: int = 1, timeout: float | None = None
) -> list[batches.Batch]:
    """See `batches.wait_for_batches`."""
    global_worker.check_connected()
    return batches.wait_for_batches(ray_generators, num_return, timeout)


def print_to_stdstream(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Print lines of a worker: to stderr if they are from there."""
    print_worker_logs(data, sys.stderr if data.get("is_err") else sys.stdout, ignore_prefix)


def print_worker_logs(data: dict[str, Any], print_file: Any, ignore_prefix: bool = False) -> None:
    """Print lines of a worker to a file."""
    name = data.get("actor_name") or data.get("task_name")
    prefix = "" if ignore_prefix else f"({name + ' ' if name else ''}pid={data.get('pid')}) "
    for line in data.get("lines", ()):
        print(f"{prefix}{line}", file=print_file, flush=True)
