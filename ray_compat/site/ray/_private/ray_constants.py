"""Names of `ray._private.ray_constants` that programs compare with or set."""

from __future__ import annotations

from typing import Final

REDIS_DEFAULT_PASSWORD: Final = ""
DEFAULT_PORT: Final = 6379
DEFAULT_MAX_CONCURRENCY_ASYNC: Final = 1000
RAY_ADDRESS_ENVIRONMENT_VARIABLE: Final = "RAY_ADDRESS"
RAY_NAMESPACE_ENVIRONMENT_VARIABLE: Final = "RAY_NAMESPACE"
RAY_RUNTIME_ENV_ENVIRONMENT_VARIABLE: Final = "RAY_RUNTIME_ENV"
RAY_JOB_CONFIG_JSON_ENV_VAR: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
NOSET_CUDA_VISIBLE_DEVICES_ENV_VAR: Final = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
CUDA_VISIBLE_DEVICES_ENV_VAR: Final = "CUDA_VISIBLE_DEVICES"
LOGGER_FORMAT: Final = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
LOGGER_LEVEL: Final = "info"
DEFAULT_DASHBOARD_IP: Final = "127.0.0.1"
DEFAULT_DASHBOARD_PORT: Final = 8265
DEFAULT_DASHBOARD_AGENT_LISTEN_PORT: Final = 52365
DEFAULT_RESOURCES: Final = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
DEFAULT_TASK_MAX_RETRIES: Final = 3
DEFAULT_MAX_CONCURRENCY_THREADED: Final = 1
ERROR_MESSAGE: Final = ""
ID_SIZE: Final = 28
KV_NAMESPACE_JOB: Final = b"job"
KV_NAMESPACE_PDB: Final = b"ray_pdb"
KV_NAMESPACE_SESSION: Final = b"session"
LOG_PREFIX_ACTOR_NAME: Final = ":actor_name:"
LOG_PREFIX_JOB_ID: Final = ":job_id:"
LOG_PREFIX_TASK_NAME: Final = ":task_name:"
MIN_RESOURCE_GRANULARITY: Final = 0.0001
NUM_REDIS_GET_RETRIES = 20  # fixtures set it
OBJECT_STORE_MINIMUM_MEMORY_BYTES: Final = 75 * 1024 * 1024
RAY_JOB_HEADERS: Final = "RAY_JOB_HEADERS"
RAY_JOB_SUBMIT_HOOK: Final = "RAY_JOB_SUBMIT_HOOK"
RAY_OVERRIDE_DASHBOARD_URL: Final = "RAY_OVERRIDE_DASHBOARD_URL"
RESOURCES_ENVIRONMENT_VARIABLE: Final = "RAY_OVERRIDE_RESOURCES"
LABELS_ENVIRONMENT_VARIABLE: Final = "RAY_OVERRIDE_LABELS"
RUNTIME_ENV_CONDA_PY_VERSIONS: Final = [(3, minor) for minor in range(10, 15)]
WORKER_PROCESS_SETUP_HOOK_ENV_VAR: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
FUNCTION_SIZE_WARN_THRESHOLD: Final = 10**7
FUNCTION_SIZE_ERROR_THRESHOLD: Final = 10**8
RAY_LOGGING_CONFIG_ENCODING: Final = None

# Kinds of errors that drivers hear of.
PICKLING_LARGE_OBJECT_PUSH_ERROR: Final = "pickling_large_object"
WAIT_FOR_FUNCTION_PUSH_ERROR: Final = "wait_for_function"
VERSION_MISMATCH_PUSH_ERROR: Final = "version_mismatch"
WORKER_CRASH_PUSH_ERROR: Final = "worker_crash"
WORKER_DIED_PUSH_ERROR: Final = "worker_died"
WORKER_POOL_LARGE_ERROR: Final = "worker_pool_large"
PUT_RECONSTRUCTION_PUSH_ERROR: Final = "put_reconstruction"
RESOURCE_DEADLOCK_ERROR: Final = "resource_deadlock"
REMOVED_NODE_ERROR: Final = "node_removed"
RAYLET_DIED_ERROR: Final = "raylet_died"
DETACHED_ACTOR_ANONYMOUS_NAMESPACE_ERROR: Final = "detached_actor_anonymous_namespace"
MONITOR_DIED_ERROR: Final = "monitor_died"
LOG_MONITOR_DIED_ERROR: Final = "log_monitor_died"
DASHBOARD_AGENT_DIED_ERROR: Final = "dashboard_agent_died"
DASHBOARD_DIED_ERROR: Final = "dashboard_died"
EXCESS_QUEUEING_WARNING: Final = "excess_queueing_warning"


def env_integer(key: str, default: int) -> int:
    """The number in an environment variable, or the default."""
    import os

    text = os.environ.get(key, "")
    return int(text) if text.isdigit() else default


def env_float(key: str, default: float) -> float:
    """The number in an environment variable, or the default."""
    import os

    text = os.environ.get(key)
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


def env_bool(key: str, default: bool) -> bool:
    """True for "1" and "true" in an environment variable, or the default."""
    import os

    text = os.environ.get(key)
    return default if text is None else text.lower() in ("true", "1")
