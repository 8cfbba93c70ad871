"""Names of `ray._private.utils` that programs import."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

from ray._common import utils as _common
from ray._private import gcs_pubsub
from ray_compat.refusing import refused
from spoke import machine
from spoke.ids import TaskID

binary_to_hex = _common.binary_to_hex
decode = _common.decode
get_or_create_event_loop = _common.get_or_create_event_loop
get_ray_temp_dir = _common.get_default_ray_temp_dir  # its former name
get_system_memory = _common.get_system_memory
hex_to_binary = _common.hex_to_binary
reset_ray_address = _common.reset_ray_address


def push_error_to_driver(worker: Any, error_type: str, message: str, job_id: Any = None) -> None:
    """Tell drivers of an error, those of one job or all: it is printed, or who subscribed hears of it.

    Args:
        worker: accepted for compatibility: it is this process.
    """
    gcs_pubsub.push(job_id, error_type, message)


def publish_error_to_driver(
    error_type: str, message: str, gcs_client: Any = None, job_id: Any = None
) -> None:
    """As `push_error_to_driver`."""
    push_error_to_driver(None, error_type, message, job_id)


class DeferSigint(contextlib.AbstractContextManager["DeferSigint"]):
    """SIGINT waits until the end of the ``with`` statement; a handler set inside holds from then on."""

    def __init__(self) -> None:
        self.signal_received = False
        self._handler: Any = None
        self._set: Any = None

    @classmethod
    def create_if_main_thread(cls) -> contextlib.AbstractContextManager[Any]:
        """One in the main thread, where signals arrive; elsewhere a context that does nothing."""
        return cls() if is_main_thread() else contextlib.nullcontext()

    def __enter__(self) -> DeferSigint:
        self._set = signal.signal
        self._handler = self._set(signal.SIGINT, self._received)
        signal.signal = self._keep
        return self

    def _received(self, number: int, frame: Any) -> None:
        self.signal_received = True

    def _keep(self, signalnum: int, handler: Any) -> Any:
        if signalnum != signal.SIGINT or not is_main_thread():
            return self._set(signalnum, handler)
        before, self._handler = self._handler, handler
        return before

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        signal.signal = self._set
        signal.signal(signal.SIGINT, self._handler)
        if kind is None and self.signal_received:
            self._handler(signal.SIGINT, None)


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
