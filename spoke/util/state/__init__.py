"""What is in the cluster: lists, single rows and summaries of actors, nodes, workers, groups, jobs.

The hub answers from what it keeps anyway.  Calls and refs are known to their owners alone, so
`list_tasks` and `list_objects` show those of this process.

Filters are ``(field, "=" or "!=", value)`` and compare without regard to case.  Every function takes an
`address` only to be called as Ray's: the answer is from the cluster that this process is in.
"""

from __future__ import annotations

from spoke import absent
from spoke.util.state.api import (
    StateApiClient as StateApiClient,
)
from spoke.util.state.api import (
    get_actor,
    get_job,
    get_log,
    get_node,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_cluster_events,
    list_jobs,
    list_logs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_runtime_envs,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)

__all__ = [
    "StateApiClient",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]

__getattr__ = absent.getter(__name__)
