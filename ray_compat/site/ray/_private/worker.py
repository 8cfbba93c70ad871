"""Names of `ray._private.worker`: `global_worker` and the functions that programs import from there."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import spoke
from ray._private.gcs_utils import GcsClient
from ray_compat import batches
from spoke import SCRIPT_MODE, WORKER_MODE, config, current, inspecting, notices
from spoke.ids import ActorID, JobID, NodeID, TaskID, WorkerID
from spoke.job_config import JobConfig
from spoke.lifecycle import not_started
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

    @property
    def address_info(self) -> dict[str, Any]:
        """What `init` told of the connection."""
        return spoke.init(ignore_reinit_error=True).address_info

    @property
    def session_name(self) -> str:
        """The name of this run of the cluster."""
        return spoke.get_runtime_context().get_session_name()

    def get_session_dir_path(self) -> str:
        """The directory that holds the session's files."""
        return str(self.address_info["session_dir"])

    def get_logs_dir_path(self) -> str:
        """The directory that holds the workers' output."""
        return os.path.join(self.get_session_dir_path(), "logs")


class _CoreWorker:
    """What `global_worker.core_worker` is asked for."""

    def get_job_config(self) -> JobConfig:
        """The settings of this driver's job; of a submitted job, its metadata is among theirs."""
        given = current.job_config or JobConfig()
        job_id = config.get("job_id")
        submitted: dict[str, str] = {}
        if job_id and current.client is not None:
            row = current.client.request("job", id=job_id)
            submitted = {"job_name": job_id, "job_submission_id": job_id, **row["metadata"]}
        return JobConfig(
            runtime_env=given.runtime_env,
            ray_namespace=given.ray_namespace,
            metadata={**submitted, **given.metadata},
        )

    def get_current_task_id(self) -> TaskID:
        """The running task; nil in a driver."""
        text = spoke.get_runtime_context().get_task_id()
        return TaskID.from_hex(text) if text else TaskID.nil()

    def get_actor_id(self) -> ActorID:
        """The actor that runs in this process; nil outside of actors."""
        text = spoke.get_runtime_context().get_actor_id()
        return ActorID.from_hex(text) if text else ActorID.nil()

    def get_worker_id(self) -> WorkerID:
        """The id of this process."""
        return WorkerID.from_hex(spoke.get_runtime_context().get_worker_id())

    def get_current_job_id(self) -> JobID:
        """The job of this process."""
        return JobID.from_hex(spoke.get_runtime_context().get_job_id())

    def get_current_node_id(self) -> NodeID:
        """The node that this process runs on."""
        return NodeID.from_hex(spoke.get_runtime_context().get_node_id())

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
        self.gcs_client = GcsClient()
        self.core_worker = _CoreWorker()
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
        if not spoke.is_initialized():
            return JobID.nil()
        return JobID.from_hex(spoke.get_runtime_context().get_job_id())

    @property
    def current_node_id(self) -> NodeID:
        """The node that this process runs on."""
        return NodeID.from_hex(spoke.get_runtime_context().get_node_id())

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
        return self.core_worker.get_actor_id()

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
            raise not_started()


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


def _unhandled_error_handler(e: BaseException) -> None:
    """Log the error of a call whose result nobody has asked for; programs set another function here."""
    notices.log_unhandled(e)


notices.on_unhandled = lambda error: _unhandled_error_handler(error)


def log_joined(started: bool, address: str, level: str | int, layout: str | None) -> None:
    """Say to whom `init` has connected this program, in the words that tools wait for."""
    from ray._private import ray_constants, ray_logging

    ray_logging.setup_logger(level, layout or ray_constants.LOGGER_FORMAT)
    if started:
        logger.info("Started a local Ray instance.")
    else:
        logger.info("Connecting to existing Ray cluster at address: %s...", address)
        logger.info("Connected to Ray cluster.")


def print_to_stdstream(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Print lines of a worker: to stderr if they are from there."""
    print_worker_logs(data, sys.stderr if data.get("is_err") else sys.stdout, ignore_prefix)


def print_worker_logs(data: dict[str, Any], print_file: Any, ignore_prefix: bool = False) -> None:
    """Print lines of a worker to a file."""
    name = data.get("actor_name") or data.get("task_name")
    prefix = "" if ignore_prefix else f"({name + ' ' if name else ''}pid={data.get('pid')}) "
    for line in data.get("lines", ()):
        print(f"{prefix}{line}", file=print_file, flush=True)
