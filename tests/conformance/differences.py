"""Where Spoke answers otherwise than Ray on purpose: the reason, and what Spoke answers.

Keys are ``area/case``.  A case that is here and agrees with Ray fails, so that the table stays true.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A deliberate difference."""

    reason: str
    spoke: Any


DIFFERENCES: dict[str, Difference] = {
    "client_calls/a_method_with_a_direct_transport": Difference(
        "direct transports are Spoke's own and need no further library; Ray's needs nixl",
        [{"value": 1}, {"error": "ValueError", "is": ["ValueError"]}, True, True],
    ),
    "client_imports/names_that_are_not_there": Difference(
        "Ray's log monitor and the patches of its environments' modules reach into files that Spoke has not; "
        "ray.internal.free, older names and the strategy in ray.util.placement_group are there",
        [
            "LOCAL_MODE",
            "ActorHandle",
            "_private.log_monitor.LogFileInfo",
            "_private.log_monitor.LogMonitor",
            "_private.log_monitor.RAY_RUNTIME_ENV_LOG_TO_DRIVER_ENABLED",
            "_private.log_monitor.RUNTIME_ENV_SETUP_PATTERN.match",
            "_private.log_monitor.WORKER_LOG_PATTERN.match",
            "_private.log_monitor.is_proc_alive",
            "_private.runtime_env.nsight",
            "_private.runtime_env.packaging",
        ],
    ),
    "client_imports/addresses_of_the_worker": Difference(
        "a cluster of one machine listens on the loopback, and its own address says so",
        [True, False, True, True, True, False],
    ),
    "collectives/barrier_and_second_group": Difference(
        "src_rank is a rank of the group that the call names; Ray takes it for one of the first group",
        [[[1.0], 0, 1], [[1.0], 1, 0]],
    ),
    "concurrency/unknown_concurrency_group": Difference(
        "a wrong name of a group refuses the call; Ray ends the actor",
        {"error": "RayTaskError(ValueError)", "is": ["ValueError"]},
    ),
    "errors/a_cancelled_error_of_the_users": Difference(
        "an error of a task never counts as the cancellation of the coroutine that awaits it",
        {"tuple": [[True, False], "CancelledError"]},
    ),
    "errors/task_error_pickles": Difference(
        "errors pickle, so that they can be results, arguments and log records",
        {"error": "RayTaskError(ValueError)", "has": ["text"], "is": ["RayTaskError", "ValueError"]},
    ),
    "generators/yield_from": Difference("yield from an iterator works as in plain Python", [1, 2, 3]),
    "job_environments/a_local_directory_at_a_task": Difference(
        "a local directory may be given to a task as well; Ray takes it from the job alone",
        {"value": ["own"]},
    ),
    "metrics/pickled": Difference("a metric keeps its default tags where it is passed on", "pickled_counter"),
    "serialization/identity_within_a_value_and_between_arguments": Difference(
        "one object twice in a value, or in the arguments of a call, stays one object, as in plain pickle",
        [True, True],
    ),
}
