"""Every row of Fluster and Mini-Ray has its test, or stands in spoke/DESIGN.md's list of rows left out.

`ROWS` names for each row the tests that hold it: file and function (a case of the conformance suite is a
function as well).  A row that loses its test fails here.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLUSTER, MINI_RAY = 59, 26
CASES = "conformance/cases"

ROWS: dict[str, list[str]] = {
    "F-01": ["test_testing:test_f46_nodes_with_made_up_resources"],
    "F-02": ["test_schedulers:test_simulated_rounds_oversell_nothing_and_repeat_exactly",
             "test_core_jobs:test_equal_events_give_equal_commands"],
    "F-03": ["test_job_submission:test_f03_the_same_job_through_both",
             "test_job_submission:test_nobody_there_is_a_connection_error"],
    "F-04": ["test_jobs:test_f04_a_function_and_its_value", "test_core_jobs:test_f04_names"],
    "F-05": ["test_jobs:test_f05_closures_and_lambdas_run_and_what_does_not_pickle_is_a_type_error"],
    "F-06": ["test_jobs:test_f06_waiting", "test_jobs:test_f06_stream_logs_prints_each_line_once",
             "test_core_jobs:test_f06_a_wait_is_answered_when_it_happens"],
    "F-07": ["test_jobs:test_f07_terminate_prefix_and_list",
             "test_job_submission:test_spoke_job_and_spoke_run",
             "test_core_jobs:test_f07_terminate_prefix_ends_only_that_tree"],
    "F-08": ["test_core_jobs:test_f08_one_table_of_transitions",
             "test_rows_details:test_f08_the_eight_states_as_ray_shows_them",
             "test_rows_details:test_f08_an_unschedulable_job_is_failed_with_its_message"],
    "F-09": ["test_core_jobs:test_f09_two_run_and_two_wait", "test_jobs:test_bad_arguments",
             "test_rows_details:test_f09_one_parser_of_sizes"],
    "F-10": ["test_core_jobs:test_f10_a_cpu_job_runs_on_a_gpu_node"],
    "F-11": ["test_core_jobs:test_f11_a_big_job_holds_up_nobody",
             "test_schedulers:test_fifo_keeps_a_node_for_who_waits_long"],
    "F-12": ["test_jobs:test_f12_scheduling_timeout",
             "test_core_jobs:test_f12_the_clock_begins_anew_with_each_attempt",
             "test_jobs:test_bad_arguments"],
    "F-13": ["test_core_jobs:test_f13_f15_failures_within_their_budget",
             "test_core_jobs:test_f13_preemptions_are_counted_apart",
             "test_core_jobs:test_f13_without_a_budget_the_first_failure_is_the_end",
             "test_core_jobs:test_f23_a_stop_reaches_the_agent_and_ends_when_the_processes_are_gone"],
    "F-14": ["test_core_jobs:test_f14_policy_of_exit_codes_and_delays", "test_jobs:test_f14_bad_policies",
             "test_core_jobs:test_f14_the_pause_is_kept",
             "test_jobs:test_f14_exit_codes_decide"],
    "F-15": ["test_jobs:test_f15_fail_twice_then_succeed",
             "test_core_jobs:test_f15_stale_reports_are_ignored"],
    "F-16": ["test_jobs:test_f16_variables_and_directory", "test_jobs:test_f16_secrets_are_not_forwarded",
             "test_job_envs:test_a_package_that_does_not_exist_fails_the_job_with_pips_words",
             "test_envs:test_pip_installs_once_for_all_and_inherits_what_is_here"],
    "F-17": ["test_env_packages:test_f17_equal_content_has_one_name_and_an_edit_another",
             "test_env_packages:test_f17_a_member_that_escapes_is_a_value_error",
             "test_env_packages:test_f17_other_bytes_than_the_name_says_are_a_value_error",
             "test_env_packages:test_f17_over_the_limit_is_a_value_error_that_names_the_largest",
             "test_envs:test_f17_a_working_dir_travels_without_what_is_ignored",
             "test_envs:test_f17_same_content_is_not_uploaded_again_and_an_edit_is_another_package",
             "test_envs:test_f17_an_interrupted_part_is_made_anew",
             "test_job_envs:test_f17_a_job_runs_in_the_directory_that_came_with_it"],
    "F-18": ["test_envs:test_f18_the_environment_used_longest_ago_goes_first_and_never_one_in_use",
             "test_job_envs:test_f18_jobs_share_what_is_made_once"],
    "F-19": ["test_jobs:test_f19_a_job_over_its_memory_limit_dies_alone_with_137",
             "test_jobs_cgroup:test_f19_the_kernel_ends_a_job_over_its_limit_alone",
             "test_jobs:test_f19_podman_and_docker",
             "test_containers:test_f19_the_kernel_ends_a_container_over_its_memory_alone",
             "test_jobs:test_f19_a_runtime_that_is_not_there_fails_by_name_and_harms_nobody"],
    "F-20": ["test_jobs:test_f20_two_jobs_have_disjoint_ports",
             "test_jobs:test_f20_without_a_free_port_the_attempt_fails_by_name_and_ports_come_back",
             "test_jobs:test_f20_f26_ports_and_context",
             "test_containers:test_f20_a_port_is_open_on_the_nodes_address"],
    "F-21": ["test_jobs:test_f21_injected_variables_cannot_be_spoofed"],
    "F-22": ["test_jobs:test_f22_timeout_is_a_failure",
             "test_rows_details:test_f22_a_timeout_counts_as_a_failure"],
    "F-23": ["test_jobs:test_f23_terminate_ends_every_process_of_the_job",
             "test_jobs:test_f23_who_ignores_sigterm_is_killed_after_the_grace",
             "test_containers:test_f23_sigterm_arrives_and_who_ignores_it_is_killed"],
    "F-24": ["test_core_jobs:test_f24_children_end_with_their_parent_and_before_it",
             "test_jobs:test_f24_a_child_ends_with_its_parent"],
    "F-25": ["test_endpoints:test_f25_names_are_per_namespace", f"{CASES}/names:same_name_in_two_namespaces"],
    "F-26": ["test_jobs:test_f20_f26_ports_and_context",
             "test_endpoints:test_f26_the_context_is_injected_only_where_it_is_asked_for"],
    "F-27": ["test_endpoints:test_f27_register_lookup_list_unregister",
             "test_endpoints:test_f27_only_a_jobs_own_processes_register_for_it",
             "test_endpoints:test_f27_gone_with_its_owner",
             "test_rows_details:test_f27_an_endpoint_is_its_attempts",
             "test_endpoints:test_f27_bad_names",
             "test_endpoints:test_f27_unknown_job"],
    "F-28": ["test_endpoints:test_f28_an_undecorated_object_is_callable_by_name_in_the_cluster",
             "test_endpoints:test_f28_a_slow_method_holds_up_no_other_object_and_no_health_check",
             "test_rows_details:test_f28_a_server_takes_the_jobs_port_unless_one_is_given"],
    "F-29": ["test_endpoints:test_f29_errors_of_the_method_arrive_as_themselves"],
    "F-30": ["test_endpoints:test_f30_health_and_methods"],
    "F-31": ["test_endpoints:test_f31_client_waits_for_the_name",
             "test_rows_details:test_f31_only_the_search_for_the_name_is_repeated_never_the_call"],
    "F-32": ["test_endpoints:test_f32_six_calls_hit_each_of_three_twice",
             "test_endpoints:test_f32_an_empty_pool_says_so"],
    "F-33": ["test_endpoints:test_f33_errors_pass_and_nothing_is_retried",
             "test_endpoints:test_f33_a_dead_member_raises_or_is_passed_over",
             "test_rows_details:test_f33_threads_share_one_round",
             "test_rows_details:test_f33_members_may_come_and_go_under_calls"],
    "F-34": ["test_endpoints:test_f34_broadcast_in_order_of_endpoints",
             "test_endpoints:test_f34_the_timeout_is_for_all_together"],
    "F-35": ["test_endpoints:test_f35_fixed", "test_endpoints:test_f35_cloud",
             "test_endpoints:test_f35_cluster_by_address",
             "test_rows_details:test_f35_a_resolver_that_answers_nothing_or_fails"],
    "F-36": ["test_workerpool:test_f36_map_of_squares",
             "test_workerpool:test_all_workers_dead_is_an_error_and_no_hang",
             "test_workerpool:test_users_exception_is_not_retried_and_the_worker_stays",
             "test_workerpool:test_shutdown_finishes_what_is_queued"],
    "F-37": ["test_workerpool:test_f37_status_size_and_names",
             "test_workerpool:test_resize"],
    "F-38": ["test_workerpool:test_f38_futures"],
    "F-39": ["test_jobs:test_f39_ten_thousand_lines_of_one_millisecond_each_once_in_order",
             "test_jobs:test_f39_tail_grep_since_and_source"],
    "F-40": ["test_jobs:test_f40_a_callback_gets_every_line_and_its_error_ends_nothing",
             "test_jobs:test_f40_stop_returns_within_two_seconds"],
    "F-43": ["test_job_submission:test_f43_a_malformed_range_is_exit_code_2"],
    "F-44": ["test_testing:test_a_job_whose_node_dies_is_tried_again_elsewhere",
             "test_core_jobs:test_a_lost_node_leaves_nothing_booked_and_its_reports_are_not_heard"],
    "F-46": ["test_testing:test_f46_nodes_with_made_up_resources"],
    "F-48": ["test_examples_jobs:test_f48_worker_pool", "test_examples_jobs:test_f48_actor_server",
             "test_examples_jobs:test_f48_job_retries"],
    "F-49": ["test_jobs:test_f49_launch_group",
             "test_core_jobs:test_f49_a_group_with_an_impossible_member_starts_none"],
    "F-50": ["test_schedulers:test_labels_limit_the_nodes"],
    "F-51": ["test_endpoints:test_f51_backoff"],
    "F-52": ["test_endpoints:test_f29_errors_of_the_method_arrive_as_themselves"],
    "F-55": ["test_jobs:test_f55_a_port_that_stops_answering_is_a_failure",
             "test_jobs:test_f55_a_check_that_hangs_is_a_failure",
             "test_rows_details:test_f55_a_failed_health_check_is_tried_again"],
    "F-56": ["test_jobs:test_f56_every_job_has_a_process_of_its_own"],
    "F-58": ["test_examples_jobs:test_f58_elastic_barrier"],
    "F-59": ["test_examples_jobs:test_f59_rl_weights_in_two_runs_that_do_not_see_each_other",
             "test_examples_jobs:test_f59_rl_weights_as_a_user_runs_it"],
    "M-01": [f"{CASES}/tasks:positional", f"{CASES}/tasks:many_tasks_keep_their_results",
             f"{CASES}/errors:as_instanceof_cause",
             f"{CASES}/errors:retries_run_out"],
    "M-02": [f"{CASES}/objects:get_of_a_list", f"{CASES}/objects:get_timeout",
             f"{CASES}/objects:get_of_a_plain_value",
             f"{CASES}/lifecycle:objects_of_a_dead_actor_are_named_lost"],
    "M-03": [f"{CASES}/refs:fan_in", f"{CASES}/errors:through_a_dependency",
             f"{CASES}/errors:through_two_tasks"],
    "M-04": [f"{CASES}/actors:state_is_kept", f"{CASES}/actors:missing_method"],
    "M-05": [f"{CASES}/actors:calls_run_in_order",
             "test_examples_jobs:test_m25_actor_counter",
             f"{CASES}/concurrency:threads_are_bounded"],
    "M-06": [f"{CASES}/objects:put_and_get_plain_values", f"{CASES}/objects:put_of_a_ref",
             "test_objects:test_MEM_2_what_was_got_cannot_be_written",
             "test_objects:test_a_full_store_says_so_and_works_again"],
    "M-07": [f"{CASES}/refs:large_argument_by_ref", f"{CASES}/objects:put_takes_a_copy",
             "test_rows_details:test_m07_readers_of_one_array_share_its_memory"],
    "M-09": [f"{CASES}/refs:equality_and_hash",
             "test_names:test_ids"],
    "M-10": [f"{CASES}/refs:shape_of_a_ref", f"{CASES}/refs:future_of_a_ref",
             "test_objects:test_REF_1_a_block_is_reused_only_when_its_last_reader_let_go",
             f"{CASES}/refs:pickled_ref_outside_of_a_call"],
    "M-11": [f"{CASES}/errors:exception_tree"],
    "M-12": ["test_wire:test_golden_bytes",
             "test_wire:test_truncated_and_extended_bytes",
             "test_wire:test_random_bytes_give_a_message_or_ProtocolError"],
    "M-15": ["test_localmode:test_m15_it_runs_in_this_process", "test_localmode:test_the_same_exceptions"],
    "M-16": [f"{CASES}/refs:same_ref_twice_as_argument", f"{CASES}/refs:nested_is_not_resolved",
             "test_rows_details:test_m16_a_task_waits_for_the_refs_it_is_given_and_runs_once",
             f"{CASES}/cancel:dependents_fail_too"],
    "M-17": [f"{CASES}/names:get_actor_by_name", f"{CASES}/names:unknown_name",
             f"{CASES}/names:list_named_actors"],
    "M-18": ["test_schedulers:test_fifo_order_on_one_slot",
             "test_schedulers:test_locality_goes_where_the_data_are",
             "test_core_hub:test_locality_then_own_node_then_least_used"],
    "M-21": [f"{CASES}/errors:retry_after_a_crash",
             f"{CASES}/errors:retry_exceptions_true"],
    "M-22": ["test_job_submission:test_spoke_job_and_spoke_run"],
    "M-23": ["test_examples_jobs:test_m23_wordcount_equals_counter"],
    "M-24": ["test_examples_jobs:test_m24_pi"],
    "M-25": ["test_examples_jobs:test_m25_actor_counter",
             f"{CASES}/names:get_actor_by_name"],
}  # fmt: skip

ALL = [f"F-{n:02d}" for n in range(1, FLUSTER + 1)] + [f"M-{n:02d}" for n in range(1, MINI_RAY + 1)]


@functools.cache
def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def has_test(place: str) -> bool:
    """Whether a place, as in `ROWS`, is there."""
    file, name = place.split(":")
    return name in _functions(ROOT / "tests" / f"{file}.py")


def _left_out() -> set[str]:
    text = (ROOT / "spoke/DESIGN.md").read_text(encoding="utf-8")
    section = text.split("## Rows left out", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"\b[FM]-\d\d\b", section))


@pytest.mark.parametrize("row", ALL)
def test_the_row_has_its_test_or_is_left_out_by_name(row: str) -> None:
    left_out = _left_out()
    if row not in ROWS:
        assert row in left_out, f"{row} has no test and does not stand in spoke/DESIGN.md, 'Rows left out'"
        return
    assert row not in left_out, f"{row} has a test and is listed as left out"
    for place in ROWS[row]:
        assert has_test(place), f"{row}: there is no {place}"
