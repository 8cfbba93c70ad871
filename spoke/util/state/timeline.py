"""When which worker ran which call, as events of the Chrome trace format (chrome://tracing, Perfetto).

One complete event (``ph`` "X") per call: ``pid`` is the node's address, ``tid`` the worker, ``ts`` and
``dur`` are microseconds.  Workers remember their latest calls, `limits.ENDED_CALLS_KEPT` each.
"""

from __future__ import annotations

import json
from typing import Any

from spoke.util.state.common import DEFAULT_RPC_TIMEOUT
from spoke.util.state.rows import tasks
from spoke.util.state.source import looking


def events(address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT) -> list[dict[str, Any]]:
    """All remembered calls that have ended, by start.

    Raises:
        ServerUnavailable: there is no cluster to ask.
    """
    with looking(address, timeout) as source:
        rows = tasks(source)
    found = [
        _event(row, profile, event)
        for row in rows
        if (profile := row.profiling_data) is not None
        for event in profile["events"]
    ]
    return sorted(found, key=lambda event: float(event["ts"]))


def _event(row: Any, profile: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    return {
        "cat": event["event_name"],
        "name": row.func_or_class_name.rpartition(".")[2],
        "pid": profile["node_ip_address"],
        "tid": f"{profile['component_type']}:{profile['component_id']}",
        "ts": 1000.0 * event["start_time"],
        "dur": 1000.0 * (event["end_time"] - event["start_time"]),
        "ph": "X",
        "cname": "terrible" if row.error_type else "generic_work",
        "args": event["extra_data"],
    }


def write(filename: str, found: list[dict[str, Any]]) -> None:
    """Write events into a file that trace viewers open.

    Raises:
        OSError: it cannot be written.
    """
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(found, file)
