"""Rows of the state API, made from what the hub keeps and from what processes say of themselves.

The hub has actors, nodes, workers, groups and jobs.  Calls and objects are known to the processes alone
(HUB-1): they are asked, through the hub.  So a call is seen while it waits and runs, and after its end as
long as its worker lives and remembers it.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from spoke.inspecting import ACTOR_SUFFIX, CREATION, FAILED, FINISHED, OBJECT_FIELDS, QUEUED, TASK_FIELDS
from spoke.util.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    TaskState,
    WorkerState,
)
from spoke.util.state.source import Source

_ACTOR_STATES: Final = {"PENDING": "PENDING_CREATION", "STARTING": "PENDING_CREATION"}


def hex_or_none(value: Any) -> str | None:
    """An id as text; None for none."""
    return bytes(value).hex() if value else None


def actors(source: Source) -> list[ActorState]:
    """Live actors and those that died lately."""
    return [
        ActorState(
            actor_id=row["actor_id"].hex(),
            class_name=row["class_name"],
            state=_ACTOR_STATES.get(row["state"], row["state"]),
            job_id=row["job_id"].hex(),
            name=row["name"] or "",
            node_id=hex_or_none(row["node_id"]),
            pid=row["pid"] or None,
            ray_namespace=row["namespace"],
            serialized_runtime_env=json.dumps(row["runtime_env"], default=str),
            required_resources=row["resources"],
            death_cause=dict(row["info"]) if row["state"] == "DEAD" else None,
            is_detached=row["detached"],
            placement_group_id=hex_or_none(row["group_id"]),
            repr_name="",
            num_restarts=row["incarnation"],
        )
        for row in source.ask("actors")
    ]


def nodes(source: Source) -> list[NodeState]:
    """Nodes, dead ones, too."""
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
        for row in source.ask("nodes")
    ]


def workers(source: Source) -> list[WorkerState]:
    """Processes of nodes, those that ended lately, and the drivers that run."""
    ips = {row["NodeID"]: row["NodeManagerAddress"] for row in source.ask("nodes")}
    rows = [
        WorkerState(
            worker_id=row["worker_id"].hex(),
            is_alive=True,
            worker_type="WORKER",
            exit_type=None,
            node_id=row["node_id"].hex(),
            ip=ips.get(row["node_id"].hex(), ""),
            pid=row["pid"],
        )
        for row in source.ask("workers")
    ]
    rows += [
        WorkerState(
            worker_id=row["worker_id"].hex(),
            is_alive=False,
            worker_type="WORKER",
            exit_type=_exit_type(row),
            node_id=row["node_id"].hex(),
            ip=ips.get(row["node_id"].hex(), ""),
            pid=row["pid"],
            exit_detail=row["wanted"] or row["cause"],
        )
        for row in source.ask("ended_workers")
    ]
    rows += [
        WorkerState(
            worker_id=row["driver"].hex(),
            is_alive=True,
            worker_type="DRIVER",
            exit_type=None,
            node_id=row["node_id"].hex(),
            ip=ips.get(row["node_id"].hex(), ""),
            pid=row["pid"],
        )
        for row in source.ask("jobs")
        if row["running"]
    ]
    return rows


def _exit_type(row: dict[str, Any]) -> str:
    """How a worker ended, in Ray's words."""
    if row["wanted"]:
        return "INTENDED_SYSTEM_EXIT"
    return "INTENDED_USER_EXIT" if row["code"] == 0 else "SYSTEM_ERROR"


def placement_groups(source: Source) -> list[PlacementGroupState]:
    """Groups and gangs, and those that were removed lately."""
    return [
        PlacementGroupState(
            placement_group_id=row["group_id"].hex(),
            name=row["name"] or "",
            creator_job_id=row["job_id"].hex(),
            state=row["state"],
            bundles=[
                {"bundle_id": {"bundle_index": index}, "unit_resources": bundle, "node_id": hex_or_none(node)}
                for index, (bundle, node) in enumerate(
                    zip(row["bundles"], row["nodes"] or [None] * len(row["bundles"]), strict=True)
                )
            ],
            is_detached=row["detached"],
            stats={"reason": row["reason"]},
        )
        for row in source.ask("groups")
    ]


def jobs(source: Source) -> list[JobState]:
    """Drivers' runs, and submitted jobs."""
    now = time.time()
    rows = [
        JobState(
            type="DRIVER",
            job_id=row["job_id"].hex(),
            submission_id=None,
            driver_info={"id": row["job_id"].hex(), "node_ip_address": row["ip"], "pid": str(row["pid"])},
            status="RUNNING" if row["running"] else "SUCCEEDED",
            entrypoint=row["entrypoint"],
            start_time=int(1000 * (now - row["age_s"])),
            end_time=None if row["running"] else int(1000 * (now - row["age_s"] + row["ran_s"])),
        )
        for row in source.ask("jobs")
    ]
    from spoke.job_submission import details_of

    for row in source.ask("submitted_jobs"):
        found = details_of(row)
        rows.append(
            JobState(
                type="SUBMISSION",
                job_id=None,
                submission_id=found.submission_id,
                driver_info=None,
                status=str(found.status),
                entrypoint=found.entrypoint,
                message=found.message,
                error_type=found.error_type,
                start_time=found.start_time,
                end_time=found.end_time,
            )
        )
    return rows


# -- from the processes


def tasks(source: Source) -> list[TaskState]:
    """Calls: from their callers until they are answered, then from the workers that ran them."""
    processes = source.inspect("tasks")
    places = {facts["process_id"]: facts for facts, _ in processes}
    found: dict[tuple[bytes, int], TaskState] = {}
    at_caller: dict[bytes, dict[str, Any]] = {}
    ran: dict[bytes, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for facts, rows in processes:
        for values in rows:
            row = dict(zip(TASK_FIELDS, values, strict=True))
            if row["ran_here"]:
                ran.setdefault(row["task_id"], []).append((facts, row))
                continue
            at_caller[row["task_id"]] = row
            found[row["task_id"], row["attempt"]] = _task(row, facts, places.get(row["peer"]))
    made = {task_id: ran.pop(task_id)[-1] for task_id in list(ran) if task_id.startswith(CREATION)}
    for task_id, attempts in ran.items():
        attempts.sort(key=lambda one: one[1]["start_us"] or 1 << 62)
        waiting = at_caller.get(task_id)
        # A worker that has just answered may still show the call as under way, too: there are no more
        # attempts than its caller made.
        count = waiting["attempt"] + 1 if waiting is not None else 1
        if len(attempts) > count and attempts[-1][1]["state"] not in (FAILED, FINISHED):
            attempts.pop()
        for number, (facts, row) in enumerate(attempts):
            if waiting is not None and number == len(attempts) - 1:
                number = max(number, waiting["attempt"])
                row = {**row, "parent": waiting["parent"], "name": row["name"] or waiting["name"]}
            known = found.get((task_id, number))
            if known is None or known.state not in (FAILED, FINISHED):
                found[task_id, number] = _task({**row, "attempt": number}, facts, facts)
    return [*found.values(), *_constructors(source, made)]


def _task(row: dict[str, Any], teller: dict[str, Any], place: dict[str, Any] | None) -> TaskState:
    """`teller`: the process that has the row; `place`: the worker that runs, or ran, the call."""
    ended = row["state"] in (FAILED, FINISHED)
    started = row["start_us"]
    return TaskState(
        task_id=row["task_id"].hex(),
        attempt_number=row["attempt"],
        name=row["name"] or row["function"],
        state=row["state"],
        job_id=teller["job_id"].hex(),
        actor_id=hex_or_none(row["actor_id"]),
        type="ACTOR_TASK" if row["actor_id"] else "NORMAL_TASK",
        func_or_class_name=row["function"],
        parent_task_id=hex_or_none(row["parent"]) or _driver_task(teller["job_id"]),
        node_id=place["node_id"].hex() if place else None,
        worker_id=place["process_id"].hex() if place else hex_or_none(row["peer"]),
        worker_pid=place["pid"] if place else None,
        error_type=row["error_type"] or None,
        language="PYTHON",
        profiling_data=_profile(row, place) if started and place and row["ran_here"] else None,
        start_time_ms=started // 1000 if started else None,
        end_time_ms=(started + row["micros"]) // 1000 if started and ended else None,
        error_message=row["message"] or None,
    )


def _profile(row: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    """When the call ran, in milliseconds since the epoch."""
    event = {
        "event_name": f"task::{row['name'] or row['function']}",
        "start_time": row["start_us"] / 1000,
        "end_time": (row["start_us"] + row["micros"]) / 1000,
        "extra_data": {"name": row["function"], "task_id": row["task_id"].hex()},
    }
    return {
        "component_type": "worker",
        "component_id": place["process_id"].hex(),
        "node_ip_address": place["ip"],
        "events": [event],
    }


def _driver_task(job_id: bytes) -> str:
    """The id that Ray gives to a driver's own code."""
    return (b"\xff" * 20 + job_id).hex() if job_id else ""


def _constructors(
    source: Source, made: dict[bytes, tuple[dict[str, Any], dict[str, Any]]]
) -> list[TaskState]:
    """One row for the making of each actor; `made`: what living actors' workers say of it."""
    rows = []
    for row in source.ask("actors"):
        state = {"ALIVE": FINISHED, "RESTARTING": FINISHED, "STARTING": QUEUED}.get(
            row["state"], "PENDING_NODE_ASSIGNMENT"
        )
        failed = row["state"] == "DEAD" and (row["info"] or {}).get("kind") == "constructor"
        if row["state"] == "DEAD":
            state = FAILED if failed else FINISHED
        function = f"{row['class_name']}.__init__"
        task_id = CREATION + row["actor_id"]
        place, told = made.get(task_id, ({}, {"start_us": 0, "micros": 0}))
        rows.append(
            TaskState(
                task_id=task_id.hex(),
                attempt_number=row["incarnation"],
                name=f"{row['name']}:{function}" if row["name"] else function,
                state=state,
                job_id=row["job_id"].hex(),
                actor_id=row["actor_id"].hex(),
                type="ACTOR_CREATION_TASK",
                func_or_class_name=function,
                parent_task_id=_driver_task(row["job_id"]),
                node_id=hex_or_none(row["node_id"]),
                worker_id=hex_or_none(row["worker_id"]),
                worker_pid=row["pid"] or None,
                error_type="TASK_EXECUTION_EXCEPTION" if failed else None,
                language="PYTHON",
                required_resources=row["resources"],
                profiling_data=_profile(told, place) if place else None,
                start_time_ms=told["start_us"] // 1000 or None,
                end_time_ms=(told["start_us"] + told["micros"]) // 1000 or None,
                placement_group_id=hex_or_none(row["group_id"]),
            )
        )
    return rows


def objects(source: Source) -> list[ObjectState]:
    """Every reference of every process."""
    rows = []
    for facts, entries in source.inspect("objects"):
        for values in entries:
            row = dict(zip(OBJECT_FIELDS, values, strict=True))
            if row["object_id"].endswith(ACTOR_SUFFIX) and row["kind"] != "ACTOR_HANDLE":
                continue
            rows.append(
                ObjectState(
                    object_id=row["object_id"].hex(),
                    object_size=-1 if row["size"] is None else row["size"],
                    task_status=row["status"],
                    attempt_number=row["attempt"] + 1,
                    reference_type=row["kind"],
                    call_site="disabled",
                    type="DRIVER" if facts["role"] == "driver" else "WORKER",
                    pid=facts["pid"],
                    ip=facts["ip"],
                    owner_id=row["owner"].hex(),
                    node_id=facts["node_id"].hex(),
                )
            )
    return rows


def runtime_envs(source: Source) -> list[RuntimeEnvState]:
    """The environments of jobs, one row each per node that has a process with it."""
    found: dict[tuple[str, str], RuntimeEnvState] = {}
    for facts, _ in source.inspect("runtime_env"):
        if not facts["runtime_env"]:
            continue
        node_id = facts["node_id"].hex()
        key = (node_id, json.dumps(facts["runtime_env"], sort_keys=True, default=str))
        row = found.setdefault(
            key, RuntimeEnvState(runtime_env=facts["runtime_env"], success=True, node_id=node_id, ref_cnt=0)
        )
        row.ref_cnt = (row.ref_cnt or 0) + 1
    return list(found.values())


def cluster_events(source: Source) -> list[ClusterEventState]:
    """Deaths of nodes and actors."""
    events = [
        ClusterEventState(
            severity="ERROR", time=None, source_type="NODE", message=row.state_message or "",
            event_id=row.node_id, custom_fields={"node_id": row.node_id},
        )
        for row in nodes(source)
        if row.state == "DEAD"
    ]  # fmt: skip
    events += [
        ClusterEventState(
            severity="INFO", time=None, source_type="ACTOR",
            message=str((row.death_cause or {}).get("cause", "")),
            event_id=row.actor_id, custom_fields={"actor_id": row.actor_id, "job_id": row.job_id},
        )
        for row in actors(source)
        if row.state == "DEAD"
    ]  # fmt: skip
    return events
