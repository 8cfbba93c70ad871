"""Gang policies in the hub alone: every step audited, time in the test's hands."""

from __future__ import annotations

from typing import Any

import pytest

from spoke import wire
from tests.hub_harness import Harness


def gang(hub: Harness, driver: bytes, size: int = 3, **policy: Any) -> bytes:
    spec = {"restart": "none", "max_restarts": 1, "window_s": 100.0, **policy}
    bundles = [{"CPU": 1.0, "GPU": 1.0}] * size
    return hub.group(driver, "gang", bundles, "STRICT_PACK", gang=spec)


def rank(hub: Harness, driver: bytes, group: bytes, number: int, incarnation: int = 0, **spec: Any) -> bytes:
    strategy = {"kind": "group", "group_id": group, "index": number}
    strategy.update(rank=number, incarnation=incarnation)
    label = f"a{number}.{incarnation}"
    return hub.actor(driver, label, {"strategy": strategy, **spec}, CPU=1.0, GPU=1.0)


def start(**policy: Any) -> tuple[Harness, bytes, bytes, bytes, list[bytes], list[bytes]]:
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    group = gang(hub, driver, **policy)
    more = {"max_restarts": -1} if policy.get("restart") == "member" else {}
    ranks = [rank(hub, driver, group, number, **more) for number in range(3)]
    workers = [hub.ready(one) for one in ranks]
    hub.take(driver, wire.GROUP_STATE)
    return hub, node, driver, group, ranks, workers


def states(hub: Harness, driver: bytes) -> dict[bytes, Any]:
    return {message[1]: message for message in hub.take(driver, wire.ACTOR_STATE)}


def test_none_releases_once_and_after_the_reaping() -> None:
    hub, node, driver, group, ranks, workers = start()
    hub.auto_stop = False
    states(hub, driver)
    hub.step(hub.exit_of(workers[1], None, 9))
    seen = states(hub, driver)
    assert [seen[one][2] for one in ranks] == ["DEAD"] * 3
    assert seen[ranks[1]][5]["kind"] == "worker_died" and seen[ranks[0]][5]["kind"] == "gang_broken"
    assert "rank 1" in seen[ranks[0]][5]["cause"] and "SIGKILL" in seen[ranks[2]][5]["cause"]
    assert [message[2] for message in hub.take(driver, wire.GROUP_STATE)] == ["REMOVED"]
    stops = hub.take(node, wire.STOP_WORKER)
    assert [message[1] for message in stops] == [workers[2], workers[0]], "the highest rank goes first"
    assert not any(message[2] for message in stops[:2]), "asked before it is killed"
    assert hub.free(node, "GPU") == 2.0, "GANG-3: two processes are not reaped"
    hub.step(hub.exit_of(workers[2], None, 15))
    hub.step(hub.exit_of(workers[0], None, 15))
    assert hub.free(node, "GPU") == 4.0
    hub.say(driver, wire.REMOVE_GROUP, group)
    assert hub.free(node, "GPU") == 4.0


def test_gang_keeps_the_slots_for_the_next_incarnation() -> None:
    hub, node, driver, group, _, workers = start(restart="gang")
    hub.auto_stop = False
    devices = [hub.ask(driver, "group", id=group)["gpu_ids"]]
    hub.step(hub.exit_of(workers[0], 3))
    news = hub.take(driver, wire.GROUP_STATE)
    assert [(message[2], message[3]["incarnation"]) for message in news] == [("CREATED", 1)] * 2
    assert [message[3]["ports"] is not None for message in news] == [False, True], "ports are renewed"
    assert news[0][3]["lost"][0] == 0 and "exit code 3" in news[0][3]["lost"][1]
    states(hub, driver)
    strategy = {"kind": "group", "group_id": group, "index": 0, "rank": 0, "incarnation": 0}
    late = hub.actor(driver, "late", {"strategy": strategy}, CPU=1.0, GPU=1.0)
    assert states(hub, driver)[late][2] == "DEAD", "a rank of an incarnation that is over"
    again = [rank(hub, driver, group, number, 1) for number in range(3)]
    hub.ready(again[0], 0)
    with pytest.raises(LookupError):
        hub.started(again[1])  # its slot still holds the old process
    for worker in workers[1:]:
        hub.step(hub.exit_of(worker, None, 15))
    fresh = [hub.ready(one) if one != again[0] else hub.started(one) for one in again]
    devices.append(hub.ask(driver, "group", id=group)["gpu_ids"])
    assert devices[0] == devices[1] and hub.free(node, "GPU") == 1.0
    hub.auto_stop = True
    hub.step(hub.exit_of(fresh[2], None, 9))  # the budget of one is spent
    assert hub.take(driver, wire.GROUP_STATE)[-1][2] == "REMOVED"
    assert hub.free(node, "GPU") == 4.0


def test_the_budget_is_per_window() -> None:
    hub, node, driver, group, _, workers = start(restart="gang", window_s=10.0)
    for incarnation in range(1, 4):
        hub.step(hub.exit_of(workers[0], None, 9))
        assert hub.take(driver, wire.GROUP_STATE)[-1][3]["incarnation"] == incarnation
        again = [rank(hub, driver, group, number, incarnation) for number in range(3)]
        workers = [hub.ready(one) for one in again]
        hub.pass_time(11.0, node)
    assert hub.ask(driver, "group", id=group)["state"] == "CREATED"


def test_member_restarts_alone_within_the_budget() -> None:
    hub, node, driver, _, ranks, workers = start(restart="member")
    states(hub, driver)
    hub.step(hub.exit_of(workers[1], None, 9))
    assert list(states(hub, driver)) == [ranks[1]]
    second = hub.ready(ranks[1], 1)
    hub.step(hub.exit_of(second, None, 9))
    seen = states(hub, driver)
    assert all(seen[one][2] == "DEAD" for one in ranks)
    assert hub.free(node, "GPU") == 4.0


@pytest.mark.parametrize("restart", ["none", "gang", "member"])
def test_a_constructor_that_raises_is_not_retried(restart: str) -> None:
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    group = gang(hub, driver, restart=restart)
    ranks = [rank(hub, driver, group, number, max_restarts=-1) for number in range(3)]
    worker = hub.started(ranks[1])
    hub.say(worker, wire.ACTOR_FAILED, ranks[1], 0, "raised KeyError", payload=b"error")
    hub.step(hub.exit_of(worker, 1))
    seen = states(hub, driver)
    assert all(seen[one][2] == "DEAD" for one in ranks)
    assert hub.ask(driver, "group", id=group)["state"] == "REMOVED" and hub.free(node, "GPU") == 4.0


@pytest.mark.parametrize("restart", ["none", "gang", "member"])
def test_a_node_dies_with_ranks_in_every_state(restart: str) -> None:
    hub = Harness()
    hub.auto_start = False
    nodes = [hub.node(f"n{number}", CPU=2.0, GPU=2.0) for number in range(3)]
    driver = hub.driver("driver")
    assert len(nodes) == 3
    spec = {"restart": restart, "max_restarts": 5, "window_s": 100.0}
    bundles = [{"CPU": 1.0, "GPU": 1.0}] * 4
    group = hub.group(driver, "gang", bundles, "STRICT_SPREAD", gang=spec, per_node=2)
    homes = hub.ask(driver, "group", id=group)["nodes"]
    assert homes[0] == homes[1] != homes[2] == homes[3]
    for number in range(4):
        rank(hub, driver, group, number, max_restarts=-1 if restart == "member" else 0)
    spawned = list(hub.spawned)
    hub.step(hub.worker_up(spawned[0]))
    hub.lose(homes[0])  # one rank runs, another waits for its process
    described = hub.ask(driver, "group", id=group)
    if restart == "none":
        assert described["state"] == "REMOVED"
    else:
        assert described["state"] == "CREATED" and homes[0] not in described["nodes"]


def test_the_owner_takes_its_gang_along() -> None:
    hub, node, driver, _, _, _ = start(restart="gang")
    hub.lose(driver)
    assert hub.free(node, "GPU") == 4.0 and not hub.hub.state.groups


def test_timeouts_of_the_hub() -> None:
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    group = gang(hub, driver, 4, launch_timeout_s=5.0)
    waiting = hub.group(driver, "other", [{"GPU": 1.0}], "PACK", gang={"pending_timeout_s": 3.0})
    hub.pass_time(4.0, node)
    assert "could not be placed within 3 s" in hub.ask(driver, "group", id=waiting)["reason"]
    assert hub.ask(driver, "group", id=group)["state"] == "CREATED"
    hub.pass_time(2.0, node)
    assert "nothing was launched in it within 5 s" in hub.ask(driver, "group", id=group)["reason"]
    used = hub.group(driver, "used", [{"CPU": 1.0, "GPU": 1.0}], "PACK", gang={"launch_timeout_s": 5.0})
    rank(hub, driver, used, 0)
    hub.pass_time(10.0, node)
    assert hub.ask(driver, "group", id=used)["state"] == "CREATED"


def test_malformed_policies_are_refused() -> None:
    hub = Harness()
    driver = hub.driver("driver", hub.node("n", CPU=4.0))
    bad = [{"restart": "all"}, {"max_restarts": "1"}, {"window_s": -1.0}, {"launch_timeout_s": "soon"}, 7]
    for number, policy in enumerate(bad):
        group = hub.group(driver, f"g{number}", [{"CPU": 1.0}], gang=policy)
        assert hub.take(driver, wire.GROUP_STATE)[-1][1:3] == [group, "REMOVED"], policy
    group = hub.group(driver, "runs", [{"CPU": 1.0}] * 3, "STRICT_SPREAD", per_node=2)
    assert hub.take(driver, wire.GROUP_STATE)[-1][1:3] == [group, "REMOVED"]


def test_a_detached_gang_comes_back_without_its_creator() -> None:
    """The creator is gone: the hub launches the next incarnation from what it was given for the first."""
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    spec = {"restart": "gang", "max_restarts": 1, "window_s": 100.0}
    bundles = [{"CPU": 1.0, "GPU": 1.0}] * 2
    group = hub.group(driver, "gang", bundles, "STRICT_PACK", gang=spec, detached=True)
    ports = hub.ask(driver, "group", id=group)["ports"]
    env = {"vars": {"MASTER_PORT": str(ports[0]), "MODE": "x"}}
    ranks = [rank(hub, driver, group, n, detached=True, name=f"r{n}", env=env) for n in range(2)]
    workers = [hub.ready(one) for one in ranks]
    hub.lose(driver)
    assert hub.free(node, "GPU") == 2.0, "it outlives its creator"
    other = hub.driver("other", node)
    job = hub.ask(other, "group", id=group)["job_id"]
    hub.step(hub.exit_of(workers[0], None, 9))
    row = hub.ask(other, "group", id=group)
    assert row["state"] == "CREATED" and row["incarnation"] == 1 and row["ports"]
    namespace = row["namespace"]
    again = [hub.ask(other, "get_actor", name=f"r{n}", namespace=namespace) for n in range(2)]
    assert not {one["actor_id"] for one in again} & set(ranks) and [one["rank"] for one in again] == [0, 1]
    assert [one["job_id"] for one in again] == [job] * 2
    fresh = [hub.ready(one["actor_id"]) for one in again]
    assert hub.spawned[fresh[1]][2]["RANK"] == "1" and hub.spawned[fresh[1]][2]["MODE"] == "x"
    assert hub.spawned[fresh[1]][2]["MASTER_PORT"] == str(row["ports"][0])
    assert hub.payloads[fresh[0]][-1] == b"blob"
    hub.step(hub.exit_of(fresh[1], None, 9))  # the budget of one is spent
    assert hub.ask(other, "group", id=group)["state"] == "REMOVED" and hub.free(node, "GPU") == 4.0


def test_a_creator_that_dies_before_it_relaunches_is_replaced_by_the_hub() -> None:
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    spec = {"restart": "gang", "max_restarts": 5, "window_s": 100.0}
    group = hub.group(driver, "gang", [{"CPU": 1.0, "GPU": 1.0}], gang=spec, detached=True)
    first = rank(hub, driver, group, 0, detached=True, name="r")
    hub.step(hub.exit_of(hub.ready(first), None, 9))
    other = hub.driver("other", node)
    namespace = hub.ask(other, "group", id=group)["namespace"]
    with pytest.raises(LookupError):
        hub.ask(other, "get_actor", name="r", namespace=namespace)  # the creator is expected to do it
    hub.lose(driver)
    assert hub.ask(other, "get_actor", name="r", namespace=namespace)["rank"] == 0
