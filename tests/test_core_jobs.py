"""Submitted jobs in the hub's core: states, budgets, groups, families, a restart (section 3.1 and 3.2)."""

from __future__ import annotations

from typing import Any

import pytest

from spoke import wire
from spoke.core.hub import HubConfig, HubCore
from spoke.core.jobstates import FAILURE, PREEMPTION, TERMINAL, TRANSITIONS, RetryBudget, move
from tests.hub_harness import Harness, one_node


def submit(h: Harness, peer: bytes, name: str, parent: str = "", **spec: Any) -> str:
    spec.setdefault("resources", {"CPU": 1})
    return str(h.ask(peer, "job_submit", spec={"name": name, "parent": parent, "run": {}, **spec}))


def started(h: Harness, node: bytes) -> list[tuple[str, int]]:
    return [(message[1], message[2]) for message in h.take(node, wire.RUN_JOB)]


def stopped(h: Harness, node: bytes) -> list[tuple[str, int, bool]]:
    return [(message[1], message[2], message[3]) for message in h.take(node, wire.STOP_JOB)]


def report(h: Harness, node: bytes, job: str, attempt: int, state: str, **info: Any) -> None:
    h.say(node, wire.JOB_STATE, job, attempt, state, {"at_ms": 1000, **info})


def run(h: Harness, node: bytes, job: str, attempt: int = 0) -> None:
    report(h, node, job, attempt, "RUNNING", pid=7)


def ended(h: Harness, node: bytes, job: str, attempt: int = 0, code: int | None = 0, **info: Any) -> None:
    report(h, node, job, attempt, "EXITED", code=code, **info)


def state(h: Harness, peer: bytes, job: str) -> str:
    return str(h.ask(peer, "job", id=job)["state"])


# -- states ---------------------------------------------------------------------------------------


def test_f08_one_table_of_transitions() -> None:
    assert len(TRANSITIONS) == 8
    assert TERMINAL == ("SUCCEEDED", "FAILED", "KILLED", "WORKER_FAILED", "UNSCHEDULABLE")
    assert move("PENDING", "RUNNING") == "RUNNING"
    for one, other in (("SUCCEEDED", "RUNNING"), ("RUNNING", "UNSCHEDULABLE"), ("FAILED", "PENDING")):
        with pytest.raises(AssertionError, match=f"from {one} to {other}"):
            move(one, other)


def test_f04_pending_running_succeeded() -> None:
    h, node, driver = one_node()
    assert submit(h, driver, "a") == "a"
    assert started(h, node) == [("a", 0)] and state(h, driver, "a") == "PENDING"
    report(h, node, "a", 0, "BUILDING", message="starting")
    assert h.ask(driver, "job", id="a")["message"] == "starting"
    run(h, node, "a")
    assert state(h, driver, "a") == "RUNNING" and h.free(node) == 1
    ended(h, node, "a", result=b"value")
    told = h.ask(driver, "job", id="a")
    assert (told["state"], told["exit_code"], told["has_result"]) == ("SUCCEEDED", 0, True)
    assert h.ask(driver, "job_result", id="a") == b"value"
    assert h.free(node) == 2


def test_f04_names() -> None:
    h, _, driver = one_node()
    submit(h, driver, "a")
    for name, text in (("", "needs a name"), ("a/b", "cannot contain"), ("a", "already exists")):
        with pytest.raises(LookupError, match=text):
            submit(h, driver, name)
    with pytest.raises(LookupError, match="no job 'ghost'"):
        h.ask(driver, "job", id="ghost")
    with pytest.raises(LookupError, match="parent job 'ghost' is unknown"):
        submit(h, driver, "b", parent="ghost")
    with pytest.raises(LookupError, match="parent"):  # no cycle can be written: the parent must be there
        submit(h, driver, "c", parent="c")


def test_f06_a_wait_is_answered_when_it_happens() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a")
    h.take(driver, wire.RESPONSE)
    h.say(driver, wire.REQUEST, 1, "job_wait", {"id": "a", "version": None})
    h.say(driver, wire.REQUEST, 2, "job_wait", {"id": "a", "version": 2})
    assert h.take(driver, wire.RESPONSE) == []
    run(h, node, "a")
    (answer,) = h.take(driver, wire.RESPONSE)
    assert answer[1] == 2 and answer[3]["state"] == "RUNNING"
    ended(h, node, "a")
    (answer,) = h.take(driver, wire.RESPONSE)
    assert answer[1] == 1 and answer[3]["state"] == "SUCCEEDED"


def test_a_job_outlives_the_client_that_submitted_it() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a")
    h.say(driver, wire.REQUEST, 1, "job_wait", {"id": "a", "version": None})
    h.lose(driver)
    assert stopped(h, node) == []
    run(h, node, "a")
    ended(h, node, "a")
    other = h.driver("other", node)
    assert state(h, other, "a") == "SUCCEEDED"


# -- resources ------------------------------------------------------------------------------------


def test_f09_two_run_and_two_wait() -> None:
    h, node, driver = one_node(4)
    for name in "abcd":
        submit(h, driver, name, resources={"CPU": 2})
    assert started(h, node) == [("a", 0), ("b", 0)]
    run(h, node, "a")
    ended(h, node, "a")
    assert started(h, node) == [("c", 0)]
    for name in "bc":
        run(h, node, name)
        ended(h, node, name)
    assert started(h, node) == [("d", 0)]


def test_f10_a_cpu_job_runs_on_a_gpu_node() -> None:
    h, node, driver = one_node(2, GPU=2)
    submit(h, driver, "a")
    submit(h, driver, "g", resources={"GPU": 1})
    (first, second) = h.take(node, wire.RUN_JOB)
    assert first[3]["gpu_ids"] == [] and second[3]["gpu_ids"] == [0]


def test_f11_a_big_job_holds_up_nobody() -> None:
    h, node, driver = one_node(4)
    submit(h, driver, "big", resources={"CPU": 100})
    submit(h, driver, "small")
    assert started(h, node) == [("small", 0)]
    assert state(h, driver, "big") == "PENDING"


def test_strict_fifo_lets_nobody_pass() -> None:
    h = Harness(scheduler="strict_fifo")
    node = h.node("n1", CPU=4)
    driver = h.driver("driver", node)
    submit(h, driver, "first", resources={"CPU": 3})
    submit(h, driver, "second", resources={"CPU": 3})
    submit(h, driver, "third")
    assert started(h, node) == [("first", 0)]
    run(h, node, "first")
    ended(h, node, "first")
    assert started(h, node) == [("second", 0), ("third", 0)]


def test_spread_goes_round_the_nodes() -> None:
    h = Harness(scheduler="spread")
    one, two = h.node("n1", CPU=4), h.node("n2", CPU=4)
    driver = h.driver("driver", one)
    for name in "abcd":
        submit(h, driver, name)
    assert (len(started(h, one)), len(started(h, two))) == (2, 2)


def test_jobs_and_tasks_share_the_cpus() -> None:
    h, node, driver = one_node(2)
    h.want(driver, 1, 2, CPU=1)
    assert len(h.grants(driver)) == 2
    submit(h, driver, "a")
    assert started(h, node) == [] and h.take(driver, wire.RECLAIM)
    lease = next(iter(h.hub.state.leases))
    h.want(driver, 1, 1, CPU=1)
    h.say(driver, wire.GIVE_BACK, lease, False)
    assert started(h, node) == [("a", 0)]


def test_f12_scheduling_timeout() -> None:
    h, node, driver = one_node(2)
    submit(h, driver, "a", resources={"CPU": 100}, scheduling_timeout_s=2.0)
    h.pass_time(1.5, node)
    assert state(h, driver, "a") == "PENDING"
    h.pass_time(2.0, node)
    told = h.ask(driver, "job", id="a")
    assert (told["state"], told["message"]) == ("UNSCHEDULABLE", "Scheduling timeout exceeded (2s)")


def test_f12_the_clock_begins_anew_with_each_attempt() -> None:
    h, node, driver = one_node(1)
    other = h.node("n2", CPU=1)
    submit(h, driver, "a", scheduling_timeout_s=3.0)
    where = node if started(h, node) else other
    run(h, where, "a")
    h.pass_time(10.0, node, other)
    submit(h, driver, "b", scheduling_timeout_s=100.0)
    h.lose(other)  # one of them is preempted and waits again
    h.pass_time(1.0, node)
    waiting = [job for job in ("a", "b") if state(h, h.driver("d2", node) if job == "a" else name_of(h), job)]
    assert waiting == ["a", "b"]
    assert "UNSCHEDULABLE" not in (state(h, name_of(h), "a"), state(h, name_of(h), "b"))


def name_of(h: Harness) -> bytes:
    return next(peer for peer in h.hub.state.clients)


# -- retries --------------------------------------------------------------------------------------


def test_f13_f15_failures_within_their_budget() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a", retries={"max_failures": 2})
    for attempt in (0, 1):
        assert started(h, node) == [("a", attempt)]
        run(h, node, "a", attempt)
        ended(h, node, "a", attempt, code=1)
        assert state(h, driver, "a") == "PENDING"
    assert started(h, node) == [("a", 2)]
    run(h, node, "a", 2)
    ended(h, node, "a", 2)
    told = h.ask(driver, "job", id="a")
    assert told["state"] == "SUCCEEDED" and told["failures"] == 2
    assert [(one["number"], one["state"], one["exit_code"]) for one in told["attempts"]] == [
        (0, "FAILED", 1), (1, "FAILED", 1), (2, "SUCCEEDED", 0),
    ]  # fmt: skip


def test_f13_without_a_budget_the_first_failure_is_the_end() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a")
    run(h, node, "a")
    ended(h, node, "a", code=3)
    told = h.ask(driver, "job", id="a")
    assert (told["state"], told["exit_code"], told["message"]) == ("FAILED", 3, "exit code 3")


def test_f13_preemptions_are_counted_apart() -> None:
    h = Harness()
    home = h.node("n0")
    driver = h.driver("driver", home)
    submit(h, driver, "a", retries={"max_failures": 0, "max_preemptions": 1})
    for number in (1, 2):
        node = h.node(f"n{number}", CPU=1)
        assert started(h, node) == [("a", number - 1)]
        run(h, node, "a", number - 1)
        h.lose(node)
    told = h.ask(driver, "job", id="a")
    assert (told["state"], told["preemptions"], told["failures"]) == ("WORKER_FAILED", 2, 0)
    assert [one["is_worker_failure"] for one in told["attempts"]] == [True, True]


def test_f15_stale_reports_are_ignored() -> None:
    h, node, driver = one_node()
    other = h.node("n2")
    submit(h, driver, "a", retries={"max_failures": 1})
    run(h, node, "a")
    ended(h, node, "a", code=1)
    ended(h, node, "a", 0, code=0)  # again, of the old attempt
    ended(h, other, "a", 1, code=0)  # of another node
    ended(h, node, "ghost", 0)
    assert state(h, driver, "a") == "PENDING"
    run(h, node, "a", 1)
    ended(h, node, "a", 1)
    assert state(h, driver, "a") == "SUCCEEDED"


def test_f14_policy_of_exit_codes_and_delays() -> None:
    budget = RetryBudget({"max_failures": 5, "initial_delay_s": 1.0, "max_delay_s": 5.0, "no_retry_on": [1],
                          "retry_on": [137, 1]})  # fmt: skip
    assert budget.allows(FAILURE, 1, 137)
    assert not budget.allows(FAILURE, 1, 1)  # in both lists: not retried
    assert not budget.allows(FAILURE, 1, 2)
    assert not budget.allows(FAILURE, 6, 137)
    assert budget.allows(PREEMPTION, 100, None) and not budget.allows(PREEMPTION, 101, None)
    for count, base in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0)):
        assert 0.9 * base <= budget.delay_s("job", count) <= 1.1 * base
    with pytest.raises(ValueError, match="numbers"):
        RetryBudget({"multiplier": 0.5})


def test_f14_the_pause_is_kept() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a", retries={"max_failures": 1, "initial_delay_s": 4.0})
    started(h, node)
    run(h, node, "a")
    ended(h, node, "a", code=1)
    h.pass_time(3.0, node)
    assert started(h, node) == []
    h.pass_time(3.0, node)
    assert started(h, node) == [("a", 1)]


# -- stopping and families ------------------------------------------------------------------------


def test_f23_a_stop_reaches_the_agent_and_ends_when_the_processes_are_gone() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a", retries={"max_failures": 5})
    run(h, node, "a")
    assert h.ask(driver, "job_stop", id="a") is True
    assert stopped(h, node) == [("a", 0, False)]
    assert state(h, driver, "a") == "RUNNING" and h.free(node) == 1  # GANG-3: not before they are reaped
    ended(h, node, "a", code=143, reason="killed by signal 15")
    told = h.ask(driver, "job", id="a")
    assert (told["state"], told["message"]) == ("KILLED", "Terminated by user")
    assert h.ask(driver, "job_stop", id="a") is False  # no-op


def test_a_kill_while_building_is_honoured_at_once() -> None:
    """Fluster honoured it only after the container had started, and left that running (3.9, 4)."""
    h, node, driver = one_node()
    submit(h, driver, "a")
    report(h, node, "a", 0, "BUILDING")
    h.ask(driver, "job_stop", id="a")
    assert stopped(h, node) == [("a", 0, False)]
    ended(h, node, "a", code=137)
    assert state(h, driver, "a") == "KILLED"


def test_f23_a_waiting_job_is_killed_at_once() -> None:
    h, node, driver = one_node()
    submit(h, driver, "a", resources={"CPU": 100})
    h.ask(driver, "job_stop", id="a")
    assert state(h, driver, "a") == "KILLED" and stopped(h, node) == []


@pytest.mark.parametrize("code", [0, 1])
def test_f24_children_end_with_their_parent_and_before_it(code: int) -> None:
    h, node, driver = one_node(4)
    for name, parent in (("root", ""), ("c", "root"), ("d", "root/c")):
        job = submit(h, driver, name, parent)
        run(h, node, job)
    assert h.ask(driver, "job", id="root/c/d")["parent"] == "root/c"
    ended(h, node, "root", code=code)
    assert [job for job, _, _ in stopped(h, node)] == ["root/c/d", "root/c"]
    assert state(h, driver, "root") == "RUNNING"  # until nothing below it runs
    ended(h, node, "root/c", code=143)
    assert state(h, driver, "root/c") == "RUNNING"
    ended(h, node, "root/c/d", code=143)
    found = [state(h, driver, job) for job in ("root/c/d", "root/c", "root")]
    assert found == ["KILLED", "KILLED", "FAILED" if code else "SUCCEEDED"]


def test_f07_terminate_prefix_ends_only_that_tree() -> None:
    h, node, driver = one_node(8)
    for name, parent in (("exp", ""), ("a", "exp"), ("exp2", ""), ("other", "")):
        run(h, node, submit(h, driver, name, parent))
    assert h.ask(driver, "jobs_stop_prefix", prefix="exp/") == ["exp/a"]
    assert [job for job, _, _ in stopped(h, node)] == ["exp/a"]
    ended(h, node, "exp/a", code=143)
    assert h.ask(driver, "jobs_stop_prefix", prefix="exp/") == []
    assert h.ask(driver, "jobs_stop_prefix", prefix="exp/", exclude_finished=False) == ["exp/a"]
    listed = h.ask(driver, "submitted_jobs", prefix="exp", states=["RUNNING"])
    assert [job["job_id"] for job in listed] == ["exp", "exp2"]


def test_a_retried_parent_may_submit_its_children_again() -> None:
    h, node, driver = one_node(4)
    run(h, node, submit(h, driver, "p", retries={"max_failures": 1}))
    run(h, node, submit(h, driver, "c", "p"))
    ended(h, node, "p", code=1)
    assert stopped(h, node) == [("p/c", 0, False)]
    ended(h, node, "p/c", code=143)
    run(h, node, "p", 1)
    assert submit(h, driver, "c", "p") == "p/c"
    with pytest.raises(LookupError, match="already exists"):
        submit(h, driver, "c", "p")


def test_a_child_of_an_ended_parent_is_refused() -> None:
    h, node, driver = one_node()
    run(h, node, submit(h, driver, "p"))
    ended(h, node, "p")
    with pytest.raises(LookupError, match="has ended"):
        submit(h, driver, "c", "p")


# -- groups ---------------------------------------------------------------------------------------


def group(h: Harness, peer: bytes, *cpus: float, **spec: Any) -> list[str]:
    specs = [{"name": f"g{i}", "resources": {"CPU": n}, "run": {}, **spec} for i, n in enumerate(cpus)]
    found: list[str] = h.ask(peer, "jobs_submit_group", specs=specs)
    return found


def test_f49_a_group_with_an_impossible_member_starts_none() -> None:
    h, node, driver = one_node(4)
    group(h, driver, 1, 1, 100)
    assert started(h, node) == [] and h.free(node) == 4
    submit(h, driver, "after")
    assert started(h, node) == [("after", 0)]


def test_f49_a_group_waits_until_all_fit() -> None:
    h, node, driver = one_node(2)
    run(h, node, submit(h, driver, "before"))
    group(h, driver, 1, 1)
    started(h, node)
    ended(h, node, "before")
    assert started(h, node) == [("g0", 0), ("g1", 0)]


def test_a_group_that_is_said_again_is_the_same_and_its_like_is_refused() -> None:
    """As a client does after a restart of the hub, which may have heard it (HUB-2)."""
    h, node, driver = one_node(4)
    said = group(h, driver, 1, 1, key="k1")
    assert group(h, driver, 1, 1, key="k1") == said == ["g0", "g1"]
    assert started(h, node) == [("g0", 0), ("g1", 0)] and h.free(node) == 2
    for other in ({"key": "k2"}, {}):
        with pytest.raises(Exception, match="g0 already exists"):
            group(h, driver, 1, 1, **other)
    with pytest.raises(Exception, match="g0 already exists"):
        group(h, driver, 1, 1, 1, key="k1")  # more than what was said


def test_a_groups_member_that_fails_for_good_ends_all() -> None:
    """Fluster left PENDING members behind (3.2)."""
    h, node, driver = one_node(3)
    for job in group(h, driver, 1, 1, 1):
        run(h, node, job)
    ended(h, node, "g1", code=1)
    assert sorted(job for job, _, _ in stopped(h, node)) == ["g0", "g2"]
    for job in ("g0", "g2"):
        ended(h, node, job, code=143)
    assert [state(h, driver, job) for job in ("g0", "g1", "g2")] == ["KILLED", "FAILED", "KILLED"]


def test_a_group_is_tried_again_together() -> None:
    h, node, driver = one_node(2)
    for job in group(h, driver, 1, 1, retries={"max_failures": 1}):
        run(h, node, job)
    started(h, node)
    ended(h, node, "g0", code=1)
    assert stopped(h, node) == [("g1", 0, False)] and started(h, node) == []
    ended(h, node, "g1", code=143)
    assert started(h, node) == [("g0", 1), ("g1", 1)]
    told = h.ask(driver, "job", id="g1")
    assert (told["failures"], told["attempt"]) == (0, 1)


def test_a_group_without_budget_in_one_member_is_not_tried_again() -> None:
    h, node, driver = one_node(2)
    specs = [{"name": f"g{i}", "resources": {"CPU": 1}, "run": {}, "retries": {"max_failures": n}}
             for i, n in enumerate((1, 0))]  # fmt: skip
    for job in h.ask(driver, "jobs_submit_group", specs=specs):
        run(h, node, job)
    ended(h, node, "g0", code=1)
    ended(h, node, "g1", code=143)
    assert [state(h, driver, job) for job in ("g0", "g1")] == ["FAILED", "KILLED"]


# -- nodes ----------------------------------------------------------------------------------------


def test_a_lost_node_leaves_nothing_booked_and_its_reports_are_not_heard() -> None:
    """Fluster never cleared a lost worker's jobs, and let it go on with its copy (3.9, 3)."""
    h, node, driver = one_node(1)
    home = h.node("home")
    peer = h.driver("d2", home)
    run(h, node, submit(h, peer, "a"))
    h.lose(node)
    assert state(h, peer, "a") == "PENDING"
    other = h.node("n2", CPU=1)
    assert started(h, other) == [("a", 1)]
    ended(h, node, "a")
    assert state(h, peer, "a") == "PENDING"
    run(h, other, "a", 1)
    ended(h, other, "a", 1)
    assert state(h, peer, "a") == "SUCCEEDED"
    assert driver


# -- a restart of the hub -------------------------------------------------------------------------


def test_jobs_survive_a_restart_of_the_hub() -> None:
    h, node, driver = one_node(2)
    for name, cpus in (("done", 1), ("on", 1), ("lost", 1), ("waits", 100)):
        submit(h, driver, name, resources={"CPU": cpus}, retries={"max_failures": 0})
    run(h, node, "done")
    ended(h, node, "done", result=b"x")
    run(h, node, "on")
    run(h, node, "lost")
    records = [job.record() for job in h.hub.submissions.jobs.values()]
    plain = [wire.decode(wire.encode(wire.REQUEST, 1, "x", record))[3] for record in records]

    again = Harness()
    again.hub.submissions.restore(plain)
    fresh = again.node("n1", CPU=2)
    peer = again.driver("driver", fresh)
    again.say(fresh, wire.JOBS_RUNNING, [["on", 0, 7, {}], ["ghost", 0, 8, {}]])
    assert stopped(again, fresh) == [("ghost", 0, True)]  # nobody knows it: it must not run on
    assert state(again, peer, "lost") == "RUNNING"  # its agent may come back yet
    again.pass_time(10.0, fresh)
    found = {job: state(again, peer, job) for job in ("done", "on", "lost", "waits")}
    assert found == {"done": "SUCCEEDED", "on": "RUNNING", "lost": "PENDING", "waits": "PENDING"}
    assert started(again, fresh) == [("lost", 1)]
    assert again.ask(peer, "job_result", id="done") == b"x"
    ended(again, fresh, "on")
    assert state(again, peer, "on") == "SUCCEEDED"


def test_equal_events_give_equal_commands() -> None:
    """DET-1, F-02: the table is a pure function of what happened."""

    def once() -> str:
        h, node, driver = one_node(2)
        for name in "abc":
            submit(h, driver, name, retries={"max_failures": 1, "initial_delay_s": 1.0})
        run(h, node, "a")
        ended(h, node, "a", code=1)
        h.pass_time(3.0, node)
        return repr((h.inbox, h.hub.state.now))

    assert once() == once()
    assert HubCore(HubConfig(scheduler="spread")).state.config.scheduler == "spread"
