"""Rows of the state API: one class per kind of thing, with the field names that Ray's rows have.

A field whose value Spoke does not keep is None.  Rows are read by attribute, by key or by `get`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, Final

from spoke import absent

DEFAULT_LIMIT: Final = 100  # rows of a list
DEFAULT_RPC_TIMEOUT: Final = 30  # seconds
DEFAULT_LOG_LIMIT: Final = 1000  # lines
RAY_MAX_LIMIT_FROM_API_SERVER: Final = 10_000
RAY_MAX_LIMIT_FROM_DATA_SOURCE: Final = 10_000


class StateResource(Enum):
    """The kinds of things that can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class SummaryResource(Enum):
    """The kinds of things that can be summarized."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


@dataclass
class StateSchema:
    """A row."""

    detail_only: ClassVar[frozenset[str]] = frozenset()  # fields that are None unless details are asked for

    def asdict(self) -> dict[str, Any]:
        """The row as a dict."""
        return {name: getattr(self, name) for name in self.list_columns()}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, or `default`."""
        return getattr(self, key, default)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_columns())

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """The names of the fields, in order; without `detail`, those that a list shows without details."""
        return [field.name for field in fields(cls) if detail or field.name not in cls.detail_only]

    @classmethod
    def columns(cls) -> set[str]:
        """The names of all fields."""
        return set(cls.list_columns())

    @classmethod
    def numbers(cls) -> list[str]:
        """The names of the fields that are whole numbers."""
        return [field.name for field in fields(cls) if field.type in ("int", "int | None")]

    @classmethod
    def base_columns(cls) -> set[str]:
        """The names of the fields that a list shows without details."""
        return set(cls.list_columns(detail=False))

    filterable_columns = detail_columns = columns

    def without_details(self) -> None:
        """Set the fields of details to None."""
        for name in self.detail_only:
            setattr(self, name, None)


@dataclass
class ActorState(StateSchema):
    """An actor."""

    detail_only = frozenset((
        "serialized_runtime_env", "required_resources", "death_cause", "is_detached", "placement_group_id",
        "repr_name", "num_restarts", "num_restarts_due_to_lineage_reconstruction",
        "num_restarts_due_to_node_preemption", "call_site", "label_selector", "fallback_strategy",
    ))  # fmt: skip

    actor_id: str
    class_name: str
    state: str  # PENDING_CREATION, ALIVE, RESTARTING or DEAD
    job_id: str
    name: str | None
    node_id: str | None
    pid: int | None
    ray_namespace: str | None
    serialized_runtime_env: str | None = None
    required_resources: dict[str, float] | None = None
    death_cause: dict[str, Any] | None = None
    is_detached: bool | None = None
    placement_group_id: str | None = None
    repr_name: str | None = None
    num_restarts: int | None = 0
    num_restarts_due_to_lineage_reconstruction: int | None = None
    num_restarts_due_to_node_preemption: int | None = None
    call_site: str | None = None
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[dict[str, Any]] | None = None


@dataclass
class NodeState(StateSchema):
    """A node."""

    detail_only = frozenset(("start_time_ms", "end_time_ms"))

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str  # ALIVE or DEAD
    state_message: str | None
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str]
    start_time_ms: int | None = None
    end_time_ms: int | None = None


@dataclass
class WorkerState(StateSchema):
    """A worker process, or a driver."""

    detail_only = frozenset((
        "exit_detail", "worker_launch_time_ms", "worker_launched_time_ms", "start_time_ms", "end_time_ms",
        "debugger_port", "num_paused_threads",
    ))  # fmt: skip

    worker_id: str
    is_alive: bool
    worker_type: str  # WORKER or DRIVER
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    exit_detail: str | None = None
    worker_launch_time_ms: int | None = None
    worker_launched_time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    debugger_port: int | None = None
    num_paused_threads: int | None = None


@dataclass
class PlacementGroupState(StateSchema):
    """A placement group."""

    detail_only = frozenset((
        "bundles", "is_detached", "stats", "topology_strategy", "topology_assignments",
    ))  # fmt: skip

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str  # PENDING, CREATED, RESCHEDULING or REMOVED
    bundles: list[dict[str, Any]] | None = None
    is_detached: bool | None = None
    stats: dict[str, Any] | None = None
    topology_strategy: dict[str, str] | None = None
    topology_assignments: dict[str, str] | None = None


@dataclass
class JobState(StateSchema):
    """A driver's run, or a submitted job."""

    detail_only = frozenset((
        "start_time", "end_time", "metadata", "runtime_env", "driver_agent_http_address", "driver_node_id",
        "driver_exit_code",
    ))  # fmt: skip

    job_id: str | None
    submission_id: str | None
    entrypoint: str
    type: str  # DRIVER or SUBMISSION
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    message: str | None = None
    error_type: str | None = None
    driver_info: dict[str, Any] | None = None
    start_time: int | None = None  # milliseconds since the epoch
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


@dataclass
class TaskState(StateSchema):
    """A call: of a function, of an actor's method, or of its constructor."""

    detail_only = frozenset((
        "language", "required_resources", "placement_group_id", "profiling_data", "start_time_ms",
        "end_time_ms", "error_message", "creation_time_ms", "events", "runtime_env_info", "task_log_info",
        "is_debugger_paused", "call_site", "label_selector", "fallback_strategy",
    ))  # fmt: skip

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str  # NORMAL_TASK, ACTOR_TASK or ACTOR_CREATION_TASK
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None = None
    language: str | None = None
    required_resources: dict[str, float] | None = None
    placement_group_id: str | None = None
    profiling_data: dict[str, Any] | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    error_message: str | None = None
    creation_time_ms: int | None = None
    events: list[dict[str, Any]] | None = None
    runtime_env_info: dict[str, Any] | None = None
    task_log_info: dict[str, Any] | None = None
    is_debugger_paused: bool | None = None
    call_site: str | None = None
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[dict[str, Any]] | None = None


@dataclass
class ObjectState(StateSchema):
    """A reference of a process to an object."""

    detail_only = frozenset(("owner_id", "node_id"))

    object_id: str
    object_size: int  # bytes, -1 while it is not known
    task_status: str
    attempt_number: int
    reference_type: str
    call_site: str
    type: str  # DRIVER or WORKER
    pid: int
    ip: str
    owner_id: str | None = None  # process that owns the object
    node_id: str | None = None


@dataclass
class RuntimeEnvState(StateSchema):
    """A runtime environment in use."""

    detail_only = frozenset(("ref_cnt", "error"))

    runtime_env: dict[str, Any]
    success: bool | None
    creation_time_ms: float | None = None
    node_id: str | None = None
    ref_cnt: int | None = None
    error: str | None = None


@dataclass
class ClusterEventState(StateSchema):
    """Something that happened."""

    detail_only = frozenset(("custom_fields",))

    severity: str
    time: str | None
    source_type: str
    message: str
    event_id: str
    custom_fields: dict[str, Any] | None = None


@dataclass
class ListApiOptions:
    """What a list shows."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list[tuple[str, str, Any]] | None = None


def filterable_cols(schema: type[StateSchema]) -> list[str]:
    """The fields by which rows of this kind can be filtered: all."""
    return schema.list_columns()


__getattr__ = absent.getter(__name__)
