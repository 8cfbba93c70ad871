"""Who polls: the lead is never lost between threads that wait."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from spoke import wire
from spoke.cancelling import Interrupts
from spoke.client import Client
from spoke.lead import Lead, Waiter
from spoke.links import FRAME


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


def test_an_interrupt_waits_until_what_has_arrived_is_taken() -> None:
    taken: list[bytes] = []

    def handler(link: Any, message: list[Any], payload: Any) -> None:
        taken.append(message[1])
        signal.raise_signal(signal.SIGINT)  # the job that waits here is cancelled
        taken.append(message[1])

    link = SimpleNamespace(ready=True)
    lead = SimpleNamespace(interrupted=False)
    client: Any = Client.__new__(Client)
    client.lead, client.lock, client.handlers = lead, threading.Lock(), {wire.HELD: handler}
    client.links = SimpleNamespace(by_conn={1: link}, broken=[])
    client._settle = lambda: None  # type: ignore[method-assign]
    frames = [(FRAME, 1, wire.encode(wire.HELD, [key]), None) for key in (b"a", b"b")]
    before = signal.getsignal(signal.SIGINT)
    try:
        Interrupts().install(client)
        client._dispatch(frames)
        assert lead.interrupted and len(taken) == 4, "none is lost, nor half of one"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
