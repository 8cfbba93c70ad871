"""The rules of actors and placement groups at the hub, one by one."""

from __future__ import annotations

import pytest

from spoke import wire
from spoke.core import Tick
from tests.hub_harness import Harness, name, one_node

# -- actors


def test_life_of_an_actor() -> None:
    hub, node, driver = one_node()
    actor_id = hub.actor(driver, "a", {"placement_resources": {"CPU": 1.0}, "class_name": "Counter"})
    worker = hub.ready(actor_id)
    states = hub.take(driver, wire.ACTOR_STATE)
    assert [state[2] for state in states] == ["STARTING", "ALIVE"]
    assert states[1][4][0] == worker and states[1][5]["class_name"] == "Counter"
    assert hub.free(node) == 2.0, "a default actor holds nothing"
    hub.say(driver, wire.KILL_ACTOR, actor_id, True, "no longer needed", -1)
    (dead,) = hub.take(driver, wire.ACTOR_STATE)
    assert dead[2] == "DEAD" and dead[5]["cause"] == "no longer needed" and dead[4] is None


def test_an_actor_waits_for_its_placement_resources() -> None:
    hub, _, driver = one_node(1.0)
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    actor_id = hub.actor(driver, "a", {"placement_resources": {"CPU": 1.0}})
    assert hub.states(driver) == []
    assert "waits for {CPU: 1}" in hub.ask(driver, "why", id=actor_id)
    hub.want(driver, 1, 0, CPU=1.0)
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    assert hub.states(driver) == ["STARTING"]


def test_restarts_count_down_and_name_the_incarnation() -> None:
    hub, node, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": 1}, CPU=1.0)
    hub.step(hub.exit_of(hub.ready(actor_id), 3, 0, "traceback"))
    states = hub.take(driver, wire.ACTOR_STATE)
    assert [(state[2], state[3]) for state in states] == [
        ("STARTING", 0),
        ("ALIVE", 0),
        ("RESTARTING", 1),
        ("STARTING", 1),
    ]
    assert states[2][5]["code"] == 3 and states[2][5]["tail"] == "traceback"
    hub.step(hub.exit_of(hub.ready(actor_id, 1), None, 9))
    alive, dead = hub.take(driver, wire.ACTOR_STATE)
    assert alive[2] == "ALIVE" and dead[2] == "DEAD" and dead[5]["signal"] == 9
    assert hub.free(node) == 2.0


def test_stale_messages_of_an_earlier_incarnation_are_ignored() -> None:
    hub, _, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": -1})
    first = hub.started(actor_id)
    hub.step(hub.exit_of(first, 1))
    hub.lose(first)
    hub.take(driver, wire.ACTOR_STATE)
    second = hub.started(actor_id)
    hub.say(second, wire.ACTOR_READY, actor_id, 0)
    hub.say(second, wire.ACTOR_FAILED, actor_id, 0, "late")
    assert hub.states(driver) == []
    hub.say(second, wire.ACTOR_READY, actor_id, 1)
    assert hub.states(driver) == ["ALIVE"]


def test_a_death_waits_for_the_last_words_of_a_constructor() -> None:
    hub, _, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": -1})
    first = hub.started(actor_id)
    hub.step(hub.exit_of(first, 1))
    assert hub.states(driver) == ["STARTING"]
    hub.say(first, wire.ACTOR_READY, actor_id, 0)  # it was under way when its worker was reaped
    hub.lose(first)
    alive, restarting, _ = hub.take(driver, wire.ACTOR_STATE)
    assert alive[2] == "ALIVE" and restarting[2] == "RESTARTING" and "unborn" not in restarting[5]
    second = hub.started(actor_id)
    hub.lose(second)
    hub.step(hub.exit_of(second, 1))
    assert hub.take(driver, wire.ACTOR_STATE)[0][5]["unborn"], "nothing more can come: it was never alive"
    third = hub.started(actor_id)
    hub.step(hub.exit_of(third, 1))
    hub.now += 2.0
    hub.step(Tick())
    assert "unborn" not in hub.take(driver, wire.ACTOR_STATE)[-2][5], "its link is silent: nobody knows"


def test_a_constructor_that_raises() -> None:
    hub, node, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": 5}, CPU=1.0)
    worker = hub.started(actor_id)
    hub.say(worker, wire.ACTOR_FAILED, actor_id, 0, "ValueError: no", payload=b"pickled")
    assert hub.states(driver)[-1] == "DEAD"
    assert b"pickled" in hub.payloads[driver]
    assert not hub.take(node, wire.STOP_WORKER) and hub.free(node) == 1.0, "it leaves by itself"
    hub.now += 2.1
    hub.step(Tick())
    assert hub.take(node, wire.STOP_WORKER) and worker not in hub.hub.state.workers, "it takes too long"
    assert hub.free(node) == 2.0


def test_an_actor_that_exits_by_itself_is_not_restarted() -> None:
    hub, node, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": -1}, CPU=1.0)
    worker = hub.ready(actor_id)
    hub.say(worker, wire.KILL_ACTOR, actor_id, True, "exit_actor", -1)
    assert hub.states(driver)[-1] == "DEAD"
    assert not hub.take(node, wire.STOP_WORKER), "it leaves by itself"
    assert hub.free(node) == 1.0
    hub.step(hub.exit_of(worker, 0))
    assert hub.free(node) == 2.0


def test_kill_without_no_restart_restarts() -> None:
    hub, _, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": 1})
    hub.ready(actor_id)
    hub.say(driver, wire.KILL_ACTOR, actor_id, False, "", -1)
    assert hub.states(driver)[-2:] == ["RESTARTING", "STARTING"]


def test_a_kill_that_is_said_twice_ends_one_incarnation() -> None:
    """Its sender cannot know whether a hub that crashed had heard it."""
    hub, _, driver = one_node()
    actor_id = hub.actor(driver, "a", {"max_restarts": 5})
    hub.ready(actor_id)
    for _ in range(2):
        hub.say(driver, wire.KILL_ACTOR, actor_id, False, "", 0)
    assert hub.states(driver).count("RESTARTING") == 1


def test_names() -> None:
    hub, _, driver = one_node()
    spec = {"name": "service", "namespace": "ns", "request_id": 5}
    actor_id = hub.actor(driver, "a", spec)
    ((_, request_id, error, value),) = hub.take(driver, wire.RESPONSE)
    assert request_id == 5 and error is None and value["actor"]["actor_id"] == actor_id
    hub.actor(driver, "b", spec)
    ((_, _, error, _),) = hub.take(driver, wire.RESPONSE)
    assert (
        error[0] == "ActorAlreadyExistsError"
        and "The name service (namespace=ns) is already taken" in error[1]
    )
    assert hub.ask(driver, "get_actor", name="service", namespace="ns")["actor_id"] == actor_id
    with pytest.raises(LookupError, match="Failed to look up actor with name 'service'"):
        hub.ask(driver, "get_actor", name="service", namespace="other")
    assert hub.ask(driver, "list_named_actors", all_namespaces=True) == [
        {"name": "service", "namespace": "ns"}
    ]
    hub.say(driver, wire.KILL_ACTOR, actor_id, True, "", -1)
    hub.actor(driver, "d", spec)
    ((_, _, error, _),) = hub.take(driver, wire.RESPONSE)
    assert error is None


def test_actors_die_with_their_owner_unless_detached() -> None:
    hub, node, driver = one_node()
    other = hub.driver("other")
    mine = hub.actor(driver, "a", CPU=0.5)
    kept = hub.actor(driver, "b", {"detached": True, "name": "kept", "namespace": "ns"}, CPU=0.5)
    hub.ready(mine)
    worker = hub.ready(kept)
    hub.say(other, wire.WATCH_ACTOR, mine)
    hub.lose(driver)
    states = hub.take(other, wire.ACTOR_STATE)
    assert [state[2] for state in states] == ["ALIVE", "DEAD"] and states[1][5]["kind"] == "owner_died"
    assert hub.ask(other, "get_actor", name="kept", namespace="ns")["state"] == "ALIVE"
    assert hub.free(node) == 1.5
    hub.say(other, wire.KILL_ACTOR, kept, True, "", -1)
    assert hub.free(node) == 2.0 and worker not in hub.hub.state.workers


def test_death_of_a_worker_reaches_what_it_called_and_owned() -> None:
    hub, node, driver = one_node()
    hub.want(driver, 1, 1, CPU=1.0)
    worker = hub.grants(driver)[0][3][0]
    hub.want(worker, 1, 1, CPU=0.5)
    inner = hub.grants(worker)[0][3][0]
    actor_id = hub.actor(worker, "a", CPU=0.5)
    hub.ready(actor_id)
    hub.say(driver, wire.WATCH_ACTOR, actor_id)
    hub.want(driver, 1, 0, CPU=1.0)
    hub.step(hub.exit_of(worker, None, 9))
    assert hub.states(driver) == ["ALIVE", "DEAD"]
    assert hub.free(node) == 2.0 and inner not in hub.hub.state.workers


def test_a_handle_may_travel_faster_than_its_creation() -> None:
    hub, node, driver = one_node()
    other = hub.driver("other")
    actor_id = name("a", 16)
    hub.say(other, wire.WATCH_ACTOR, actor_id)
    assert hub.states(other) == []
    hub.actor(driver, "a")
    assert hub.states(other) == ["PENDING_CREATION", "STARTING"]
    hub.say(other, wire.WATCH_ACTOR, name("never", 16))
    hub.pass_time(6, node)
    (dead,) = hub.take(other, wire.ACTOR_STATE)
    assert dead[2] == "DEAD" and "no such actor" in dead[5]["cause"]
    hub.say(other, wire.KILL_ACTOR, name("early", 16), True, "never mind", -1)
    hub.actor(driver, "early")
    assert hub.states(driver)[-1] == "DEAD"


# -- groups


def in_group(group_id: bytes, index: int = -1) -> dict[str, object]:
    return {"strategy": {"kind": "group", "group_id": group_id, "index": index}}


def test_a_group_is_reserved_whole_or_not_at_all() -> None:
    """GANG-2."""
    hub, node, driver = one_node(4.0)
    first = hub.group(driver, "g1", [{"CPU": 1.0}] * 3)
    hub.group(driver, "g2", [{"CPU": 1.0}] * 2)
    ((_, group_id, state, info),) = hub.take(driver, wire.GROUP_STATE)
    assert (group_id, state, info["nodes"]) == (first, "CREATED", [node] * 3)
    assert hub.free(node) == 1.0
    hub.say(driver, wire.REMOVE_GROUP, first)
    hub.say(driver, wire.REMOVE_GROUP, first)
    assert hub.states(driver, wire.GROUP_STATE) == ["REMOVED", "CREATED"]
    assert hub.free(node) == 2.0


def test_leases_and_actors_draw_from_their_slot() -> None:
    hub, node, driver = one_node(4.0, GPU=2.0)
    group_id = hub.group(driver, "g", [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}])
    (state,) = hub.take(driver, wire.GROUP_STATE)
    assert sorted(state[3]["gpu_ids"]) == [[0], [1]]
    hub.want(driver, 1, 5, in_group(group_id, 1), CPU=1.0)
    assert len(hub.grants(driver)) == 2
    actor_id = hub.actor(driver, "a", in_group(group_id, 0), GPU=1.0)
    worker = hub.started(actor_id)
    assert hub.spawned[worker][4] == state[3]["gpu_ids"][0]
    hub.want(driver, 2, 1, in_group(group_id, 0), CPU=2.0)
    ((_, _, _, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
    assert fatal and "bundle 0" in reason
    assert hub.free(node) == 1.0


def test_removal_ends_what_runs_and_frees_after_the_exit() -> None:
    """GANG-3."""
    hub, node, driver = one_node(4.0)
    group_id = hub.group(driver, "g", [{"CPU": 1.0}] * 2)
    hub.want(driver, 1, 2, in_group(group_id, 0), CPU=1.0)
    (grant,) = hub.grants(driver)
    actor_id = hub.actor(driver, "a", {**in_group(group_id, 1), "max_restarts": -1}, CPU=1.0)
    worker = hub.ready(actor_id)
    hub.auto_stop = False
    hub.say(driver, wire.REMOVE_GROUP, group_id)
    assert hub.states(driver)[-1] == "DEAD"
    assert hub.take(driver, wire.LEASE_LOST)[0][3] == "group_removed"
    ((_, _, _, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
    assert fatal and "removed" in reason, "what waited for the group hears of it, too"
    assert hub.free(node) == 2.0
    hub.step(hub.exit_of(worker, None, 9))
    assert hub.free(node) == 3.0
    hub.step(hub.exit_of(grant[3][0], None, 9))
    assert hub.free(node) == 4.0


def test_a_dead_node_reschedules_its_slots() -> None:
    hub = Harness()
    nodes = [hub.node(f"n{index}", CPU=1.0) for index in range(3)]
    driver = hub.driver("driver")
    hub.group(driver, "g", [{"CPU": 1.0}] * 2, "STRICT_SPREAD")
    ((_, _, _, info),) = hub.take(driver, wire.GROUP_STATE)
    hub.lose(info["nodes"][0])
    lost, again = hub.take(driver, wire.GROUP_STATE)
    assert lost[2] == "RESCHEDULING" and lost[3]["nodes"] == [None, info["nodes"][1]]
    assert again[2] == "CREATED" and again[3]["nodes"] == [nodes[2], info["nodes"][1]]


def test_groups_go_with_their_owner_and_can_be_watched() -> None:
    hub, node, driver = one_node()
    other = hub.driver("other")
    group_id = hub.group(driver, "g", [{"CPU": 1.0}], name="named", namespace="ns")
    assert hub.ask(other, "watch_group", id=group_id)["state"] == "CREATED"
    assert hub.ask(other, "group", name="named", namespace="ns")["group_id"] == group_id
    hub.lose(driver)
    assert hub.states(other, wire.GROUP_STATE) == ["REMOVED"]
    assert hub.free(node) == 2.0


def test_work_for_an_unknown_group_waits_a_while() -> None:
    hub, node, driver = one_node()
    other = hub.driver("other")
    hub.want(other, 1, 1, in_group(name("g", 18)), CPU=1.0)
    assert not hub.take(other, wire.PENDING_REASON)
    hub.group(driver, "g", [{"CPU": 1.0}])
    assert len(hub.grants(other)) == 1
    hub.want(other, 2, 1, in_group(name("never", 18)), CPU=1.0)
    hub.pass_time(6, node)
    ((_, _, _, reason, fatal),) = hub.take(other, wire.PENDING_REASON)
    assert fatal and "no placement group" in reason


def test_an_infeasible_group_says_why() -> None:
    hub, _, driver = one_node()
    hub.group(driver, "g", [{"CPU": 1.0}] * 2, "STRICT_SPREAD")
    ((_, what, _, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
    assert what == "group" and not fatal and "STRICT_SPREAD" in reason
    hub.say(driver, wire.CREATE_GROUP, name("bad", 18), {"bundles": [], "strategy": "PACK", "request_id": 3})
    assert hub.take(driver, wire.RESPONSE)[0][2][0] == "ValueError"
