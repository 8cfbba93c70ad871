"""Who polls: the lead is never lost between threads that wait."""

from __future__ import annotations

import threading
import time
from typing import Any

from spoke.lead import Lead, Waiter


class Reactor:
    """Stands in for the native one; `poll` hands out one event per turn."""

    def __init__(self) -> None:
        self.polls = 0

    def poll(self, timeout_us: int, spin_us: int = 0) -> list[Any]:
        self.polls += 1
        time.sleep(0.001)
        return ["event"]

    def wake(self) -> None:
        """Nothing sleeps here for long."""


def follow(lead: Lead, waiter: Waiter) -> threading.Thread:
    thread = threading.Thread(target=lead.wait, args=(waiter,), daemon=True)
    count = len(lead._followers)
    thread.start()
    while len(lead._followers) == count:
        time.sleep(0.001)
    return thread


def test_a_lead_handed_to_a_thread_that_is_done_is_passed_on() -> None:
    """It was lost: the other follower slept on with nobody polling."""
    waiting: list[Waiter] = []
    lead = Lead(
        Reactor(),  # type: ignore[arg-type]
        lambda events: [waiter.finish() for waiter in waiting] and None,
        lambda: None,
        lambda now: None,
    )
    lead._lead.acquire()  # some thread leads
    first, second = Waiter(1), Waiter(1)
    waiting.append(first)
    threads = [follow(lead, first), follow(lead, second)]
    second.done = True  # resolved by the leader in its last turn ...
    lead._lead.release()
    lead._hand_over()  # ... and given the lead
    for thread in threads:
        thread.join(5)
    assert first.done and not any(thread.is_alive() for thread in threads)


def test_held_back_frames_go_out_when_a_thread_takes_the_lead() -> None:
    """Frames held by another thread between this one's wait and its taking of the lead."""
    flushed: list[int] = []
    lead = Lead(Reactor(), lambda events: waiter.finish(), lambda: None, lambda now: None)  # type: ignore[arg-type]
    waiter = Waiter(1)
    lead.held = {1: 1}
    lead.before_waiting = lambda: flushed.append(int(lead.taken()))
    lead.wait(waiter)
    assert flushed == [0, 1], "once before waiting, once with the lead"
