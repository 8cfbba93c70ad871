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
ERROR_MESSAGE: Final = ""


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
