"""Where Spoke answers otherwise than Ray on purpose: the reason, and what Spoke answers.

Keys are ``area/case``.  A case that is here and agrees with Ray fails, so that the table stays true.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A deliberate difference."""

    reason: str
    spoke: Any


_LOOPBACK = "a cluster of one machine listens on the loopback, and its own address says so"
_OK = {"value": "defined"}
_VALUE_ERROR = {"error": "ValueError"}
_TYPE_ERROR = {"error": "TypeError"}

DIFFERENCES: dict[str, Difference] = {
    "client_calls/ids_of_groups_have_no_order": Difference(
        "ids of one kind have an order, so that they can be sorted", [{"value": True}, True, True]
    ),
    "client_calls/a_method_with_a_direct_transport": Difference(
        "direct transports are Spoke's own and need no further library; Ray's needs nixl",
        [{"value": 1}, {"error": "ValueError", "is": ["ValueError"]}, True, True],
    ),
    "client_imports/names_that_are_not_there": Difference(
        "Ray's log monitor and the patches of its environments' modules reach into files that Spoke has not; "
        "ray.internal.free and two names of older versions of Ray are there",
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
    "client_imports/a_name_from_the_wrong_module": Difference(
        "programs for older versions of Ray import it from there", {"value": None}
    ),
    "client_imports/addresses_of_the_worker": Difference(_LOOPBACK, [True, False, True, True, True]),
    "clients/addresses": Difference(_LOOPBACK, [False, True, True]),
    "collectives/barrier_and_second_group": Difference(
        "src_rank is a rank of the group that the call names; Ray takes it for one of the first group",
        [[[1.0], 0, 1], [[1.0], 1, 0]],
    ),
    "concurrency/unknown_concurrency_group": Difference(
        "a wrong name of a group refuses the call; Ray ends the actor",
        {"error": "RayTaskError(ValueError)", "is": ["ValueError"]},
    ),
    "environments/variables_are_refused_in_a_method": Difference(
        "an unknown option of a method is a ValueError that names the known ones, as elsewhere",
        {"error": "ValueError"},
    ),
    "errors/a_cancelled_error_of_the_users": Difference(
        "an error of a task never counts as the cancellation of the coroutine that awaits it",
        {"tuple": [[True, False], "CancelledError"]},
    ),
    "errors/task_error_pickles": Difference(
        "errors pickle, so that they can be results, arguments and log records",
        {"error": "RayTaskError(ValueError)", "has": ["text"], "is": ["RayTaskError", "ValueError"]},
    ),
    "generators/more_items_than_returns": Difference(
        "items beyond num_returns fail the call, as values of a list do; Ray drops them",
        [{"error": "RayTaskError(ValueError)", "is": ["ValueError"]}] * 2,
    ),
    "generators/yield_from": Difference("yield from an iterator works as in plain Python", [1, 2, 3]),
    "graphs/collective_nodes": Difference(
        "a node that only compiled graphs run is a RuntimeError, of which Ray's kind is a subclass",
        [
            ["CollectiveOutputNode", "CollectiveOutputNode"],
            True,
            {"error": "RuntimeError", "has": ["only supported with dag.experimental_compile()"]},
            {"error": "ValueError", "has": ["unique actor handles"]},
            {"error": "ValueError", "has": ["Unexpected operation: x"]},
        ],
    ),
    "graphs/compile_of_functions": Difference(
        "a node of the wrong kind is a TypeError",
        {"error": "TypeError", "has": ["only support actor method nodes"], "is": []},
    ),
    "graphs/several_outputs_of_no_nodes": Difference(
        "an output that is no node is refused where it is given; Ray fails when the graph runs",
        {"error": "ValueError", "is": ["ValueError"]},
    ),
    "graphs/wrong_key_of_the_input": Difference(
        "a wrong key is a ValueError; Ray asserts", {"error": "ValueError", "is": ["ValueError"]}
    ),
    "job_environments/a_local_directory_at_a_task": Difference(
        "a local directory may be given to a task as well; Ray takes it from the job alone",
        {"value": ["own"]},
    ),
    "metrics/pickled": Difference("a metric keeps its default tags where it is passed on", "pickled_counter"),
    "options/num_gpus": Difference(
        "1.5 GPUs are refused at the definition; Ray refuses at the submission",
        [_VALUE_ERROR, _TYPE_ERROR, _OK, _VALUE_ERROR],
    ),
    "options/num_returns": Difference(
        "a wrong word is a wrong value; Ray compares it with a number by accident",
        [_VALUE_ERROR, _VALUE_ERROR, _OK, _TYPE_ERROR, _VALUE_ERROR, _VALUE_ERROR, _OK],
    ),
    "options/placement_group_bundle_index": Difference(
        "a bundle of no group is refused at the definition; Ray refuses at the submission",
        [_OK, _VALUE_ERROR, _OK, _OK],
    ),
    "options/scheduling_strategy": Difference(
        "an unknown strategy is refused at the definition; Ray refuses at the submission",
        [_OK, _OK, _VALUE_ERROR, _TYPE_ERROR],
    ),
    "pools/imap_error_and_on": Difference(
        "an iterator raises what the function raised, as multiprocessing does; Ray yields an object",
        [{"value": 1.0}, {"error": "ZeroDivisionError", "is": ["ZeroDivisionError"]}, {"value": 0.5}],
    ),
    "semantics/dynamic_returns_of_a_failure": Difference(
        "a call that fails raises; Ray returns a generator whose last ref raises",
        {"error": "RayTaskError(ValueError)", "is": ["ValueError"]},
    ),
    "serialization/shared_identity_in_one_value": Difference(
        "one object twice in one value stays one object, as in plain pickle", True
    ),
    "serialization/identity_is_not_shared_between_arguments": Difference(
        "the arguments of one call are one value, as in a local call", True
    ),
}
