"""Names of `ray._private.profiling`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_COLORS = {True: "terrible", False: "generic_work"}


@contextmanager
def profile(event_type: str, extra_data: dict[str, Any] | None = None) -> Iterator[None]:
    """Run the block; it does not appear in the timeline, which shows calls only."""
    yield


def chrome_tracing_dump(tasks: Iterable[Any]) -> str:
    """Rows of `list_tasks` with details as JSON that trace viewers open.

    One complete event per call that ran, and the names of the nodes and workers that the events number.
    """
    nodes: dict[str, int] = {}
    workers: dict[tuple[str, str], int] = {}
    events: list[dict[str, Any]] = []
    for task in tasks:
        profile = task["profiling_data"] or {}
        for event in profile.get("events", ()):
            node = nodes.setdefault(profile["node_ip_address"], len(nodes))
            key = (profile["node_ip_address"], f"{profile['component_type']}:{profile['component_id']}")
            worker = workers.setdefault(key, len(workers))
            about = ("attempt_number", "job_id", "actor_id", "func_or_class_name")
            events.append({
                "cat": "task:execute",
                "name": task["func_or_class_name"],
                "pid": node,
                "tid": worker,
                "ts": 1000 * event["start_time"],
                "dur": 1000 * (event["end_time"] - event["start_time"]),
                "ph": "X",
                "cname": _COLORS[bool(task["error_type"])],
                "args": {"task_id": task["task_id"], **{name: task[name] for name in about}},
            })  # fmt: skip
    named = [_named("process_name", f"Node {ip}", number) for ip, number in nodes.items()]
    named += [_named("thread_name", who, nodes[ip], number) for (ip, who), number in workers.items()]
    return json.dumps([*named, *events])


def _named(what: str, text: str, node: int, worker: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"ph": "M", "name": what, "pid": node, "args": {"name": text}}
    if worker is not None:
        found["tid"] = worker
    return found
