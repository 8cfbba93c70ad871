"""The questions of the state API; see the package."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

from spoke.objectref import ObjectRef
from spoke.util.state import rows
from spoke.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    RAY_MAX_LIMIT_FROM_API_SERVER,
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateSchema,
    TaskState,
    WorkerState,
)
from spoke.util.state.exception import InvalidQuery, RayStateApiException, ServerUnavailable
from spoke.util.state.logs import get_log, list_logs
from spoke.util.state.source import Source, looking

__all__ = ["ServerUnavailable", "StateApiClient", "get_log", "list_logs"]

Filters = list[tuple[str, str, Any]] | None
_MakeRows = Callable[[Source], list[Any]]


def _look(make: _MakeRows, address: str | None, timeout: float, raise_on_missing: bool = False) -> list[Any]:
    """All rows; what they do not show is a warning, or the error that the caller wants instead."""
    with looking(address, timeout) as source:
        found = make(source)
        notes = source.notes
    if notes and raise_on_missing and any("left out" in note for note in notes):
        raise RayStateApiException("; ".join(notes))
    for note in notes:
        warnings.warn(f"The answer is not complete: {note}.", RuntimeWarning, stacklevel=4)
    return found


# -- lists ----------------------------------------------------------------------------------------


def _checked(schema: type[StateSchema], filters: Filters, limit: int) -> None:
    if not isinstance(limit, int) or limit < 0:
        raise InvalidQuery(f"limit must be a number of 0 or more, not {limit!r}")
    if limit > RAY_MAX_LIMIT_FROM_API_SERVER:
        raise InvalidQuery(
            f"Given limit {limit} exceeds the supported limit {RAY_MAX_LIMIT_FROM_API_SERVER}."
        )
    for one in filters or ():
        if not isinstance(one, (tuple, list)) or len(one) != 3:
            raise InvalidQuery(f"a filter is (field, '=' or '!=', value), not {one!r}")
        key, operator, wanted = str(one[0]).lower(), *one[1:]
        if operator not in ("=", "!="):
            raise InvalidQuery(
                f"Unsupported filter predicate {operator} is given. Available predicates: =, !=."
            )
        if key not in schema.columns():
            raise InvalidQuery(
                f"Invalid filter key {key}. Available keys: {', '.join(schema.list_columns())}"
            )
        if key in schema.numbers():
            try:
                int(wanted)
            except (TypeError, ValueError):
                raise InvalidQuery(f"Failed to convert {wanted!r} to a number, which {key} is") from None


def _fits(row: Any, condition: tuple[str, str, Any]) -> bool:
    key, operator, wanted = condition[0].lower(), *condition[1:]
    if key in row.numbers():
        wanted = int(wanted)
    same = str(row[key]).lower() == str(wanted).lower()
    return same if operator == "=" else not same


def _lister(make: _MakeRows, schema: type[StateSchema], what: str) -> Callable[..., list[Any]]:
    def listed(
        address: str | None = None,
        filters: Filters = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Any]:
        _checked(schema, filters, limit)
        found = _look(make, address, timeout, raise_on_missing_output)
        for condition in filters or ():
            found = [row for row in found if _fits(row, condition)]
        shown = found[:limit]
        if len(shown) < len(found) and _explain:
            warnings.warn(f"{limit} of {len(found)} rows are shown; see limit and filters.", stacklevel=2)
        if not detail:
            for row in shown:
                row.without_details()
        return shown

    listed.__name__ = listed.__qualname__ = f"list_{what}"
    listed.__doc__ = (
        f"{what.replace('_', ' ').capitalize()}, at most `limit`, that meet all `filters`.\n\n"
        "Args:\n    detail: fill the fields of details, which are None otherwise.\n"
        "    timeout: seconds for the hub's answers.\n"
        "    raise_on_missing_output: raise where processes have more rows than one answer holds.\n\n"
        "Raises:\n    InvalidQuery: an unknown field or operator, or a limit out of range; it is a\n"
        "        RayStateApiException and a ValueError.\n"
        "    ServerUnavailable: there is no cluster to ask."
    )
    return listed


list_actors = _lister(rows.actors, ActorState, "actors")
list_nodes = _lister(rows.nodes, NodeState, "nodes")
list_workers = _lister(rows.workers, WorkerState, "workers")
list_placement_groups = _lister(rows.placement_groups, PlacementGroupState, "placement_groups")
list_jobs = _lister(rows.jobs, JobState, "jobs")
list_tasks = _lister(rows.tasks, TaskState, "tasks")
list_objects = _lister(rows.objects, ObjectState, "objects")
list_runtime_envs = _lister(rows.runtime_envs, RuntimeEnvState, "runtime_envs")
list_cluster_events = _lister(rows.cluster_events, ClusterEventState, "cluster_events")


# -- single rows ----------------------------------------------------------------------------------


def _getter(make: _MakeRows, keys: tuple[str, ...], what: str) -> Callable[..., Any]:
    def get(
        id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
    ) -> Any:
        found = _look(make, address, timeout)
        return next((row for row in found if id in [row[key] for key in keys]), None)

    get.__name__ = get.__qualname__ = f"get_{what}"
    get.__doc__ = (
        f"The {what.replace('_', ' ')} with this id, with all details, or None.\n\n"
        "Raises:\n    ServerUnavailable: there is no cluster to ask."
    )
    return get


get_actor = _getter(rows.actors, ("actor_id",), "actor")
get_node = _getter(rows.nodes, ("node_id",), "node")
get_worker = _getter(rows.workers, ("worker_id",), "worker")
get_placement_group = _getter(rows.placement_groups, ("placement_group_id",), "placement_group")
get_job = _getter(rows.jobs, ("job_id", "submission_id"), "job")
get_cluster_event = _getter(rows.cluster_events, ("event_id",), "cluster_event")


def get_task(
    id: str | ObjectRef[Any],
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> Any:
    """The call with this id, or behind this ref: a `TaskState`, a list of one per attempt, or None.

    Raises:
        ServerUnavailable: there is no cluster to ask.
    """
    wanted = id.task_id().hex() if isinstance(id, ObjectRef) else id
    found = [row for row in _look(rows.tasks, address, timeout) if row.task_id == wanted]
    return found[0] if len(found) == 1 else found or None


def get_objects(
    id: str, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState] | None:
    """The references to the object with this id, one row per process that has some; None where there is none.

    Raises:
        ServerUnavailable: there is no cluster to ask.
    """
    return [row for row in _look(rows.objects, address, timeout) if row.object_id == id] or None


# -- summaries ------------------------------------------------------------------------------------


def _counted(found: list[Any], key: str) -> dict[str, dict[str, int]]:
    """How many rows of each value of a field are in which state."""
    table: dict[str, Counter[str]] = {}
    for row in found:
        table.setdefault(str(row[key]), Counter())[str(row.state)] += 1
    return {name: dict(counts) for name, counts in table.items()}


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors of each class are in which state."""
    found = _look(rows.actors, address, timeout, raise_on_missing_output)
    summary = {
        name: {"class_name": name, "state_counts": counts}
        for name, counts in _counted(found, "class_name").items()
    }
    return {"cluster": {"summary": summary, "total_actors": len(found), "summary_by": "class"}}


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many calls of each name are in which state; `rows.tasks` says which are seen."""
    found = _look(rows.tasks, address, timeout, raise_on_missing_output)
    kinds = {str(row.name): row.type for row in found}
    totals = Counter(row.type for row in found)
    summary = {
        name: {"func_or_class_name": name, "type": kinds[name], "state_counts": counts}
        for name, counts in _counted(found, "name").items()
    }
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": totals["NORMAL_TASK"],
            "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_objects(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many references there are, by where they were made, with kinds, states and bytes."""
    found = _look(rows.objects, address, timeout, raise_on_missing_output)
    by_site: dict[str, list[Any]] = {}
    for row in found:
        by_site.setdefault(row.call_site, []).append(row)
    summary = {
        site: {
            "total_objects": len(group),
            "total_size_mb": _megabytes(group),
            "total_num_workers": len({(row.ip, row.pid) for row in group}),
            "total_num_nodes": len({row.ip for row in group}),
            "task_state_counts": dict(Counter(row.task_status for row in group)),
            "task_attempt_number_counts": dict(Counter(str(row.attempt_number) for row in group)),
            "ref_type_counts": dict(Counter(row.reference_type for row in group)),
        }
        for site, group in by_site.items()
    }
    return {
        "cluster": {
            "summary": summary,
            "total_objects": len(found),
            "total_size_mb": _megabytes(found),
            "callsite_enabled": False,
            "summary_by": "callsite",
        }
    }


def _megabytes(found: list[Any]) -> float:
    return float(sum(max(0, row.object_size) for row in found)) / 2**20


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
        found: list[Any] = function(
            self.address,
            filters=getattr(options, "filters", None),
            limit=getattr(options, "limit", DEFAULT_LIMIT),
            timeout=getattr(options, "timeout", DEFAULT_RPC_TIMEOUT),
            detail=getattr(options, "detail", False),
            raise_on_missing_output=raise_on_missing_output,
        )
        return found

    def get(self, resource: Any, id: str, options: Any = None, _explain: bool = False) -> Any:
        """The row of a `StateResource` with this id, or None; all references to an object."""
        name = "objects" if resource.value == "objects" else resource.value.rstrip("s")
        return globals()[f"get_{name}"](id, self.address)

    def summary(
        self, resource: Any, *, options: Any = None, raise_on_missing_output: bool = True
    ) -> dict[str, Any]:
        """The summary of a `SummaryResource`."""
        found: dict[str, Any] = globals()[f"summarize_{resource.value}"](self.address)
        return found
