"""Rows of the state API: one class per kind of thing, with the field names that Ray's rows have.

A field whose value Spoke does not keep is None.  Rows are read by attribute, by key or by `get`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Final

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

    def asdict(self) -> dict[str, Any]:
        """The row as a dict."""
        return asdict(self)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, or `default`."""
        return getattr(self, key, default)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns())

    @classmethod
    def columns(cls) -> list[str]:
        """The names of all fields."""
        return [field.name for field in fields(cls)]

    list_columns = base_columns = filterable_columns = detail_columns = columns


@dataclass
class ActorState(StateSchema):
    """An actor."""

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
    num_restarts: int = 0


@dataclass
class NodeState(StateSchema):
    """A node."""

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
    """A worker process."""

    worker_id: str
    is_alive: bool
    worker_type: str
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    exit_detail: str | None = None
    worker_launch_time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None


@dataclass
class PlacementGroupState(StateSchema):
    """A placement group."""

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str  # PENDING, CREATED, RESCHEDULING or REMOVED
    bundles: list[dict[str, Any]] | None = None
    is_detached: bool | None = None
    stats: dict[str, Any] | None = None


@dataclass
class JobState(StateSchema):
    """A driver's run."""

    type: str
    job_id: str | None
    submission_id: str | None
    driver_info: dict[str, Any] | None
    status: str  # RUNNING or SUCCEEDED
    entrypoint: str
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None  # milliseconds since the epoch
    end_time: int | None = None


@dataclass
class TaskState(StateSchema):
    """A call that this process has made and that is not over."""

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None = None


@dataclass
class ObjectState(StateSchema):
    """An object that this process has a ref to."""

    object_id: str
    object_size: int | None
    task_status: str
    attempt_number: int
    reference_type: str
    call_site: str
    type: str
    pid: int
    ip: str


@dataclass
class RuntimeEnvState(StateSchema):
    """A runtime environment in use."""

    runtime_env: dict[str, Any]
    success: bool | None
    creation_time_ms: float | None = None
    node_id: str | None = None
    ref_cnt: int | None = None
    error: str | None = None


@dataclass
class ListApiOptions:
    """What a list shows."""

    limit: int = DEFAULT_LIMIT
    timeout: int = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list[tuple[str, str, Any]] | None = None


def filterable_cols(schema: type[StateSchema]) -> list[str]:
    """The fields by which rows of this kind can be filtered: all."""
    return schema.columns()


__getattr__ = absent.getter(__name__)
