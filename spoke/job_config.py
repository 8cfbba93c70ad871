"""Names of `ray.job_config`: what a driver says about its job, for ``init(job_config=...)``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spoke import absent

_LIFETIMES = ("detached", "non_detached")
_ENCODINGS = ("TEXT", "JSON")
# Fields of a record that are not context, and may be asked for by name.
STANDARD = frozenset((
    "args", "asctime", "created", "exc_info", "exc_text", "filename", "funcName", "levelname", "levelno",
    "lineno", "message", "module", "msecs", "msg", "name", "pathname", "process", "processName",
    "relativeCreated", "stack_info", "taskName", "thread", "threadName",
))  # fmt: skip


@dataclass
class LoggingConfig:
    """How log records look: ``init(logging_config=LoggingConfig(encoding="JSON"))``.

    Args:
        encoding: "TEXT" or "JSON" (one object per line).
        log_level: of the root logger of the driver and its workers, such as "INFO".
        additional_log_standard_attrs: fields of a log record to add, such as "name".

    Raises:
        ValueError: another encoding, or a field that records have not.
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in _ENCODINGS:
            raise ValueError(
                f"Invalid encoding type: {self.encoding}. Valid encoding types are: {list(_ENCODINGS)}"
            )
        for name in self.additional_log_standard_attrs:
            if name not in STANDARD:
                raise ValueError(
                    f"Unknown python logging standard attribute: {name}. "
                    f"The valid attributes are: {sorted(STANDARD)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> LoggingConfig:
        """The settings of `to_dict`; what else stands there is left out."""
        return cls(**{name: value for name, value in d.items() if name in cls.__dataclass_fields__})


class JobConfig:
    """Settings of a job; `init` takes the namespace and the runtime environment from it.

    Args:
        runtime_env: of all workers of the job.
        ray_namespace: of named actors.
        metadata: texts by name, shown with the job.
        default_actor_lifetime: "non_detached" (default) or "detached".
        jvm_options, code_search_path: accepted for compatibility; there are no Java or C++ workers.

    Raises:
        ValueError: another `default_actor_lifetime`.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | None = None,
        runtime_env: dict[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        self.jvm_options = list(jvm_options or [])
        self.code_search_path = list(code_search_path or [])
        self.metadata = dict(metadata or {})
        self.py_logging_config: LoggingConfig | None = None
        self.set_ray_namespace(ray_namespace)
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        """Add one text of metadata."""
        self.metadata[key] = value

    def set_ray_namespace(self, ray_namespace: str | None) -> None:
        """Set the namespace of named actors."""
        self.ray_namespace = ray_namespace

    def set_runtime_env(self, runtime_env: Any, validate: bool = False) -> None:
        """Set the runtime environment; with `validate`, check it now instead of at `init`.

        Raises:
            ValueError, TypeError: with `validate`, a wrong one.
        """
        self.runtime_env = dict(runtime_env or {})
        if validate:
            from spoke.runtime_env import RuntimeEnv

            RuntimeEnv(**self.runtime_env)

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Set the lifetime of actors that do not say.

        Raises:
            ValueError: neither "detached" nor "non_detached".
        """
        if default_actor_lifetime not in _LIFETIMES:
            raise ValueError(
                f"Default actor lifetime must be one of `detached`, `non_detached`, "
                f"not {default_actor_lifetime!r}"
            )
        self.default_actor_lifetime = default_actor_lifetime

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Set how log records look."""
        self.py_logging_config = logging_config

    def ensure_logging_config(self, logging_config: LoggingConfig | dict[str, Any] | None = None) -> None:
        """Set how log records look, from a config or its plain values; None changes nothing."""
        if logging_config is not None:
            if isinstance(logging_config, dict):
                logging_config = LoggingConfig.from_dict(logging_config)
            self.set_py_logging_config(logging_config)

    def _serialize(self) -> bytes:
        """The settings as JSON, for `from_json`."""
        import json

        names = ("runtime_env", "metadata", "ray_namespace", "default_actor_lifetime")
        return json.dumps({name: getattr(self, name) for name in names}, default=str).encode()

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """The config of a dict as job submission has it: runtime_env, metadata, and more."""
        config = cls(
            runtime_env=job_config_json.get("runtime_env"),
            metadata=job_config_json.get("metadata"),
            ray_namespace=job_config_json.get("ray_namespace"),
        )
        config.ensure_logging_config(job_config_json.get("py_logging_config"))
        return config


__getattr__ = absent.getter(__name__)
