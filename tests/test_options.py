"""Options are parsed once, at decoration; wrong ones fail there with Ray's exception types."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spoke.ids import PlacementGroupID
from spoke.options import (
    ACTOR,
    CALL,
    COMMON,
    DYNAMIC,
    STREAMING,
    TASK,
    ActorOptions,
    MethodOptions,
    TaskOptions,
    parse_num_returns,
)
from spoke.util.placement_group import PlacementGroup
from spoke.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "ab" * 28


def group(*bundles: dict[str, float]) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID(b"g" * 18), list(bundles))


# Names and defaults of Ray 2.60, so that a name cannot be lost by accident.
RAY_TASK = {
    "label_selector",
    "fallback_strategy",
    "accelerator_type",
    "memory",
    "name",
    "num_cpus",
    "num_gpus",
    "object_store_memory",
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
    "resources",
    "runtime_env",
    "scheduling_strategy",
    "enable_task_events",
    "_labels",
    "max_calls",
    "max_retries",
    "num_returns",
    "retry_exceptions",
    "_generator_backpressure_num_objects",
    "_num_objects_per_yield",
}
RAY_ACTOR = {
    "concurrency_groups",
    "enable_tensor_transport",
    "lifetime",
    "max_concurrency",
    "max_restarts",
    "max_task_retries",
    "max_pending_calls",
    "namespace",
    "get_if_exists",
    "allow_out_of_order_execution",
    "_actor_generator_backpressure_num_objects",
}


def test_every_option_of_ray_is_known() -> None:
    assert set(TASK) == RAY_TASK
    assert set(ACTOR) == RAY_ACTOR | set(COMMON)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_cpus": float("nan")}, ValueError),
        ({"num_cpus": float("inf")}, OverflowError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_gpus": -1}, ValueError),
        ({"memory": -1}, ValueError),
        ({"memory": "a"}, TypeError),
        ({"object_store_memory": 1}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"GPU": 1}}, ValueError),
        ({"resources": {"x": -1}}, ValueError),
        ({"resources": {"x": "a"}}, TypeError),
        ({"resources": {3: 1}}, TypeError),
        ({"resources": 3}, TypeError),
        ({"name": 3}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": "a"}, TypeError),
        ({"num_returns": -1}, ValueError),
        ({"num_returns": 1.5}, TypeError),
        ({"num_returns": "streaming"}, ValueError),
        ({"num_returns": "dynamic"}, ValueError),
        ({"max_calls": -1}, ValueError),
        ({"retry_exceptions": ValueError}, TypeError),
        ({"retry_exceptions": [3]}, ValueError),
        ({"runtime_env": 3}, TypeError),
        ({"runtime_env": {"env_vars": {"a": 1}}}, TypeError),
        ({"runtime_env": {"env_vars": {"a=b": "1"}}}, ValueError),
        ({"runtime_env": {"pip": ["a"], "conda": "b"}}, ValueError),
        ({"scheduling_strategy": 3}, TypeError),
        ({"placement_group": 3}, TypeError),
        ({"label_selector": {"a": 3}}, TypeError),
        ({"label_selector": {"a": "in(x"}}, ValueError),
        ({"fallback_strategy": [3]}, ValueError),
        ({"fallback_strategy": [{}]}, ValueError),
        ({"fallback_strategy": [{"label_selector": {"a": 1}}]}, TypeError),
        ({"enable_task_events": 3}, TypeError),
        ({"max_restarts": 1}, ValueError),
    ],
)
def test_wrong_task_options(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        TaskOptions(given)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "given",
    [
        {"num_gpus": 1.5},
        {"scheduling_strategy": "x"},
        {"placement_group_bundle_index": 1},
        {"placement_group": "x"},
    ],
)
def test_what_cannot_be_placed_fails_at_the_submission(given: dict[str, Any]) -> None:
    for options in (TaskOptions(given), ActorOptions(given)):
        for _ in range(2):
            with pytest.raises(ValueError) as caught:
                options.scheduling_spec()
            assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_restarts": -2}, ValueError),
        ({"max_restarts": "a"}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"max_concurrency": -1}, ValueError),
        ({"max_pending_calls": -2}, ValueError),
        ({"lifetime": "x"}, ValueError),
        ({"lifetime": 3}, TypeError),
        ({"get_if_exists": True}, ValueError),
        ({"get_if_exists": 3}, TypeError),
        ({"concurrency_groups": {"io": 0}}, ValueError),
        ({"num_returns": 1}, ValueError),
        ({"max_retries": 1}, ValueError),
    ],
)
def test_wrong_actor_options(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        ActorOptions(given)
    assert type(caught.value) is error


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"num_cpuss .*'num_cpus'"):
        TaskOptions({"num_cpuss": 1})
    with pytest.raises(ValueError, match="'max_restarts'"):
        ActorOptions({"max_restart": 1})


def test_defaults_of_tasks() -> None:
    options = TaskOptions({})
    assert options.resources == {"CPU": 1.0}
    assert (options.num_returns, options.max_retries, options.max_calls) == (1, 3, 0)
    assert options.retry_on is None
    assert options.inherits_group
    spec = options.scheduling_spec()
    assert spec == {"resources": {"CPU": 1.0}, "strategy": None, "env": {}}
    assert options.scheduling_spec() is spec, "built once"


def test_resources_of_tasks() -> None:
    options = TaskOptions({"num_cpus": 0, "num_gpus": 0.5, "memory": 100, "resources": {"x": 2, "y": 0}})
    assert options.resources == {"GPU": 0.5, "memory": 100.0, "x": 2.0}
    assert TaskOptions({"accelerator_type": "H100"}).resources == {"CPU": 1.0, "accelerator_type:H100": 0.001}


@pytest.mark.parametrize(
    ("given", "held", "placed"),
    [
        ({}, {}, {"CPU": 1.0}),
        ({"num_cpus": 1}, {"CPU": 1.0}, {"CPU": 1.0}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_gpus": 1}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        ({"num_gpus": 0}, {"CPU": 1.0}, {"CPU": 1.0}),
        ({"resources": {"x": 1}}, {"CPU": 1.0, "x": 1.0}, {"CPU": 1.0, "x": 1.0}),
        ({"resources": {}}, {}, {"CPU": 1.0}),
        ({"memory": 100}, {"memory": 100.0}, {"memory": 100.0, "CPU": 1.0}),
    ],
)
def test_resources_of_actors(given: dict[str, Any], held: dict[str, float], placed: dict[str, float]) -> None:
    options = ActorOptions(given)
    assert options.resources == held
    assert options.placement_resources == placed
    spec = options.scheduling_spec()
    assert spec["resources"] == held
    assert spec["placement_resources"] == placed


def test_specs_are_plain_values() -> None:
    strategy = NodeLabelSchedulingStrategy(
        {"a": In("x"), "b": NotIn("y")}, soft={"c": Exists(), "d": DoesNotExist()}
    )
    options = TaskOptions(
        {"scheduling_strategy": strategy, "label_selector": {"k": "!in(a,b)"}, "max_calls": 1}
    )
    spec = options.scheduling_spec({"env_vars": {"A": "1"}, "working_dir": "/w"})
    assert json.loads(json.dumps(spec)) == spec
    assert spec["max_calls"] == 1
    assert spec["strategy"]["hard"]["b"] == {"op": "not_in", "values": ["y"]}
    assert spec["env"]["A"] == "1"
    assert "working_dir" in spec["env"]["SPOKE_RUNTIME_ENV"]


def test_runtime_env_of_job_and_task_add_up() -> None:
    options = TaskOptions({"runtime_env": {"env_vars": {"B": "2", "A": "3"}}})
    assert options.scheduling_spec({"env_vars": {"A": "1", "C": "4"}})["env"] == {
        "A": "3",
        "B": "2",
        "C": "4",
    }


def test_placement_group_strategies() -> None:
    two = group({"CPU": 1.0}, {"GPU": 1.0})
    spec = TaskOptions(
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(two, 0, True)}
    ).scheduling_spec()
    assert spec["strategy"] == {"kind": "group", "group_id": b"g" * 18, "index": 0, "capture": True}
    assert TaskOptions({"placement_group": two}).scheduling_spec()["strategy"]["index"] == -1
    for wrong in (
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(two, 2)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(two, -2)},
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(two, 0), "num_cpus": 2},
    ):
        options = TaskOptions(wrong)
        with pytest.raises(ValueError, match="group"):
            options.scheduling_spec()
    with pytest.raises(ValueError, match="group"):
        TaskOptions({"scheduling_strategy": "SPREAD", "placement_group": two})


def test_inheriting_the_group() -> None:
    assert not TaskOptions({"scheduling_strategy": "DEFAULT"}).inherits_group
    assert not TaskOptions({"placement_group": None}).inherits_group
    assert TaskOptions({"placement_group": "default"}).inherits_group


def test_node_affinity() -> None:
    spec = TaskOptions(
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=False)}
    ).scheduling_spec()
    assert spec["strategy"] == {"kind": "node", "node_id": bytes.fromhex(NODE), "soft": False, "now": False}
    with pytest.raises(ValueError, match="node_id"):
        NodeAffinitySchedulingStrategy("zz", soft=False)
    with pytest.raises(ValueError, match="str"):
        In(3)  # type: ignore[arg-type]


def test_updated_keeps_and_replaces() -> None:
    options = TaskOptions({"num_cpus": 2, "name": "a"}).updated({"name": "b"})
    assert (options.resources, options.name) == ({"CPU": 2.0}, "b")
    actor = ActorOptions({"max_restarts": 2}).updated({"max_concurrency": 3})
    assert (actor.max_restarts, actor.max_concurrency) == (2, 3)
    with pytest.raises(ValueError, match="concurrency_groups"):
        actor.updated({"concurrency_groups": {"io": 1}})


def test_num_returns() -> None:
    assert parse_num_returns(None, False) == 1
    assert parse_num_returns(None, True) == STREAMING
    assert parse_num_returns("dynamic", True) == DYNAMIC
    assert parse_num_returns(0, True) == 0
    with pytest.raises(TypeError, match="streaming"):
        parse_num_returns("many", True)


def test_retry_on() -> None:
    options = TaskOptions({"retry_exceptions": [KeyError]})
    assert options.retry_on is not None
    assert options.retry_on(KeyError("k"))
    assert not options.retry_on(ValueError("v"))


def test_method_options() -> None:
    options = MethodOptions({"num_returns": 2, "concurrency_group": "io"})
    assert (options.num_returns, options.concurrency_group, options.max_task_retries) == (2, "io", None)
    assert options.updated({"name": "n"}).name == "n"
    for given, error in (
        ({"num_returns": -1}, ValueError),
        ({"tensor_transport": "z"}, ValueError),
        ({"concurrency_group": 3}, TypeError),
        ({"zz": 1}, TypeError),
    ):
        with pytest.raises(error):
            MethodOptions(given)  # type: ignore[arg-type]
    assert "name" in CALL


def test_actor_names() -> None:
    ActorOptions({"name": "a"}).check_names()
    for given in ({"name": ""}, {"name": "x" * 256}, {"name": "a", "namespace": ""}):
        with pytest.raises(ValueError, match="name"):
            ActorOptions(given).check_names()
