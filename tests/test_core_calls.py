"""Calls from the caller's side: events in, commands out (spoke/core/calls.py, channels.py, leasing.py)."""

from __future__ import annotations

from typing import Any

from spoke import wire
from spoke.core.calls import Call, CallTable
from spoke.core.leasing import TURN_S, VERDICT_S
from spoke.core.refs import CANCELLED, EXCEPTION, PENDING, SYSTEM, VALUE, Entry
from tests.hub_harness import Harness, one_node

ACTOR = b"a" * 16
WORKER, OTHER = b"w" * 28, b"o" * 28
HOST = [WORKER, b"n" * 28, "host", 1]
OTHER_HOST = [OTHER, b"n" * 28, "host", 2]


def table() -> CallTable:
    made = CallTable(lambda name, text: [name, text])
    made.actors.on_death = lambda channel: (SYSTEM, ["ActorDiedError", "gone"])
    return made


def call(number: int, key: Any = ACTOR, retries: int = 0, needs: list[Entry] | None = None) -> Call:
    made = Call(number.to_bytes(24, "big"), key, "method", [], 1)
    made.retries_left = retries
    made.slots = list(enumerate(needs)) if needs else None
    return made


def take(calls: CallTable, what: str) -> list[Any]:
    """The last field of each command of one kind since the last look; all commands are taken."""
    calls.validate()
    found = [order[1] if what in ("hub", "done") else order[-1] for order in calls.out if order[0] == what]
    calls.out = []
    return found


def alive(calls: CallTable, incarnation: int = 0, host: Any = None) -> None:
    calls.actors.on_state(ACTOR, "ALIVE", incarnation, host or HOST, {}, b"")


def leased(calls: CallTable, *numbers: int, retries: int = 0) -> list[Call]:
    """Calls of a class that has one lease, number 1, on WORKER."""
    calls.tasks.task_class(7, {})
    made = [call(number, 7, retries) for number in numbers]
    for one in made:
        calls.submit(one)
    calls.tasks.granted(0.0, 7, 1, HOST, {})
    return made


# -- CALL-1: an answer counts that was sent before the actor said that it exits


def test_CALL_1_the_hub_tells_of_an_exit_ahead_of_the_last_answers() -> None:
    calls = table()
    alive(calls)
    answered, lost, later = call(1), call(2), call(3)
    calls.submit(answered)
    calls.submit(lost)
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {"kind": "exited"}, b"")
    assert take(calls, "done") == [], "what is under way may have been answered"
    calls.submit(later)
    assert take(calls, "done") == [later], "no other call goes to it"
    assert calls.replied(0.0, WORKER, answered.id, 1) is answered
    calls.on_peer_lost(0.0, WORKER)
    assert take(calls, "done") == [lost] and not calls.calls


def test_CALL_3_an_exit_is_told_after_the_link_has_ended() -> None:
    calls = table()
    alive(calls)
    lost = call(1)
    calls.submit(lost)
    calls.on_peer_lost(0.0, WORKER)
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {"kind": "exited"}, b"")
    assert take(calls, "done") == [lost]


# -- CALL-2: order


def test_calls_wait_for_the_address_and_go_in_order() -> None:
    calls = table()
    first, second = call(1), call(2)
    calls.submit(first)
    calls.submit(second)
    assert take(calls, "hub") == [(wire.WATCH_ACTOR, ACTOR)]
    alive(calls)
    assert take(calls, "send") == [first, second]


def test_a_call_that_waits_for_an_argument_holds_later_ones_back() -> None:
    calls = table()
    alive(calls)
    pending = Entry(b"x" * 28, None)
    first, second = call(1, needs=[pending]), call(2)
    calls.submit(first)
    calls.submit(second)
    assert take(calls, "send") == []
    pending.status = VALUE
    for waiter in pending.waiters or ():
        waiter.resolved(pending)
    assert take(calls, "send") == [first, second]


def test_an_actor_without_order_does_not_hold_calls_back() -> None:
    calls = table()
    alive(calls)
    calls.actors.channels[ACTOR].out_of_order = True
    first, second = call(1, needs=[Entry(b"x" * 28, None)]), call(2)
    calls.submit(first)
    calls.submit(second)
    assert take(calls, "send") == [second]


def test_retried_calls_keep_their_order_in_the_next_incarnation() -> None:
    calls = table()
    alive(calls)
    mine = [call(number, retries=1) for number in range(3)]
    for one in mine:
        calls.submit(one)
    take(calls, "send")
    calls.actors.on_state(ACTOR, "RESTARTING", 1, None, {}, b"")
    late = call(9, retries=1)
    calls.submit(late)
    alive(calls, 1, OTHER_HOST)
    assert take(calls, "send") == [*mine, late]


def test_calls_behind_a_constructor_that_never_returned_go_to_the_next_incarnation() -> None:
    calls = table()
    alive(calls)
    mine = [call(number) for number in range(3)]
    for one in mine:
        calls.submit(one)
    calls.cancel(mine[1], False, True)
    take(calls, "send")
    calls.actors.on_state(ACTOR, "RESTARTING", 1, None, {"unborn": True}, b"")
    assert take(calls, "done") == [mine[1]], "it was cancelled"
    alive(calls, 1, OTHER_HOST)
    assert take(calls, "send") == [mine[0], mine[2]], "none has run: it is no attempt"
    calls.actors.on_state(ACTOR, "RESTARTING", 3, None, {"unborn": True}, b"")
    alive(calls, 3)
    assert take(calls, "done") == [mine[0], mine[2]], "nothing is known of the second incarnation"


# -- CALL-1: once


def test_calls_that_may_not_be_repeated_fail_while_the_actor_is_restarted() -> None:
    calls = table()
    alive(calls)
    calls.actors.on_state(ACTOR, "RESTARTING", 1, None, {}, b"")
    calls.actors.on_state(ACTOR, "STARTING", 1, OTHER_HOST, {}, b"")
    once, again = call(1), call(2, retries=1)
    calls.submit(once)
    calls.submit(again)
    assert take(calls, "done") == [once] and take(calls, "send") == []
    alive(calls, 1, OTHER_HOST)
    after = call(3)
    calls.submit(after)
    assert take(calls, "send") == [again, after]


def test_a_second_reply_is_nobodys() -> None:
    calls = table()
    alive(calls)
    mine = call(1)
    calls.submit(mine)
    assert calls.replied(0.0, WORKER, mine.id, 5) is mine
    assert calls.replied(0.0, WORKER, mine.id, 5) is None
    calls.fail_named(mine, "RaySystemError", "late")
    assert take(calls, "done") == []


def test_what_is_queued_behind_a_call_that_fails_without_a_reply_is_sent() -> None:
    calls = table()
    first, second = leased(calls, 1, 2)
    assert take(calls, "send") == [first]
    calls.fail_named(first, "ObjectLostError", "its argument is gone")
    assert take(calls, "send") == [second]


def test_who_gives_the_last_worker_back_asks_for_another_while_something_is_queued() -> None:
    calls = table()
    first, second = leased(calls, 1, 2)
    calls.tasks.reclaim(0.0)
    calls.tasks.tick(TURN_S + 0.01)
    take(calls, "hub")
    calls.fail_named(first, "ObjectLostError", "its argument is gone")
    assert take(calls, "hub") == [(wire.GIVE_BACK, 1, False), (wire.WANT, 7, {}, 1)]
    calls.tasks.granted(1.0, 7, 2, OTHER_HOST, {})
    assert take(calls, "send") == [second]


def test_a_late_reply_takes_the_call_out_of_the_queue() -> None:
    """The worker was declared dead and its task queued again; then its answer came after all."""
    calls = table()
    (mine,) = leased(calls, 1, retries=1)
    take(calls, "send")
    calls.tasks.lease_lost(1, "its node was cut off", "node_died")
    assert calls.replied(0.0, WORKER, mine.id, 5) is mine
    calls.tasks.granted(0.0, 7, 2, OTHER_HOST, {})
    assert take(calls, "send") == []


def test_a_late_reply_of_a_call_that_runs_elsewhere_is_nobodys() -> None:
    """Its arguments are needed there until that worker has answered."""
    calls = table()
    (mine,) = leased(calls, 1, retries=1)
    calls.tasks.lease_lost(1, "its node was cut off", "node_died")
    calls.tasks.granted(0.0, 7, 2, OTHER_HOST, {})
    assert mine.peer == OTHER
    assert calls.replied(0.0, WORKER, mine.id, 5) is None
    assert calls.replied(0.0, OTHER, mine.id, 5) is mine


def test_a_late_reply_takes_the_call_out_of_the_actors_queue() -> None:
    calls = table()
    alive(calls)
    mine = call(1, retries=1)
    calls.submit(mine)
    take(calls, "send")
    calls.actors.on_state(ACTOR, "RESTARTING", 1, None, {}, b"")
    assert calls.replied(0.0, WORKER, mine.id, 5) is mine
    alive(calls, 1, OTHER_HOST)
    assert take(calls, "send") == []


def test_a_cancelled_call_that_is_handed_back_is_not_run() -> None:
    calls = table()
    (mine,) = leased(calls, 1)
    calls.cancel(mine, False, False)
    assert take(calls, "peer") == [(wire.CANCEL, mine.id, False, False)]
    calls.tasks.recalled(1, [mine.id])
    assert calls.out[0][:3] == ("done", mine, CANCELLED)
    assert take(calls, "send") == []


def test_a_retry_spends_the_budget() -> None:
    calls = table()
    (mine,) = leased(calls, 1, retries=1)
    take(calls, "send")
    calls.replied(0.0, WORKER, mine.id, 5)
    assert calls.retry(mine)
    assert take(calls, "send") == [mine]
    calls.replied(0.0, WORKER, mine.id, 5)
    assert not calls.retry(mine)


# -- CALL-3: nothing waits for ever


def test_a_borrowed_argument_is_fetched() -> None:
    calls = table()
    fetched: list[Entry] = []
    calls.fetch = fetched.append
    foreign = Entry(b"x" * 28, OTHER_HOST)
    calls.submit(call(1, needs=[foreign, Entry(b"y" * 28, None)]))
    assert fetched == [foreign]


def test_a_failed_argument_fails_the_call() -> None:
    calls = table()
    alive(calls)
    broken = Entry(b"x" * 28, None)
    broken.status, broken.value = EXCEPTION, [b"error"]
    mine = call(1, needs=[broken])
    calls.submit(mine)
    assert calls.out == [("done", mine, EXCEPTION, [b"error"])]
    after = call(2)
    calls.submit(after)
    assert take(calls, "send") == [after]


def test_calls_to_a_dead_actor_fail_at_once_whatever_they_wait_for() -> None:
    calls = table()
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {}, b"")
    pending = Entry(b"x" * 28, None)
    mine = call(1, needs=[pending])
    calls.submit(mine)
    assert take(calls, "done") == [mine]
    assert pending.status == PENDING and not pending.waiters


def test_death_fails_what_was_sent_and_what_waits() -> None:
    calls = table()
    alive(calls)
    sent, waiting = call(1, retries=5), call(2, needs=[Entry(b"x" * 28, None)])
    calls.submit(sent)
    calls.submit(waiting)
    take(calls, "send")
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {}, b"")
    assert take(calls, "done") == [sent, waiting]
    assert sent.left == WORKER, "its arguments may still be read there"
    assert waiting.left is None


def test_a_lost_link_without_a_verdict_ends_by_name_and_gives_the_worker_up() -> None:
    """The hub still counts a lease whose worker lives: the caller says that it will not use it again."""
    calls = table()
    (mine,) = leased(calls, 1)
    take(calls, "send")
    calls.on_peer_lost(10.0, WORKER)
    assert calls.next_deadline() == 10.0 + VERDICT_S
    calls.tick(10.0 + VERDICT_S)
    assert ("hub", (wire.GIVE_BACK, 1, True)) in calls.out
    assert take(calls, "done") == [mine]


def test_a_wanted_worker_that_hands_its_tasks_back_is_returned() -> None:
    """Else the lease would take no tasks and never end, and its tasks would wait for ever."""
    calls = table()
    first, second = leased(calls, 1, 2)
    assert take(calls, "send") == [first]
    calls.tasks.reclaim(0.0)
    calls.tick(TURN_S)
    take(calls, "hub")
    calls.tasks.recalled(1, [first.id])
    hub = take(calls, "hub")
    assert (wire.GIVE_BACK, 1, False) in hub
    assert any(message[0] == wire.WANT and message[3] >= 2 for message in hub)
    calls.tasks.granted(1.0, 7, 2, OTHER_HOST, {})
    assert take(calls, "send") == [first]
    assert second.peer is None


def test_an_actor_call_without_retries_is_unavailable_when_the_link_breaks() -> None:
    calls = table()
    alive(calls)
    mine, again = call(1), call(2, retries=-1)
    calls.submit(mine)
    calls.submit(again)
    take(calls, "send")
    calls.on_peer_lost(10.0, WORKER)
    assert calls.out == []
    calls.tick(10.0 + VERDICT_S)
    done = [order for order in calls.out if order[0] == "done"]
    assert [order[1] for order in done] == [mine]
    assert done[0][3][0] == "ActorUnavailableError"
    calls.out = []
    alive(calls)
    assert take(calls, "send") == [again]


# -- the hub's part: whom it declares dead


def test_the_death_of_a_node_names_its_processes() -> None:
    """Whoever has links to them closes these: nobody else would ever do it."""
    hub, node, driver = one_node()
    other = hub.driver("other", hub.node("n2", CPU=1.0))
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    hub.lose(node)
    (message,) = hub.take(other, wire.NODE_STATE)
    assert message[1] == node and sorted(message[4]) == sorted([grant[3][0], driver])


def test_a_driver_ends_with_its_node() -> None:
    """A machine without power closes no connection: its driver would keep its leases for ever."""
    hub, node, _ = one_node()
    elsewhere = hub.node("n2", CPU=1.0)
    lone = hub.driver("lone", elsewhere)
    hub.want(lone, 1, 1, {"strategy": {"kind": "node", "node_id": node, "soft": False}}, CPU=1.0)
    assert len(hub.grants(lone)) == 1
    hub.lose(elsewhere)
    assert lone in hub.dropped and hub.free(node) == 2.0


def test_a_driver_of_a_dead_node_is_not_let_in() -> None:
    hub, node, _ = one_node()
    hub.lose(node)
    late = hub.driver("late", node)
    assert late in hub.dropped and late not in hub.hub.state.clients


def test_an_actor_that_kills_itself_through_its_handle_is_killed() -> None:
    hub, node, driver = one_node()
    actor_id = hub.actor(driver, "a")
    worker = hub.ready(actor_id)
    hub.say(worker, wire.KILL_ACTOR, actor_id, True, "it was killed by kill()", -1)
    assert [message[1] for message in hub.take(node, wire.STOP_WORKER)] == [worker]


def test_an_actor_is_not_placed_in_the_process_that_owns_another() -> None:
    """Killing the one would take the other along."""
    hub, _, driver = one_node()
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    owner = grant[3][0]
    first = hub.actor(owner, "first")
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    second = hub.actor(driver, "second")
    assert owner not in (hub.started(first), hub.started(second))


def test_an_idle_worker_that_owns_what_others_hold_is_not_stopped() -> None:
    """Its objects would be lost, though nothing failed."""
    hub = Harness(prestart=1, idle_worker_s=3.0)
    node = hub.node("n1", CPU=1.0)
    driver = hub.driver("driver", node)
    hub.want(driver, 1, 2, CPU=0.5)
    grants = hub.grants(driver)
    owner = grants[0][3][0]
    hub.owns[owner] = 1
    hub.want(driver, 1, 0, CPU=0.5)
    for grant in grants:
        hub.say(driver, wire.GIVE_BACK, grant[2], False)
    hub.pass_time(10, node)
    assert list(hub.hub.state.nodes[node].workers) == [owner]


def test_news_older_than_the_loss_of_an_actor_do_not_fail_its_calls() -> None:
    """The link ends before the hub's word that the constructor returned arrives: the death decides."""
    calls = table()
    calls.actors.on_state(ACTOR, "STARTING", 0, HOST, {}, b"")
    calls.submit(call(1))
    take(calls, "send")
    calls.on_peer_lost(10.0, WORKER)
    alive(calls)
    assert [order for order in calls.out if order[0] == "done"] == []
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {}, b"")
    assert [order[3][0] for order in calls.out if order[0] == "done"] == ["ActorDiedError"]


# -- an actor that this process kills


def test_calls_after_a_kill_never_reach_the_killed_incarnation() -> None:
    calls = table()
    alive(calls)
    calls.submit(call(1))
    take(calls, "send")
    calls.actors.kill(ACTOR, True)
    calls.submit(call(2))
    alive(calls)  # said before the hub knew of the kill
    assert take(calls, "send") == []
    calls.actors.on_state(ACTOR, "DEAD", 0, None, {}, b"")
    assert [order[3][0] for order in calls.out if order[0] == "done"] == ["ActorDiedError"] * 2


def test_calls_after_a_kill_go_to_the_next_incarnation() -> None:
    calls = table()
    alive(calls)
    calls.actors.kill(ACTOR, False)
    later = call(2)
    calls.submit(later)
    alive(calls, 1, OTHER_HOST)
    assert take(calls, "send") == [later]
    calls.on_peer_lost(10.0, WORKER)  # the end of the killed one is no news of its successor
    calls.submit(call(3))
    assert len(take(calls, "send")) == 1
    assert calls.next_deadline() is None


def test_a_call_under_way_hears_of_the_lost_link_of_an_actor_killed_from_here() -> None:
    calls = table()
    alive(calls)
    calls.submit(call(1))
    take(calls, "send")
    calls.actors.kill(ACTOR, True)
    calls.on_peer_lost(10.0, WORKER)
    calls.tick(10.0 + VERDICT_S)
    assert [order[3][0] for order in calls.out if order[0] == "done"] == ["ActorUnavailableError"]


def test_a_kill_that_allows_a_restart_of_an_actor_not_yet_placed_holds_nothing_back() -> None:
    calls = table()
    mine = call(1)
    calls.submit(mine)
    calls.actors.kill(ACTOR, False)
    alive(calls)
    assert take(calls, "send") == [mine]
