"""Names of `ray._private.utils` that programs import."""

from __future__ import annotations

import os
import threading
from typing import Any

from ray._common import utils as _common
from ray._private import gcs_pubsub
from ray_compat.refusing import refused
from spoke import machine
from spoke.ids import JobID, TaskID

binary_to_hex = _common.binary_to_hex
decode = _common.decode
get_or_create_event_loop = _common.get_or_create_event_loop
get_ray_temp_dir = _common.get_default_ray_temp_dir  # its former name
get_system_memory = _common.get_system_memory
hex_to_binary = _common.hex_to_binary
reset_ray_address = _common.reset_ray_address


def get_num_cpus(override_docker_cpu_warning: bool = False, truncate: bool = True) -> float:
    """The CPUs that this process may use."""
    return machine.cpu_count()


def get_used_memory() -> int:
    """Bytes of memory in use on this machine."""
    import psutil

    return int(psutil.virtual_memory().used)


def estimate_available_memory() -> int:
    """Bytes of memory that programs can still get."""
    import psutil

    return int(psutil.virtual_memory().available)


def get_entrypoint_name() -> str:
    """The command line of this process."""
    import psutil

    return " ".join(psutil.Process().cmdline())


def get_directory_size_bytes(path: str = ".") -> int:
    """Bytes of the files in and below a directory."""
    found = (os.path.join(root, name) for root, _, names in os.walk(path) for name in names)
    return sum(os.path.getsize(file) for file in found if not os.path.islink(file))


_NO_WHEELS = "there are no wheels of Ray to install here"
get_wheel_filename = refused(f"{__name__}.get_wheel_filename", _NO_WHEELS)
get_master_wheel_url = refused(f"{__name__}.get_master_wheel_url", _NO_WHEELS)
get_release_wheel_url = refused(f"{__name__}.get_release_wheel_url", _NO_WHEELS)


def is_main_thread() -> bool:
    """Whether this is the main thread."""
    return threading.current_thread() is threading.main_thread()


def binary_to_task_id(binary_task_id: bytes) -> TaskID:
    """The id of these bytes."""
    return TaskID(binary_task_id)


def ensure_str(s: Any, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Text or bytes as text."""
    return s if isinstance(s, str) else bytes(s).decode(encoding, errors)


def split_address(address: str) -> tuple[str, str]:
    """``module://rest`` in two.

    Raises:
        ValueError: there is no ``://`` in it.
    """
    module, mark, rest = address.partition("://")
    if not mark:
        raise ValueError("Address must contain '://'")
    return module, rest


def push_error_to_driver(worker: Any, error_type: str, message: str, job_id: JobID | None = None) -> None:
    """Tell the drivers that subscribed to errors; those of one job, or all.

    Args:
        worker: accepted for compatibility: it is this process.
    """
    gcs_pubsub.publish(JobID.nil() if job_id is None else job_id, error_type, message)


def publish_error_to_driver(
    error_type: str, message: str, gcs_client: Any = None, job_id: JobID | None = None
) -> None:
    """As `push_error_to_driver`."""
    push_error_to_driver(None, error_type, message, job_id)
