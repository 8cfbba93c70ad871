"""Looks into processes: all are asked, nobody is waited for longer than said, nothing grows without bound."""

from __future__ import annotations

from typing import Any

import pytest

from spoke import wire
from spoke.core.inspection import BYTES_MAX, OPEN_MAX, PAST_BYTES
from tests.hub_harness import Harness


def cluster() -> tuple[Harness, bytes, bytes, bytes]:
    """A hub with a node, two drivers, and a worker of the first."""
    hub = Harness()
    hub.node("n", CPU=2.0)
    first, second = hub.driver("first"), hub.driver("second")
    hub.want(first, 1, 1, CPU=1.0)
    (grant,) = hub.grants(first)
    return hub, first, second, grant[3][0]


def ask(hub: Harness, asker: bytes, number: int, **args: Any) -> None:
    hub.say(asker, wire.REQUEST, number, "inspect", {"topic": "tasks", **args})


def asked(hub: Harness, *peers: bytes) -> list[int]:
    """The hub's number of the question that each of these was asked last."""
    return [hub.take(peer, wire.INSPECT)[-1][1] for peer in peers]


def answers(hub: Harness, asker: bytes) -> list[list[Any]]:
    return hub.take(asker, wire.RESPONSE)


def test_all_are_asked_and_answered_together() -> None:
    hub, first, second, worker = cluster()
    ask(hub, first, 77)
    numbers = asked(hub, first, second, worker)
    for peer, number in zip((second, worker), numbers[1:], strict=True):
        hub.say(peer, wire.INSPECTED, number, b"of " + peer[:6])
    assert not answers(hub, first)
    hub.say(first, wire.INSPECTED, numbers[0], b"mine")
    (answer,) = answers(hub, first)
    assert answer[1] == 77 and answer[2] is None and answer[3]["missing"] == []
    rows = {row[1]: row for row in answer[3]["answers"]}
    assert set(rows) == {first, second, worker} and rows[first][-1] == b"mine"
    assert rows[worker][0] == "worker" and rows[first][0] == "driver"
    assert rows[worker][5] == rows[first][5] != rows[second][5]  # whose job


def test_who_does_not_answer_in_time_is_named() -> None:
    hub, first, second, worker = cluster()
    ask(hub, first, 1, within_s=2.0)
    (number,) = asked(hub, worker)
    hub.say(worker, wire.INSPECTED, number, b"w")
    hub.pass_time(1.0)
    assert not answers(hub, first)
    hub.pass_time(2.0)
    (answer,) = answers(hub, first)
    assert {row[1] for row in answer[3]["missing"]} == {first, second}
    hub.say(second, wire.INSPECTED, number, b"late")
    assert not answers(hub, first)


def test_one_process_can_be_asked_alone() -> None:
    hub, first, second, worker = cluster()
    ask(hub, first, 1, process=worker)
    assert not hub.take(second, wire.INSPECT) and not hub.take(first, wire.INSPECT)
    (number,) = asked(hub, worker)
    hub.say(second, wire.INSPECTED, number, b"not asked")
    assert not answers(hub, first)
    hub.say(worker, wire.INSPECTED, number, b"w")
    (answer,) = answers(hub, first)
    assert [row[-1] for row in answer[3]["answers"]] == [b"w"]
    ask(hub, first, 2, process=b"nobody")
    assert answers(hub, first)[0][3] == {"answers": [], "missing": []}


def test_the_lost_are_not_waited_for() -> None:
    hub, first, second, worker = cluster()
    ask(hub, first, 1)
    ask(hub, second, 2)
    numbers = [message[1] for message in hub.take(worker, wire.INSPECT)]
    hub.lose(second)  # asked, and asker of the second question
    for number in numbers:
        hub.say(worker, wire.INSPECTED, number, b"w")
        hub.say(first, wire.INSPECTED, number, b"f")
    (answer,) = answers(hub, first)
    assert {row[1] for row in answer[3]["answers"]} == {first, worker}


def test_answers_and_questions_are_bounded() -> None:
    """LIM-1"""
    hub, first, second, worker = cluster()
    ask(hub, first, 1)
    (number,) = asked(hub, worker)
    hub.say(worker, wire.INSPECTED, number, b"w")
    hub.say(second, wire.INSPECTED, number, b"x" * BYTES_MAX)
    (answer,) = answers(hub, first)
    assert [row[1] for row in answer[3]["answers"]] == [worker]
    assert {row[1] for row in answer[3]["missing"]} == {first, second}
    for index in range(OPEN_MAX):
        ask(hub, first, 10 + index)
    assert not answers(hub, first)
    ask(hub, second, 99)
    error = answers(hub, second)[0][2]
    assert error == ["RuntimeError", f"{OPEN_MAX} questions to all processes wait already"]


def test_what_a_worker_said_before_it_was_stopped_is_kept() -> None:
    hub, first, second, worker = cluster()
    hub.say(worker, wire.REQUEST, 0, "owns", {"count": 0, "calls": b"my calls"})
    hub.step(hub.exit_of(worker))
    hub.lose(second)
    (grant,) = hub.grants(first)[-1:]  # its successor
    ask(hub, first, 1)
    for peer in (first, grant[3][0]):
        (number,) = asked(hub, peer)
        hub.say(peer, wire.INSPECTED, number, b"new")
    (answer,) = answers(hub, first)
    told = [[row[1], row[-1]] for row in answer[3]["answers"]]
    assert told == [[worker, b"my calls"], [first, b"new"], [grant[3][0], b"new"]]
    inspections = hub.hub.inspections
    for _ in range(3):  # the oldest go
        inspections._past.append([b"x" * (PAST_BYTES // 2)])
        inspections._past_bytes += PAST_BYTES // 2
    hub.say(grant[3][0], wire.REQUEST, 0, "owns", {"count": 0, "calls": b"later"})
    hub.step(hub.exit_of(grant[3][0]))
    assert inspections._past[-1][-1] == b"later" and inspections._past_bytes <= PAST_BYTES
    assert inspections._past_bytes == sum(len(row[-1]) for row in inspections._past)


class Untouchable(Exception):
    """What unpickling a ref inside an exception does with the lock held: it never returns."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("it was unpickled",)


def test_calls_of_an_actor_whose_constructor_failed_are_rows_too() -> None:
    """Their error is an exception of the user's, which is not unpickled: the client's lock is held."""
    from spoke import codec, inspecting

    for error, said in ((Untouchable(), "constructor raised"), (("ActorDiedError", "no luck"), "no luck")):
        packed = codec.dumps(error)[0]
        kept = [b"c" * 24, None, "A.f", b"a" * 16, "FAILED", 1, 0, "", 0, None, None, False, packed]
        row = inspecting._failed(kept)
        assert len(row) == len(inspecting.TASK_FIELDS)
        assert row[7] == "ACTOR_DIED" and said in row[-1]
