"""The questions of the state API; see the package."""

from __future__ import annotations

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from spoke import current, records
from spoke.core.refs import PENDING
from spoke.handles import ActorHandle
from spoke.logs import MARK
from spoke.objectref import ObjectRef
from spoke.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_LOG_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    RAY_MAX_LIMIT_FROM_API_SERVER,
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateSchema,
    TaskState,
    WorkerState,
)
from spoke.util.state.exception import RayStateApiException, ServerUnavailable

Filters = list[tuple[str, str, Any]] | None
_Source = Callable[[], list[Any]]
_ACTOR_STATES = {"PENDING": "PENDING_CREATION", "STARTING": "PENDING_CREATION"}
_FOLLOW_S = 0.1
_NAME = MARK.decode()  # begins the lines that name who wrote what follows


def _client() -> Any:
    if current.client is None:
        raise ServerUnavailable(
            "This process is in no cluster: call init() first, with an address to join one."
        )
    return current.client


def _hex(value: Any) -> str | None:
    return bytes(value).hex() if value else None


# -- rows -----------------------------------------------------------------------------------------


def _actors() -> list[ActorState]:
    return [
        ActorState(
            actor_id=bytes(row["actor_id"]).hex(),
            class_name=row["class_name"],
            state=_ACTOR_STATES.get(row["state"], row["state"]),
            job_id=bytes(row["job_id"]).hex(),
            name=row["name"] or "",
            node_id=_hex(row["node_id"]),
            pid=row["pid"] or None,
            ray_namespace=row["namespace"],
            death_cause=dict(row["info"]) if row["state"] == "DEAD" else None,
            is_detached=row["detached"],
            placement_group_id=_hex(row["group_id"]),
            num_restarts=row["incarnation"],
        )
        for row in _client().request("actors")
    ]


def _nodes() -> list[NodeState]:
    return [
        NodeState(
            node_id=row["NodeID"],
            node_ip=row["NodeManagerAddress"],
            is_head_node=row["IsHead"],
            state="ALIVE" if row["Alive"] else "DEAD",
            state_message=row["DeathReasonMessage"] or None,
            node_name=row["NodeName"],
            resources_total=row["Resources"],
            labels=row["Labels"],
        )
        for row in _client().request("nodes")
    ]


def _workers() -> list[WorkerState]:
    addresses = {node.node_id: node.node_ip for node in _nodes()}
    return [
        WorkerState(
            worker_id=bytes(row["worker_id"]).hex(),
            is_alive=True,
            worker_type="WORKER",
            exit_type=None,
            node_id=bytes(row["node_id"]).hex(),
            ip=addresses.get(bytes(row["node_id"]).hex(), ""),
            pid=row["pid"],
        )
        for row in _client().request("workers")
    ]


def _groups() -> list[PlacementGroupState]:
    return [
        PlacementGroupState(
            placement_group_id=bytes(row["group_id"]).hex(),
            name=row["name"] or "",
            creator_job_id=bytes(row["job_id"]).hex(),
            state=row["state"],
            bundles=[
                {"bundle_id": {"bundle_index": index}, "unit_resources": bundle, "node_id": _hex(node)}
                for index, (bundle, node) in enumerate(
                    zip(row["bundles"], row["nodes"] or [None] * len(row["bundles"]), strict=True)
                )
            ],
            is_detached=row["detached"],
            stats={"reason": row["reason"]},
        )
        for row in _client().request("groups")
    ]


def _jobs() -> list[JobState]:
    now = time.time()
    return [
        JobState(
            type="DRIVER",
            job_id=bytes(row["job_id"]).hex(),
            submission_id=None,
            driver_info={"id": bytes(row["driver"]).hex(), "pid": str(row["pid"])},
            status="RUNNING" if row["running"] else "SUCCEEDED",
            entrypoint=row["entrypoint"],
            start_time=int(1000 * (now - row["age_s"])),
            end_time=None if row["running"] else int(1000 * (now - row["age_s"] + row["ran_s"])),
        )
        for row in _client().request("jobs")
    ]


def _tasks() -> list[TaskState]:
    client = _client()
    job = bytes(client.runtime_context["job_id"]).hex()
    with client.lock:
        calls = list(client.calls.calls.values())
    return [
        TaskState(
            task_id=call.id.hex(),
            attempt_number=call.attempt,
            name=call.name or str(call.target),
            state=_task_state(call),
            job_id=job,
            actor_id=call.key.hex() if isinstance(call.key, bytes) else None,
            type="ACTOR_TASK" if isinstance(call.key, bytes) else "NORMAL_TASK",
            func_or_class_name=call.name or str(call.target),
            parent_task_id=_hex(call.parent),
            node_id=None,
            worker_id=_hex(call.peer),
            worker_pid=None,
        )
        for call in calls
    ]


def _task_state(call: Any) -> str:
    if call.waiting:
        return "PENDING_ARGS_AVAIL"
    return "PENDING_NODE_ASSIGNMENT" if call.peer is None else "SUBMITTED_TO_WORKER"


def _objects() -> list[ObjectState]:
    client = _client()
    kind = "WORKER" if client.is_worker else "DRIVER"
    with client.lock:
        entries = [entry for entry in client.refs.entries.values() if entry.local or entry.call]
        return [
            ObjectState(
                object_id=entry.id.hex(),
                object_size=_size(entry.value),
                task_status="PENDING" if entry.status == PENDING else "FINISHED",
                attempt_number=0,
                reference_type="LOCAL_REFERENCE" if entry.local else "USED_BY_PENDING_TASK",
                call_site="",
                type=kind,
                pid=os.getpid(),
                ip=str(client.address[2]),
            )
            for entry in entries
        ]


def _size(parts: Any) -> int | None:
    if parts is None:
        return None
    return sum(len(part) if isinstance(part, bytes) else int(part[-1]) for part in parts)


def _runtime_envs() -> list[RuntimeEnvState]:
    environment = _client().job_env
    return [RuntimeEnvState(runtime_env=dict(environment), success=True)] if environment else []


# -- lists ----------------------------------------------------------------------------------------


def _listed(source: _Source, schema: type[StateSchema], filters: Filters, limit: int) -> list[Any]:
    if not 0 < limit <= RAY_MAX_LIMIT_FROM_API_SERVER:
        raise ValueError(
            f"Given limit {limit} exceeds the supported limit {RAY_MAX_LIMIT_FROM_API_SERVER}."
            if limit > 0
            else f"limit must be positive, not {limit}"
        )
    for key, operator, _ in filters or ():
        if operator not in ("=", "!="):
            raise ValueError(
                f"Unsupported filter predicate {operator} is given. Available predicates: =, !=."
            )
        if key not in schema.columns():
            raise ValueError(f"Invalid filter key {key}. Available keys: {schema.columns()}")
    rows = source()
    return [row for row in rows if all(_fits(row, one) for one in filters or ())][:limit]


def _fits(row: Any, condition: tuple[str, str, Any]) -> bool:
    key, operator, wanted = condition
    same = str(row[key]).lower() == str(wanted).lower()
    return same if operator == "=" else not same


def _lister(source: _Source, schema: type[StateSchema], what: str) -> Callable[..., list[Any]]:
    def listed(
        address: str | None = None,
        filters: Filters = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Any]:
        return _listed(source, schema, filters, limit)

    listed.__name__ = listed.__qualname__ = f"list_{what}"
    listed.__doc__ = (
        f"{what.replace('_', ' ').capitalize()}, at most `limit`, that meet all `filters`.\n\n"
        "Raises:\n    ValueError: an unknown field or operator, or a limit out of range.\n"
        "    ServerUnavailable: this process is in no cluster."
    )
    return listed


list_actors = _lister(_actors, ActorState, "actors")
list_nodes = _lister(_nodes, NodeState, "nodes")
list_workers = _lister(_workers, WorkerState, "workers")
list_placement_groups = _lister(_groups, PlacementGroupState, "placement_groups")
list_jobs = _lister(_jobs, JobState, "jobs")
list_tasks = _lister(_tasks, TaskState, "tasks")
list_objects = _lister(_objects, ObjectState, "objects")
list_runtime_envs = _lister(_runtime_envs, RuntimeEnvState, "runtime_envs")


def list_cluster_events(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[dict[str, Any]]:
    """Deaths of nodes and actors, as dicts of severity, source_type, entity_id and message."""
    events: list[dict[str, Any]] = [
        {"severity": "ERROR", "source_type": "NODE", "entity_id": node.node_id, "message": node.state_message}
        for node in _nodes()
        if node.state == "DEAD"
    ]
    events += [
        {"severity": "INFO", "source_type": "ACTOR", "entity_id": actor.actor_id,
         "message": (actor.death_cause or {}).get("cause", "")}
        for actor in _actors()
        if actor.state == "DEAD"
    ]  # fmt: skip
    return events[:limit]


# -- single rows ----------------------------------------------------------------------------------


def _getter(source: _Source, key: str, what: str) -> Callable[..., Any]:
    def get(
        id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
    ) -> Any:
        return next((row for row in source() if row[key] == id), None)

    get.__name__ = get.__qualname__ = f"get_{what}"
    get.__doc__ = (
        f"The {what.replace('_', ' ')} with this hexadecimal id, or None.\n\n"
        "Raises:\n    ServerUnavailable: this process is in no cluster."
    )
    return get


get_actor = _getter(_actors, "actor_id", "actor")
get_node = _getter(_nodes, "node_id", "node")
get_worker = _getter(_workers, "worker_id", "worker")
get_placement_group = _getter(_groups, "placement_group_id", "placement_group")
get_job = _getter(_jobs, "job_id", "job")


def get_task(
    id: str | ObjectRef[Any],
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> TaskState | None:
    """The unfinished call of this process with this id, or behind this ref; None if there is none."""
    wanted = id.task_id().hex() if isinstance(id, ObjectRef) else id
    return next((row for row in _tasks() if row.task_id == wanted), None)


def get_objects(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState]:
    """What this process knows of the object with this id."""
    return [row for row in _objects() if row.object_id == id]


# -- summaries ------------------------------------------------------------------------------------


def _summary(rows: list[Any], group: Callable[[Any], str], state: Callable[[Any], str]) -> dict[str, Any]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(group(row), Counter())[state(row)] += 1
    summary = {name: {"state_counts": dict(counts)} for name, counts in found.items()}
    return {"cluster": {"summary": summary, "total": len(rows)}}


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors of each class are in which state."""
    return _summary(_actors(), lambda row: str(row.class_name), lambda row: str(row.state))


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many of this process's unfinished calls of each function are in which state."""
    return _summary(_tasks(), lambda row: str(row.name), lambda row: str(row.state))


def summarize_objects(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many objects this process refers to, by kind of reference and state."""
    return _summary(_objects(), lambda row: str(row.reference_type), lambda row: str(row.task_status))


# -- logs -----------------------------------------------------------------------------------------


def _log_directories(node_id: str | None) -> list[str]:
    """The directories on this machine in which workers of the cluster's nodes write."""
    known = {node.node_id for node in _nodes()}
    return [
        str(record["log_dir"])
        for record in records.live()
        if record.get("log_dir") and record["node_id"] in known and node_id in (None, record["node_id"])
    ]


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """Names of the workers' log files on this machine: {"worker_out": [...], "worker_err": [...]}."""
    found: dict[str, list[str]] = {"worker_out": [], "worker_err": []}
    for folder in _log_directories(node_id):
        for path in sorted(glob.glob(os.path.join(folder, glob_filter or "*"))):
            kind = {".out": "worker_out", ".err": "worker_err"}.get(os.path.splitext(path)[1])
            if kind:
                found[kind].append(os.path.basename(path))
    return found


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[str]:
    """Lines of one log file on this machine, chosen by its name, an actor's id, or a worker's pid.

    Args:
        follow: go on until the generator is closed.
        tail: only this many of the last lines; -1 gives 1,000, 0 none.
        suffix: "out" or "err".

    Raises:
        ValueError: nothing, or what needs another machine, is asked for.
        RayStateApiException: there is no such file here.
    """
    if filename is None:
        filename = f"worker-{_worker_of(actor_id, pid)}.{suffix}"
    paths = [os.path.join(folder, filename) for folder in _log_directories(node_id)]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise RayStateApiException(f"no log {filename!r} on this machine; see list_logs()")
    wanted = DEFAULT_LOG_LIMIT if tail < 0 else tail
    with open(path, encoding=encoding or "utf-8", errors=errors) as file:
        lines = [line for line in file if not line.startswith(_NAME)]
        yield from lines[len(lines) - min(wanted, len(lines)) :]
        while follow:
            line = file.readline()
            if line and not line.startswith(_NAME):
                yield line
            elif not line:
                time.sleep(_interval or _FOLLOW_S)


def _worker_of(actor_id: str | None, pid: int | None) -> str:
    """The hexadecimal id of a worker.

    Raises:
        ValueError: it is not said, or there is none.
    """
    if actor_id is None and pid is None:
        raise ValueError("say which log: filename, actor_id or pid")
    wanted = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
    if isinstance(actor_id, ActorHandle):
        wanted = actor_id._actor_id.hex()
    for row in _client().request("workers"):
        if (wanted is not None and _hex(row["actor_id"]) == wanted) or (
            pid is not None and row["pid"] == pid
        ):
            return bytes(row["worker_id"]).hex()
    raise ValueError(f"no worker runs actor {wanted}" if wanted else f"no worker has pid {pid}")


class StateApiClient:
    """The questions of this module as methods."""

    def __init__(
        self,
        address: str | None = None,
        cookies: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
    ) -> None:
        self.address = address

    def list(self, resource: Any, options: Any = None, raise_on_missing_output: bool = True) -> list[Any]:
        """Rows of a `StateResource`, by `ListApiOptions`."""
        function = globals()[f"list_{resource.value}"]
        rows: list[Any] = function(
            filters=getattr(options, "filters", None), limit=getattr(options, "limit", DEFAULT_LIMIT)
        )
        return rows

    def get(self, resource: Any, id: str, options: Any = None, _explain: bool = False) -> Any:
        """The row of a `StateResource` with this id, or None."""
        return globals()[f"get_{resource.value.rstrip('s')}"](id)

    def summary(
        self, resource: Any, *, options: Any = None, raise_on_missing_output: bool = True
    ) -> dict[str, Any]:
        """The summary of a `SummaryResource`."""
        found: dict[str, Any] = globals()[f"summarize_{resource.value}"]()
        return found
