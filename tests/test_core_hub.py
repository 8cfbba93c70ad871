"""The rules of the hub, one by one."""

from __future__ import annotations

import pytest

from spoke import wire
from spoke.core import Received, Tick
from tests.hub_harness import Harness, name, one_node

GONE = b"?" * 28


# -- leases


def test_a_want_is_granted_and_the_worker_is_reused() -> None:
    hub, node, driver = one_node()
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    assert grant[1] == 1 and grant[3][1] == node
    assert grant[4]["resources"] == {"CPU": 1.0} and grant[4]["gpu_ids"] == []
    assert hub.free(node) == 1.0
    hub.want(driver, 1, 0, CPU=1.0)
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    assert hub.free(node) == 2.0
    hub.want(driver, 1, 1, CPU=1.0)
    (again,) = hub.grants(driver)
    assert again[3][0] == grant[3][0] and again[2] != grant[2]


def test_more_is_wanted_than_fits() -> None:
    hub, _, driver = one_node()
    hub.want(driver, 1, 5, CPU=1.0)
    grants = hub.grants(driver)
    assert len(grants) == 2
    hub.say(driver, wire.GIVE_BACK, grants[0][2], True)  # retired: the want stands
    assert len(hub.grants(driver)) == 1


def test_a_lowered_want_takes_back_what_was_not_granted_yet() -> None:
    hub, node, driver = one_node()
    hub.auto_start = False
    hub.want(driver, 1, 2, CPU=1.0)
    assert hub.free(node) == 0.0
    hub.want(driver, 1, 0, CPU=1.0)
    assert hub.free(node) == 2.0
    for worker_id in list(hub.worker_node):
        hub.step(hub.worker_up(worker_id))
    assert not hub.grants(driver)


def test_holders_are_asked_when_the_head_of_the_line_is_content() -> None:
    """The next in line was not looked at: the holder kept idle workers for its whole idle time."""
    hub, _, first = one_node()
    second = hub.driver("second")
    hub.want(first, 1, 16, CPU=1.0)
    hub.want(second, 1, 16, CPU=1.0)
    assert len(hub.grants(first)) == 2 and not hub.grants(second)
    hub.want(first, 1, 2, CPU=1.0)
    hub.take(first, wire.RECLAIM)
    for _ in range(3):
        deadline = hub.hub.next_deadline()
        assert deadline is not None
        hub.now = max(deadline, hub.now)
        hub.step(Tick())
    assert hub.take(first, wire.RECLAIM)


def test_a_worker_that_ran_one_job_never_serves_another() -> None:
    hub, _, first = one_node()
    second = hub.driver("second")
    hub.want(first, 1, 1, CPU=1.0)
    (grant,) = hub.grants(first)
    hub.want(first, 1, 0, CPU=1.0)
    hub.say(first, wire.GIVE_BACK, grant[2], False)
    hub.want(second, 1, 1, CPU=1.0)
    (other,) = hub.grants(second)
    assert other[3][0] != grant[3][0]
    hub.lose(first)
    assert grant[3][0] not in hub.hub.state.workers


def test_a_lost_worker_is_told_with_cause() -> None:
    hub, node, driver = one_node()
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    hub.step(hub.exit_of(grant[3][0], None, 11, "boom on stderr"))
    ((_, lease_id, reason, kind),) = hub.take(driver, wire.LEASE_LOST)
    assert lease_id == grant[2] and kind == "worker_died"
    assert "SIGSEGV" in reason and "boom on stderr" in reason
    assert hub.free(node) == 1.0 and len(hub.grants(driver)) == 1


def test_a_lost_worker_is_replaced_and_a_returned_one_is_not() -> None:
    hub, _, driver = one_node()
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    hub.step(hub.exit_of(grant[3][0], 1))
    (grant,) = hub.grants(driver)
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    assert not hub.grants(driver), "who gives back has no more work"


def test_a_broken_link_frees_nothing_before_the_exit() -> None:
    """GANG-3."""
    hub, node, driver = one_node()
    hub.auto_stop = False
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    hub.lose(grant[3][0])
    hub.want(driver, 1, 0, CPU=1.0)
    assert hub.free(node) == 1.0
    hub.pass_time(1.5, node)
    assert hub.take(node, wire.STOP_WORKER) == [[wire.STOP_WORKER, grant[3][0], True]]
    assert hub.free(node) == 1.0
    hub.step(hub.exit_of(grant[3][0], None, 9))
    assert hub.free(node) == 2.0
    assert len(hub.take(driver, wire.LEASE_LOST)) == 1


def test_an_infeasible_class_is_told_once_at_once() -> None:
    hub, _, driver = one_node()
    hub.want(driver, 4, 1, CPU=64.0)
    hub.want(driver, 4, 2, CPU=64.0)
    hub.pass_time(5, name("n1"))
    ((_, what, class_id, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
    assert (what, class_id, fatal) == ("class", 4, False)
    assert "CPU: 64" in reason and "n1" in reason and "has only {CPU: 2}" in reason
    hub.node("big", CPU=64.0)
    assert len(hub.grants(driver)) == 1


def test_malformed_specs_are_refused_by_name() -> None:
    hub, _, driver = one_node()
    for spec in (
        {"resources": {"CPU": -1}},
        {"resources": {"GPU": 1.5}},
        {"resources": {"CPU": "many"}},
        {"strategy": {"kind": "magic"}},
        {"strategy": {"kind": "node", "node_id": b"short"}},
        {"strategy": 7},
        {"label_selector": {"zone": 3}},
        {"env": {"vars": {"A": 1}}},
    ):
        hub.say(driver, wire.WANT, 9, spec, 1)
        ((_, _, _, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
        assert fatal and reason
    assert not hub.hub.state.clients[driver].wants


def test_blocked_tasks_lend_their_cpu() -> None:
    hub, node, driver = one_node(1.0)
    hub.want(driver, 1, 1, CPU=1.0)
    (outer,) = hub.grants(driver)
    worker = outer[3][0]
    hub.want(worker, 1, 1, CPU=1.0)
    assert not hub.grants(worker)
    hub.say(worker, wire.BLOCKED, True)
    (inner,) = hub.grants(worker)
    hub.say(worker, wire.BLOCKED, False)  # wakes up at once, oversubscribed
    assert hub.free(node) == -1.0
    hub.want(driver, 2, 1, CPU=0.5)
    assert not hub.grants(driver)
    hub.want(worker, 1, 0, CPU=1.0)
    hub.say(worker, wire.GIVE_BACK, inner[2], False)
    assert hub.free(node) == 0.0 and not hub.grants(driver)
    hub.want(driver, 1, 0, CPU=1.0)
    hub.say(driver, wire.GIVE_BACK, outer[2], False)
    assert len(hub.grants(driver)) == 1


def test_callers_take_turns() -> None:
    hub, _, first = one_node(4.0)
    second = hub.driver("second")
    hub.want(first, 1, 100, CPU=1.0)
    grants = hub.grants(first)
    hub.want(second, 1, 100, CPU=1.0)
    for grant in grants:
        hub.say(first, wire.GIVE_BACK, grant[2], True)
    assert len(hub.grants(first)) == 2 and len(hub.grants(second)) == 2


def test_holders_are_asked_to_return_what_others_wait_for() -> None:
    hub, node, first = one_node()
    second = hub.driver("second")
    hub.want(first, 1, 2, CPU=1.0)
    hub.pass_time(3, node)
    assert not hub.take(first, wire.RECLAIM)
    hub.want(second, 1, 1, CPU=1.0)
    assert len(hub.take(first, wire.RECLAIM)) == 1
    hub.pass_time(2, node)
    assert 2 <= len(hub.take(first, wire.RECLAIM)) <= 2 / 0.1 + 1


def test_small_requests_do_not_starve_a_large_one() -> None:
    hub, node, driver = one_node(4.0)
    other = hub.driver("other")
    hub.want(driver, 1, 1000, CPU=1.0)
    grants = hub.grants(driver)
    hub.want(other, 1, 1, CPU=4.0)
    for _ in range(40):  # the small ones end one after the other, never four at once
        hub.pass_time(0.25, node)
        if hub.grants(other):
            return
        if grants:
            hub.say(driver, wire.GIVE_BACK, grants.pop(0)[2], True)
        grants += hub.grants(driver)
    pytest.fail("the large request starved")


def test_a_worker_that_cannot_start_is_an_error_by_name() -> None:
    hub, node, driver = one_node()
    hub.auto_start = False
    hub.want(driver, 1, 3, {"env": {"vars": {"A": "b"}}}, CPU=1.0)
    for _ in range(6):
        for worker_id in list(hub.hub.state.workers):
            hub.step(hub.exit_of(worker_id, 1, 0, "ImportError: nothing here"))
        hub.pass_time(2, node)
    reasons = hub.take(driver, wire.PENDING_REASON)
    assert len(reasons) == 1 and reasons[0][4]
    assert "ImportError: nothing here" in reasons[0][3]
    assert hub.free(node) == 2.0 and len(hub.worker_node) <= 8


def test_a_worker_that_does_not_connect_is_killed() -> None:
    hub, node, driver = one_node()
    hub.auto_start = False
    hub.want(driver, 1, 1, CPU=1.0)
    hub.pass_time(61, node)
    assert len(hub.take(node, wire.STOP_WORKER)) == 1


# -- where


def test_locality_then_own_node_then_least_used() -> None:
    hub = Harness()
    nodes = [hub.node(f"n{index}", CPU=4.0) for index in range(3)]
    driver = hub.driver("driver", nodes[1])
    hub.want(driver, 1, 1, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == nodes[1]
    hub.want(driver, 2, 1, {"locality": {nodes[2]: 1 << 30, nodes[0]: 5}}, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == nodes[2]
    hub.want(driver, 3, 1, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == nodes[1], "its own node until half of it is used"
    hub.want(driver, 4, 1, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == nodes[0], "then the least used"


def test_spread_and_holders_of_nothing_go_everywhere() -> None:
    hub = Harness()
    nodes = [hub.node(f"n{index}", CPU=4.0) for index in range(2)]
    driver = hub.driver("driver", nodes[0])
    hub.want(driver, 1, 4, {"strategy": "SPREAD"}, CPU=1.0)
    homes = [grant[3][1] for grant in hub.grants(driver)]
    assert homes.count(nodes[0]) == homes.count(nodes[1]) == 2
    for index in range(4):
        hub.actor(driver, f"a{index}", {"placement_resources": {"CPU": 1.0}})
    homes = [message[4][1] for message in hub.take(driver, wire.ACTOR_STATE)]
    assert homes.count(nodes[0]) == homes.count(nodes[1]) == 2


def test_node_affinity() -> None:
    hub = Harness()
    first, second = hub.node("n1", CPU=1.0), hub.node("n2", CPU=1.0)
    driver = hub.driver("driver", first)
    hard = {"strategy": {"kind": "node", "node_id": second, "soft": False}}
    hub.want(driver, 1, 2, hard, CPU=1.0)
    (grant,) = hub.grants(driver)
    assert grant[3][1] == second
    hub.lose(second)
    ((_, what, class_id, reason, fatal),) = hub.take(driver, wire.PENDING_REASON)
    assert (what, class_id, fatal) == ("class", 1, True) and second.hex() in reason
    soft = {"strategy": {"kind": "node", "node_id": second, "soft": True}}
    hub.want(driver, 2, 1, soft, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == first


def test_labels_and_fallbacks() -> None:
    hub = Harness()
    east = hub.node("n1", {"zone": "east"}, CPU=1.0)
    west = hub.node("n2", {"zone": "west", "disk": "ssd"}, CPU=1.0)
    driver = hub.driver("driver")
    for class_id, (selector, home) in enumerate(
        [("west", west), ("!west", east), ("in(west,north)", west), ("!in(west,north)", east)]
    ):
        hub.want(driver, class_id, 1, {"label_selector": {"zone": selector}}, CPU=1.0)
        (grant,) = hub.grants(driver)
        assert grant[3][1] == home, selector
        hub.want(driver, class_id, 0, CPU=1.0)
        hub.say(driver, wire.GIVE_BACK, grant[2], False)
    labels = {
        "kind": "labels",
        "hard": {"zone": {"op": "exists"}},
        "soft": {"disk": {"op": "in", "values": ["ssd"]}},
    }
    hub.want(driver, 10, 1, {"strategy": labels}, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == west
    spec = {"label_selector": {"zone": "north"}, "fallback_strategy": [{"label_selector": {"zone": "east"}}]}
    hub.want(driver, 11, 1, spec, CPU=1.0)
    assert hub.grants(driver)[0][3][1] == east
    assert not hub.take(driver, wire.PENDING_REASON)
    hub.want(driver, 12, 1, {"label_selector": {"ray.io/node-id": east.hex()}}, CPU=1.0)
    hub.want(driver, 13, 1, {"label_selector": {"zone": "north"}}, CPU=1.0)
    ((_, _, class_id, reason, _),) = hub.take(driver, wire.PENDING_REASON)
    assert class_id == 13 and "labels do not match" in reason


def test_requests_without_gpus_keep_away_from_gpu_nodes() -> None:
    hub = Harness()
    gpu = hub.node("n1", CPU=4.0, GPU=1.0)
    plain = hub.node("n2", CPU=1.0)
    driver = hub.driver("driver", gpu)
    hub.want(driver, 1, 2, CPU=1.0)
    assert [grant[3][1] for grant in hub.grants(driver)] == [plain, gpu]


# -- GPUs


def test_gpu_workers_are_started_with_their_devices_and_reused_with_the_same() -> None:
    hub, _, driver = one_node(8.0, GPU=4.0)
    hub.want(driver, 1, 2, GPU=1.0)
    grants = hub.grants(driver)
    assert [grant[4]["gpu_ids"] for grant in grants] == [[0], [1]]
    assert [hub.spawned[grant[3][0]][4] for grant in grants] == [[0], [1]]
    hub.want(driver, 1, 1, GPU=1.0)
    hub.say(driver, wire.GIVE_BACK, grants[0][2], False)
    hub.want(driver, 1, 2, GPU=1.0)
    (again,) = hub.grants(driver)
    assert again[3][0] == grants[0][3][0]


def test_a_device_is_free_for_others_after_the_idle_process_is_reaped() -> None:
    """GANG-3: its memory may still be there."""
    hub, node, driver = one_node(8.0, GPU=2.0)
    hub.want(driver, 1, 1, GPU=1.0)
    (grant,) = hub.grants(driver)
    hub.want(driver, 1, 0, GPU=1.0)
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    hub.auto_stop = False
    spawned = len(hub.spawned)
    hub.want(driver, 2, 1, GPU=2.0)
    assert hub.take(node, wire.STOP_WORKER) == [[wire.STOP_WORKER, grant[3][0], True]]
    assert not hub.grants(driver) and len(hub.spawned) == spawned
    hub.step(hub.exit_of(grant[3][0], None, 9))
    assert hub.grants(driver)[0][4]["gpu_ids"] == [0, 1]


def test_fractions_share_one_device_never_two() -> None:
    hub, _, driver = one_node(8.0, GPU=2.0)
    hub.want(driver, 1, 3, GPU=0.6)
    assert [grant[4]["gpu_ids"] for grant in hub.grants(driver)] == [[0], [1]]
    hub.want(driver, 2, 2, GPU=0.4)
    assert [grant[4]["gpu_ids"] for grant in hub.grants(driver)] == [[0], [1]]


def test_different_environments_may_share_a_device() -> None:
    hub, _, driver = one_node(8.0, GPU=1.0)
    hub.auto_start = False
    for class_id in (1, 2):
        hub.want(driver, class_id, 1, {"env": {"vars": {"MODE": str(class_id)}}}, GPU=0.5)
    assert len(hub.spawned) == 2
    for worker_id in list(hub.spawned):
        hub.step(hub.worker_up(worker_id))
    assert len(hub.grants(driver)) == 2


# -- nodes


def test_a_silent_node_is_dead_after_five_seconds() -> None:
    hub, node, driver = one_node()
    driver = hub.driver("elsewhere")
    hub.want(driver, 1, 1, CPU=1.0)
    actor_id = hub.actor(driver, "a", CPU=1.0)
    hub.ready(actor_id)
    hub.pass_time(4.5)
    assert hub.ask(driver, "nodes")[0]["Alive"]
    hub.pass_time(1.5)
    assert hub.take(driver, wire.LEASE_LOST)[0][3] == "node_died"
    assert hub.states(driver)[-1] == "DEAD"
    assert not hub.take(driver, wire.NODE_STATE)[0][2]
    assert hub.take(node, wire.SHUTDOWN) and node in hub.dropped
    row = hub.ask(driver, "nodes")[0]
    assert not row["Alive"] and "no heartbeat" in row["DeathReasonMessage"]
    assert hub.ask(driver, "cluster_resources") == {}
    hub.node("n1", CPU=2.0)
    assert len(hub.hub.state.alive) == 0, "a fenced node stays out"


def test_a_hub_that_slept_does_not_blame_the_nodes() -> None:
    hub, _, _ = one_node()
    driver = hub.driver("elsewhere")
    hub.now += 60.0
    hub.step(Tick())
    assert hub.ask(driver, "nodes")[0]["Alive"]
    hub.pass_time(6)
    assert not hub.ask(driver, "nodes")[0]["Alive"]


def test_workers_are_started_ahead_of_need() -> None:
    hub = Harness(prestart=None)
    node = hub.node("n1", CPU=3.0)
    assert len(hub.worker_node) == 3
    driver = hub.driver("driver", node)
    for index in range(5):
        hub.actor(driver, f"a{index}")
    idle = hub.hub.state.nodes[node].idle_count
    assert idle == 3, "refilled as they are used"


def test_idle_workers_beyond_need_are_stopped() -> None:
    hub = Harness(prestart=1, idle_worker_s=3.0)
    node = hub.node("n1", CPU=4.0)
    driver = hub.driver("driver", node)
    hub.want(driver, 1, 8, CPU=0.5)
    grants = hub.grants(driver)
    assert len(grants) == 8
    hub.want(driver, 1, 0, CPU=0.5)
    for grant in grants:
        hub.say(driver, wire.GIVE_BACK, grant[2], False)
    hub.pass_time(5, node)
    assert hub.hub.state.nodes[node].idle_count == 4


def test_unknown_and_early_messages_do_no_harm() -> None:
    hub, node, driver = one_node()
    hub.say(GONE, wire.WANT, 1, {}, 1)
    assert GONE in hub.dropped
    hub.say(driver, wire.GIVE_BACK, 12345, False)
    hub.say(driver, wire.REMOVE_GROUP, GONE)
    hub.say(driver, wire.ACTOR_READY, name("x", 16), 0)
    hub.say(node, wire.WORKER_EXIT, GONE, 1, 0, 0, "", 0)
    hub.say(driver, wire.HEARTBEAT, 1)
    hub.lose(GONE)
    impostor = b"w" * 28
    hub.say(impostor, wire.CLIENT_UP, "worker", [impostor, node, "h", 0], 1, {})
    assert impostor in hub.dropped


# -- questions


def test_resources_as_ray_shows_them() -> None:
    hub, _, driver = one_node(2.0, memory=100.0)
    total = hub.ask(driver, "cluster_resources")
    assert total == {"CPU": 2.0, "memory": 100.0, "node:n1": 1.0, "node:__internal_head__": 1.0}
    hub.want(driver, 1, 1, CPU=2.0)
    assert "CPU" not in hub.ask(driver, "available_resources")
    (row,) = hub.ask(driver, "demands") or [None]
    assert row is None
    hub.want(driver, 2, 3, CPU=1.0)
    (row,) = hub.ask(driver, "demands")
    assert row["what"] == "class" and row["count"] == 3 and "waits for" in row["reason"]
    assert len(hub.ask(driver, "leases")) == 1 and len(hub.ask(driver, "workers")) == 1
    assert hub.ask(driver, "jobs")[0]["running"]
    with pytest.raises(LookupError, match="no request"):
        hub.ask(driver, "tea")


def test_key_value_store() -> None:
    hub, _, driver = one_node()
    assert hub.ask(driver, "kv_put", namespace="a", key=b"k1", value=b"v") is True
    assert hub.ask(driver, "kv_put", namespace="a", key=b"k1", value=b"w", overwrite=False) is False
    assert hub.ask(driver, "kv_get", namespace="a", key=b"k1") == b"v"
    assert hub.ask(driver, "kv_get", namespace="b", key=b"k1") is None
    hub.ask(driver, "kv_put", namespace="a", key=b"k2", value=b"v")
    assert hub.ask(driver, "kv_keys", namespace="a", prefix=b"k") == [b"k1", b"k2"]
    assert hub.ask(driver, "kv_exists", namespace="a", key=b"k2") is True
    assert hub.ask(driver, "kv_del", namespace="a", key=b"k", by_prefix=True) == 2
    with pytest.raises(LookupError, match="malformed"):
        hub.ask(driver, "kv_get")


def test_log_lines_go_to_the_driver_of_the_job() -> None:
    hub, node, driver = one_node()
    hub.driver("other")
    actor_id = hub.actor(driver, "a", {"class_name": "Counter"})
    worker = hub.ready(actor_id)
    pid = hub.hub.state.workers[worker].pid
    hub.say(node, wire.LOG_LINES, node, pid, "", "stdout", ["hello"])
    assert hub.take(driver, wire.LOG_LINES)[0][3:] == ["Counter", "stdout", ["hello"]]
    assert not hub.take(name("other"), wire.LOG_LINES)


def test_equal_events_give_equal_commands() -> None:
    """DET-1."""
    runs = []
    for _ in range(2):
        hub, _, driver = one_node()
        hub.want(driver, 1, 3, CPU=1.0)
        runs.append(hub.inbox)
    assert runs[0] == runs[1]
    assert isinstance(Received(b"", []), Received)


def test_time_that_the_hub_slept_is_forgiven_once() -> None:
    """A node that was heard after the sleep and is silent from then on dies as soon as any other."""
    hub, node, _ = one_node()
    hub.now += 1000.0
    hub.step(Received(node, [wire.HEARTBEAT, 1]))
    hub.hub.state.next_check = None
    hub.hub.state.wake_at(0.0)
    hub.pass_time(8.0)
    assert not hub.hub.state.nodes[node].alive
