"""The only reader of the environment: one declaration per knob.

A knob is read when it is asked for, so that a variable set before `init` counts.  A value that cannot
be read gives a warning and the default; it never stops a program.  Sizes are in bytes and may be
written with a suffix (k, m, g, with or without "b" or "ib"; powers of 1024); times are in seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

TRANSPORTS = ("auto", "shm", "tcp", "rdma")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")
_SUFFIX = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_bool(text: str) -> bool:
    """1/true/yes/on or 0/false/no/off.

    Raises:
        ValueError: anything else.
    """
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{text!r} is neither yes nor no")


def parse_bytes(text: str) -> int:
    """A size in bytes, such as ``65536``, ``64k`` or ``1.5 GiB``.

    Raises:
        ValueError: not a size, or negative.
    """
    word = text.strip().lower()
    number = word.rstrip("kmgtib ")
    suffix = word[len(number) :].strip().removesuffix("b").removesuffix("i")
    if suffix not in _SUFFIX or not number:
        raise ValueError(f"{text!r} is not a size in bytes")
    value = int(float(number) * _SUFFIX[suffix])
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    return value


def parse_seconds(text: str) -> float:
    """A time in seconds, not negative and finite.

    Raises:
        ValueError: anything else.
    """
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is not a time in seconds")
    return value


def parse_limit(text: str) -> float:
    """A time in seconds, or -1 for no limit.

    Raises:
        ValueError: anything else.
    """
    value = -1.0 if float(text) == -1 else parse_seconds(text)
    return int(value) if value.is_integer() else value


def parse_count(text: str) -> int:
    """A whole number, not negative.

    Raises:
        ValueError: anything else.
    """
    value = int(text)
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    return value


def parse_rdma_library(text: str) -> str:
    """``system``, ``fake`` or ``none``.

    Raises:
        ValueError: anything else.
    """
    word = text.strip().lower()
    if word not in ("system", "fake", "none"):
        raise ValueError(f"{text!r} is none of system, fake, none")
    return word


def parse_transport(text: str) -> str:
    """One of the values that `spoke.transport.router` explains.

    Raises:
        ValueError: anything else.
    """
    word = text.strip().lower()
    if word not in TRANSPORTS:
        raise ValueError(f"{text!r} is none of {', '.join(TRANSPORTS)}")
    return word


def parse_text(text: str) -> str:
    """The text itself."""
    return text


def parse_amounts(text: str) -> dict[str, float]:
    """Resources by name, as JSON.

    Raises:
        ValueError: not such a text.
    """
    import json

    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{text!r} is not a JSON object of amounts by name")
    return {str(name): float(amount) for name, amount in found.items()}


def parse_port_range(text: str) -> tuple[int, int]:
    """``30000-40000``: first and last port.

    Raises:
        ValueError: not such a text, or no ports.
    """
    first, dash, last = text.partition("-")
    if not dash or not first.isdigit() or not last.isdigit() or not 0 < int(first) <= int(last) < 65536:
        raise ValueError(f"{text!r} is not a range of ports such as 30000-40000")
    return int(first), int(last)


def parse_scheduler(text: str) -> str:
    """One of fifo, strict_fifo, locality, spread.

    Raises:
        ValueError: anything else.
    """
    if text not in ("fifo", "strict_fifo", "locality", "spread"):
        raise ValueError(f"{text!r} is no scheduler: fifo, strict_fifo, locality or spread")
    return text


class Knob:
    """One environment variable: name, fall-back names, parser, default and meaning."""

    __slots__ = ("default", "doc", "names", "parse")

    def __init__(
        self, name: str, parse: Callable[[str], Any], default: Any, doc: str, *, also: tuple[str, ...] = ()
    ) -> None:
        self.names = (name, *also)
        self.parse = parse
        self.default = default
        self.doc = doc

    def read(self) -> Any:
        """The value of the first name that is set, or the default."""
        for name in self.names:
            text = os.environ.get(name)
            if text is None or text == "":
                continue
            try:
                return self.parse(text)
            except ValueError as error:
                import warnings

                warnings.warn(f"{name} is ignored: {error}; using {self.default!r}", stacklevel=3)
        return self.default


_MIB = 1024 * 1024

KNOBS: dict[str, Knob] = {
    "address": Knob(
        "SPOKE_ADDRESS", parse_text, None, "host:port of the cluster that init() joins", also=("RAY_ADDRESS",)
    ),
    "api_address": Knob(
        "SPOKE_API_SERVER_ADDRESS",
        parse_text,
        None,
        "where jobs go to and the command line looks, if not to that of init()",
        also=("RAY_API_SERVER_ADDRESS",),
    ),
    "auto_connect": Knob(
        "SPOKE_ENABLE_AUTO_CONNECT",
        parse_bool,
        True,
        "a first remote call without init() starts or joins a cluster",
        also=("RAY_ENABLE_AUTO_CONNECT",),
    ),
    "engine": Knob("SPOKE_ENGINE", parse_text, None, "spoke (default), or ray: calls go to a Ray cluster"),
    "gang_gpus": Knob("SPOKE_GANG_GPUS", parse_text, None, "GPUs of this rank of a gang on a Ray cluster"),
    "token": Knob("SPOKE_TOKEN", parse_text, None, "the cluster token, in hexadecimal or any text"),
    "token_file": Knob("SPOKE_TOKEN_FILE", parse_text, None, "file that holds the cluster token"),
    "log_level": Knob("SPOKE_LOG_LEVEL", parse_text, "info", "debug, info, warning or error"),
    "logging_encoding": Knob(
        "SPOKE_LOGGING_CONFIG_ENCODING",
        parse_text,
        None,
        "TEXT or JSON: log as init(logging_config=LoggingConfig(encoding=...)) says",
        also=("RAY_LOGGING_CONFIG_ENCODING",),
    ),
    "ignore_unhandled_errors": Knob(
        "SPOKE_IGNORE_UNHANDLED_ERRORS",
        parse_bool,
        False,
        "do not log errors of calls whose refs go away unread",
        also=("RAY_IGNORE_UNHANDLED_ERRORS",),
    ),
    "dedup_logs": Knob(
        "SPOKE_DEDUP_LOGS",
        parse_bool,
        True,
        "print a line that several workers print once, with the count",
        also=("RAY_DEDUP_LOGS",),
    ),
    "dedup_logs_window_s": Knob(
        "SPOKE_DEDUP_LOGS_WINDOW_S",
        parse_seconds,
        5.0,
        "seconds in which lines count as the same",
        also=("RAY_DEDUP_LOGS_AGG_WINDOW_S",),
    ),
    "dedup_logs_allow": Knob(
        "SPOKE_DEDUP_LOGS_ALLOW_REGEX",
        parse_text,
        None,
        "lines that are all printed",
        also=("RAY_DEDUP_LOGS_ALLOW_REGEX",),
    ),
    "dedup_logs_skip": Knob(
        "SPOKE_DEDUP_LOGS_SKIP_REGEX",
        parse_text,
        None,
        "lines that are never printed",
        also=("RAY_DEDUP_LOGS_SKIP_REGEX",),
    ),
    "log_dir": Knob("SPOKE_LOG_DIR", parse_text, None, "directory of the workers' logs"),
    "temp_dir": Knob("SPOKE_TMPDIR", parse_text, None, "session directory", also=("RAY_TMPDIR",)),
    "log_to_driver": Knob("SPOKE_LOG_TO_DRIVER", parse_bool, True, "print the workers' output at the driver"),
    "namespace": Knob(
        "SPOKE_NAMESPACE", parse_text, None, "namespace of named actors", also=("RAY_NAMESPACE",)
    ),
    "transport": Knob("SPOKE_TRANSPORT", parse_transport, "auto", "auto, tcp, shm or rdma: paths of blocks"),
    "rdma_library": Knob(
        "SPOKE_RDMA_LIBRARY",
        parse_rdma_library,
        "system",
        "system, none, or fake: a software device for tests",
    ),
    "cuda_library": Knob(
        "SPOKE_CUDA_LIBRARY", parse_text, "libcuda.so.1", "the CUDA driver that registers GPU memory for RDMA"
    ),
    "rdma_device": Knob(
        "SPOKE_RDMA_DEVICE", parse_text, "", "name of the RDMA device; default: the first usable"
    ),
    "rdma_port": Knob("SPOKE_RDMA_PORT", parse_count, 0, "its port; default: the first active one"),
    "rdma_gid_index": Knob("SPOKE_RDMA_GID_INDEX", int, -1, "index of its GID; default: chosen"),
    "io_pause_s": Knob(
        "SPOKE_IO_PAUSE_S",
        parse_seconds,
        0.002,
        "seconds without a waiting thread until the I/O thread looks after messages; a few calls' time",
    ),
    "job_id": Knob("SPOKE_JOB_ID", parse_text, None, "submission id of the job this driver runs for"),
    "attempt_id": Knob("SPOKE_ATTEMPT_ID", parse_count, 0, "attempt of the job, 0 for the first"),
    "parent_job_id": Knob("SPOKE_PARENT_JOB_ID", parse_text, None, "job that submitted this one"),
    "job_node_id": Knob("SPOKE_NODE_ID", parse_text, None, "node that the job runs on, in hexadecimal"),
    "job_submit_hook": Knob(
        "SPOKE_JOB_SUBMIT_HOOK",
        parse_text,
        None,
        "module.function that `job submit` calls with its arguments first",
        also=("RAY_JOB_SUBMIT_HOOK",),
    ),
    "job_port_range": Knob(
        "SPOKE_JOB_PORT_RANGE", parse_port_range, (30000, 40000), "first and last port for jobs, 30000-40000"
    ),
    "scheduler": Knob(
        "SPOKE_SCHEDULER", parse_scheduler, "fifo", "of jobs: fifo, strict_fifo, locality or spread"
    ),
    "runtime_env": Knob("SPOKE_RUNTIME_ENV", parse_text, None, "JSON runtime_env of the submitted job"),
    "runtime_env_hook": Knob(
        "SPOKE_RUNTIME_ENV_HOOK",
        parse_text,
        None,
        "module.function that init() has make the job's runtime_env from the given one",
        also=("RAY_RUNTIME_ENV_HOOK",),
    ),
    "ray_job_config": Knob(
        "RAY_JOB_CONFIG_JSON_ENV_VAR", parse_text, None, "the same under Ray's name: JSON with a runtime_env"
    ),
    "runtime_env_package_bytes": Knob(
        "SPOKE_RUNTIME_ENV_PACKAGE_BYTES",
        parse_bytes,
        512 * _MIB,
        "a working_dir or a module of py_modules may have this many bytes",
        also=("RAY_max_grpc_message_size",),
    ),
    "runtime_env_cache_bytes": Knob(
        "SPOKE_RUNTIME_ENV_CACHE_BYTES",
        parse_bytes,
        10 * 1024 * _MIB,
        "a node keeps environments that nobody uses up to this many bytes",
    ),
    "runtime_env_ignore_gitignore": Knob(
        "SPOKE_RUNTIME_ENV_IGNORE_GITIGNORE",
        parse_bool,
        False,
        "pack also what .gitignore files exclude",
        also=("RAY_RUNTIME_ENV_IGNORE_GITIGNORE",),
    ),
    "runtime_env_default_excludes": Knob(
        "SPOKE_RUNTIME_ENV_DEFAULT_EXCLUDES",
        parse_text,
        ".git,.venv,venv,__pycache__",
        "patterns that a working_dir is packed without",
        also=("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES",),
    ),
    "conda_exe": Knob("CONDA_EXE", parse_text, None, "the conda that makes environments"),
    "node_ip": Knob("SPOKE_NODE_IP", parse_text, None, "address of this node as its peers see it"),
    "num_cpus": Knob("SPOKE_NUM_CPUS", parse_count, None, "CPUs of a new node; default: all of the machine"),
    "num_gpus": Knob("SPOKE_NUM_GPUS", parse_count, None, "GPUs of a new node; default: detected"),
    "object_store_memory": Knob(
        "SPOKE_OBJECT_STORE_MEMORY", parse_bytes, None, "bytes of shared memory; default: 30 % of memory"
    ),
    "max_lineage_bytes": Knob(
        "SPOKE_MAX_LINEAGE_BYTES",
        parse_bytes,
        1 << 30,
        "bytes of calls kept to make lost results again",
        also=("RAY_max_lineage_bytes",),
    ),
    "function_bytes_max": Knob(
        "SPOKE_FUNCTION_BYTES_MAX",
        parse_bytes,
        10**8,
        "a function or class is not sent with more bytes",
        also=("FUNCTION_SIZE_ERROR_THRESHOLD",),
    ),
    "inline_bytes_max": Knob(
        "SPOKE_INLINE_BYTES_MAX", parse_bytes, 100 * 1024, "values up to this size travel inside messages"
    ),
    "segment_bytes": Knob(
        "SPOKE_SEGMENT_BYTES", parse_bytes, 64 * _MIB, "bytes of one shared-memory segment"
    ),
    "lease_idle_s": Knob("SPOKE_LEASE_IDLE_S", parse_seconds, 0.5, "an idle worker lease is kept this long"),
    "worker_idle_s": Knob("SPOKE_WORKER_IDLE_S", parse_seconds, 60.0, "an idle spare worker lives this long"),
    "prestart_workers": Knob(
        "SPOKE_PRESTART_WORKERS", parse_count, None, "workers kept ready; default: one per CPU, at most 4"
    ),
    "heartbeat_s": Knob("SPOKE_HEARTBEAT_S", parse_seconds, 1.0, "an agent reports this often"),
    "node_dead_s": Knob("SPOKE_NODE_DEAD_S", parse_seconds, 5.0, "a silent node is dead after this long"),
    "connect_timeout_s": Knob(
        "SPOKE_CONNECT_TIMEOUT_S", parse_seconds, 10.0, "joining a cluster may take this long"
    ),
    "kill_grace_s": Knob("SPOKE_KILL_GRACE_S", parse_seconds, 2.0, "from SIGTERM to SIGKILL of a worker"),
    "memory_kill_fraction": Knob(
        "SPOKE_MEMORY_KILL_FRACTION", float, 0.95, "share of node memory above which a worker is killed"
    ),
    "state_dir": Knob("SPOKE_STATE_DIR", parse_text, None, "directory in which a head keeps its journal"),
    "journal_sync": Knob(
        "SPOKE_JOURNAL_SYNC", parse_text, "normal", "full: every change reaches the disk before its answer"
    ),
    "restart_reason": Knob(
        "SPOKE_RESTART_REASON", parse_text, None, "why its supervisor has started this head again"
    ),
    "recover_s": Knob(
        "SPOKE_RECOVER_S", parse_seconds, 6.0, "a restarted head waits this long for all that it knew"
    ),
    "hub_wait_s": Knob(
        "SPOKE_HUB_WAIT_S", parse_seconds, 60.0, "processes wait this long for a head that is restarted"
    ),
    "trace": Knob("SPOKE_TRACE", parse_bool, False, "record a timeline of every call"),
    **{
        f"graph_{name}": Knob(
            f"SPOKE_CGRAPH_{name.upper()}",
            parse,
            default,
            f"{name} of compiled graphs",
            also=(f"RAY_CGRAPH_{name}",),
        )
        for name, parse, default in (
            ("submit_timeout", parse_limit, 10),
            ("get_timeout", parse_limit, 10),
            ("teardown_timeout", parse_limit, 30),
            ("read_iteration_timeout_s", parse_seconds, 0.1),
            ("buffer_size_bytes", parse_count, 1_000_000),
            ("max_inflight_executions", parse_count, 10),
            ("max_buffered_results", parse_count, 1000),
            ("overlap_gpu_communication", parse_bool, False),
        )
    },
    "noset_visible_devices": Knob(
        "SPOKE_NOSET_CUDA_VISIBLE_DEVICES",
        parse_bool,
        False,
        "leave CUDA_VISIBLE_DEVICES of workers as it is",
        also=("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",),
    ),
    "noset_hip_visible_devices": Knob(
        "SPOKE_NOSET_HIP_VISIBLE_DEVICES",
        parse_bool,
        False,
        "leave HIP_VISIBLE_DEVICES of workers as it is",
        also=("RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES", "RAY_EXPERIMENTAL_NOSET_ROCR_VISIBLE_DEVICES"),
    ),
    "cuda_visible_devices": Knob(
        "CUDA_VISIBLE_DEVICES", parse_text, None, "the devices that this process may use"
    ),
    "hip_visible_devices": Knob(
        "HIP_VISIBLE_DEVICES", parse_text, None, "the same on a node with GPUs of AMD"
    ),
    "rocr_visible_devices": Knob(
        "ROCR_VISIBLE_DEVICES", parse_text, None, "refused: the other one counts below it"
    ),
    "nvml": Knob(
        "SPOKE_NVML", parse_text, "auto", "auto, off, or the directory of pynvml: where GPUs are asked for"
    ),
    "sysfs": Knob("SPOKE_SYSFS", parse_text, "/sys", "where the kernel's tree of devices is mounted"),
    "allow_uncounted_refs": Knob(
        "SPOKE_ALLOW_UNCOUNTED_REFS",
        parse_bool,
        True,
        "refs may be in functions and in bytes of ray.cloudpickle: their objects live as long as the process",
        also=("RAY_allow_out_of_band_object_ref_serialization",),
    ),
    "override_resources": Knob(
        "SPOKE_OVERRIDE_RESOURCES",
        parse_amounts,
        {},
        "JSON: resources of a node that starts here, instead of those that it is started with",
        also=("RAY_OVERRIDE_RESOURCES",),
    ),
    "cloud_instance_id": Knob("CLOUD_INSTANCE_ID", parse_text, None, "the cloud's id of this machine"),
    "runtime_dir": Knob("XDG_RUNTIME_DIR", parse_text, None, "directory for the user's session files"),
}


def get(name: str) -> Any:
    """The present value of a knob.

    Raises:
        KeyError: there is no knob of this name.
    """
    return KNOBS[name].read()


def __getattr__(name: str) -> Any:
    """``config.heartbeat_s`` reads the knob `heartbeat_s`."""
    knob = KNOBS.get(name)
    if knob is None:
        raise AttributeError(f"module 'spoke.config' has no knob {name!r}")
    return knob.read()


_default_threads: str | None = None


def set_default_threads(count: int) -> None:
    """Let numeric libraries that are not loaded yet use `count` threads (OMP_NUM_THREADS), unless the
    user has set it: a worker should not use more cores than it holds CPUs."""
    global _default_threads
    if os.environ.get("OMP_NUM_THREADS") == _default_threads:
        _default_threads = os.environ["OMP_NUM_THREADS"] = str(count)


PORT_PREFIX = "SPOKE_PORT_"


def job_ports() -> dict[str, int]:
    """The ports that were given to this job, by name in lower case."""
    return {
        name[len(PORT_PREFIX) :].lower(): int(value)
        for name, value in os.environ.items()
        if name.startswith(PORT_PREFIX) and value.isdigit()
    }


def given(variables: Mapping[str, Any], name: str) -> bool:
    """Do these variables, meant for a child, turn on the yes-or-no knob `name`?"""
    return any(str(variables.get(variable, "")).strip().lower() in _TRUE for variable in KNOBS[name].names)


def environment() -> dict[str, str]:
    """A copy of the process's environment, for a child."""
    return dict(os.environ)
