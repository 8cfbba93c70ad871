"""Bad input of gangs and placement groups: each its own clear error, at the caller, as Ray names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import spoke
from spoke import wire
from spoke.exceptions import ActorPlacementGroupRemoved, ActorUnschedulableError, TaskPlacementGroupRemoved
from spoke.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.hub_harness import one_node

NAN, INF = float("nan"), float("inf")


class Plain:
    """An actor."""

    def one(self) -> int:
        return 1


def one() -> int:
    return 1


@pytest.fixture(scope="module", autouse=True)
def cluster(spoke_cluster: Any) -> Iterator[None]:
    yield
    assert spoke.available_resources()["CPU"] == 4.0, "a refused request took something"


@pytest.mark.parametrize(
    ("bundles", "says"),
    [
        ([], "empty list"), (None, "must be a list"), ([{}], "empty dictionary"), ([{"CPU": 0}], "only 0"),
        ([3], "resource dictionaries"), ([{"CPU": "1"}], "resource dictionaries"), ([{1: 1}], "dictionaries"),
        ([{"CPU": -1}], "negative"), ([{"CPU": NAN}], "NaN"), ([{"GPU": 1.5}], "whole numbers"),
    ],
)  # fmt: skip
def test_bundles(bundles: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        placement_group(bundles)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"strategy": "BEST"}, ValueError, "Invalid placement group strategy BEST"),
        ({"lifetime": "long"}, ValueError, "lifetime"),
        ({"name": 3}, TypeError, "must be a string"),
        ({"_soft_target_node_id": "ab"}, ValueError, "STRICT_PACK"),
        ({"bundle_label_selector": []}, ValueError, "length"),
        ({"bundle_label_selector": "x"}, ValueError, "must be a list"),
        ({"bundle_label_selector": [{"a": 3}]}, ValueError, "expected text to text"),
        ({"topology_strategy": 3}, ValueError, "must be a dict"),
        ({"topology_strategy": {"rack": "PACK"}}, ValueError, "only 'STRICT_PACK'"),
        ({"topology_strategy": {"rack": "X"}}, ValueError, "Invalid topology strategy"),
        ({"topology_strategy": {"a": "STRICT_PACK", "b": "STRICT_PACK"}}, ValueError, "one label"),
        ({"topology_strategy": {3: "STRICT_PACK"}}, ValueError, "labels for keys"),
        ({"topology_strategy": {}, "strategy": "PACK"}, ValueError, "exclude each other"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        placement_group([{"CPU": 1}], **options)


def test_infinite_amounts() -> None:
    with pytest.raises(OverflowError, match="infinite"):
        placement_group([{"CPU": INF}])
    with pytest.raises(ValueError, match="infinite"):
        spoke.gang_allocate(1, 1, {"CPU": INF})


def test_what_is_no_group() -> None:
    with pytest.raises(TypeError, match="a PlacementGroup is needed, not str"):
        InGroup("x")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="a PlacementGroup is needed, not str"):
        remove_placement_group("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="non-empty"):
        get_placement_group("")
    with pytest.raises(ValueError, match="nope"):
        get_placement_group("nope")


def test_indices_sizes_and_the_removed() -> None:
    group = placement_group([{"CPU": 1}])
    assert spoke.get(group.ready(), timeout=30) == group
    task, actor = spoke.remote(one), spoke.remote(Plain)
    for index in (1, 5, -2):
        for target in (task, actor):
            with pytest.raises(ValueError, match=f"bundle index {index} is invalid"):
                target.options(scheduling_strategy=InGroup(group, index)).remote()
    for index in (-1, 0):
        with pytest.raises(ValueError, match="cannot fit into any bundles"):
            task.options(num_cpus=2, scheduling_strategy=InGroup(group, index)).remote()
    remove_placement_group(group)
    remove_placement_group(group)
    with pytest.raises(TaskPlacementGroupRemoved):
        spoke.get(task.options(scheduling_strategy=InGroup(group)).remote(), timeout=30)
    with pytest.raises(ActorPlacementGroupRemoved):
        spoke.get(actor.options(scheduling_strategy=InGroup(group)).remote().one.remote(), timeout=30)
    with pytest.raises(TaskPlacementGroupRemoved):
        spoke.get(group.ready(), timeout=30)
    assert group.wait(1) is False
    assert placement_group_table(group)["state"] == "REMOVED"


def test_a_bundle_that_no_node_could_ever_hold_waits_with_its_reason() -> None:
    """As in Ray it stays pending: a node that holds it may come."""
    group = placement_group([{"CPU": 100}])
    assert not group.wait(0.2)
    row = placement_group_table(group)
    assert row["state"] == "PENDING" and "larger than every node" in row["stats"]["reason"]
    remove_placement_group(group)
    with pytest.raises(ActorUnschedulableError, match="larger than every node"):
        spoke.gang_allocate(1, 1, {"CPU": 100}, timeout=0)
    with pytest.raises(ActorUnschedulableError, match="label 'rack'"):
        spoke.gang_allocate(1, 1, same="rack", timeout=0)


def test_topology_strategy_of_a_group() -> None:
    group = placement_group([{"CPU": 1}] * 2, topology_strategy={"ray.io/node-id": "STRICT_PACK"})
    assert group.wait(30) and placement_group_table(group)["strategy"] == "STRICT_PACK"
    remove_placement_group(group)


def test_a_ticket_of_another_job_takes_no_ranks() -> None:
    hub, node, owner = one_node(4.0)
    other = hub.driver("other", node)
    group = hub.group(owner, "gang", [{"CPU": 1.0}], "STRICT_PACK", gang={"restart": "none"})
    strategy = {"kind": "group", "group_id": group, "index": 0, "rank": 0, "incarnation": 0}
    hub.actor(other, "thief", {"strategy": strategy}, CPU=1.0)
    (state,) = [one for one in hub.take(other, wire.ACTOR_STATE) if one[2] == "DEAD"]
    assert "belongs to job" in state[5]["cause"]
    hub.ready(hub.actor(owner, "rank", {"strategy": strategy}, CPU=1.0))


def test_the_hub_refuses_what_a_wrong_client_might_send() -> None:
    """The checks at the caller are for its sake; the hub relies on none of them."""
    hub, _, driver = one_node(4.0, GPU=2.0)
    specs: list[dict[str, Any]] = [
        {"bundles": []}, {"bundles": [{}]}, {"bundles": [{"CPU": -1.0}]}, {"bundles": [{"CPU": NAN}]},
        {"bundles": [{"CPU": 1.0}], "strategy": "BEST"}, {"bundles": [{"CPU": 1.0}], "per_node": 0},
        {"bundles": [{"CPU": 1.0}] * 3, "strategy": "STRICT_SPREAD", "per_node": 2},
        {"bundles": [{"CPU": 1.0}], "same": 3}, {"bundles": [{"CPU": 1.0}], "same": "numa"},
        {"bundles": [{"CPU": 1.0}] * 2, "same": "node", "strategy": "STRICT_SPREAD"},
        {"bundles": [{"GPU": 1.0}], "devices": [[0]]}, {"bundles": [{"GPU": 1.0}], "devices": 3},
        {"bundles": [{"GPU": 1.0}], "devices": [[0, 1]], "strategy": "STRICT_PACK"},
        {"bundles": [{"GPU": 2.0}], "devices": [[1, 1]], "strategy": "STRICT_PACK"},
        {"bundles": [{"CPU": 1.0}], "selectors": [{}, {}]},
        {"bundles": [{"CPU": 1.0}], "selectors": [{"a": 3}]},
        {"bundles": [{"CPU": 1.0}], "gang": {"restart": "sometimes"}},
    ]  # fmt: skip
    for number, spec in enumerate(specs):
        group_id = b"%018d" % number
        hub.say(driver, wire.CREATE_GROUP, group_id, {**spec, "request_id": number})
        (answer,) = hub.take(driver, wire.RESPONSE)
        assert answer[2] is not None and answer[2][0] == "ValueError", spec
        assert group_id not in hub.hub.state.groups
