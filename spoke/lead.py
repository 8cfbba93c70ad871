"""Who polls: the thread that waits for an answer reads it itself.

One thread at a time holds the *lead* and polls the reactor; it hands every event to the process's
dispatcher.  A thread in ``get`` takes the lead while it waits, so an answer costs one wake and no
thread switch.  Others that wait meanwhile are *followers*: they sleep until their own waiter is done
or the lead is handed to them.  When nobody waits, the I/O thread leads, after a short pause, so that
it does not run between two calls of a busy thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from spoke import config
from spoke._native import Reactor

SPIN_US: Final = 60  # how long a thread that waits stays awake, where that pays (see reactor.h)
LOOK_US: Final = 1_000_000  # a signal that arrives just before the sleep is seen this late at most


class Waiter:
    """Something a thread waits for: `remaining` resolutions, or any `finish()`."""

    __slots__ = ("_lock", "done", "remaining")

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self.done = False
        self._lock: Any = None  # made only by followers

    def resolved(self, entry: Any) -> None:
        """One of the awaited entries is resolved."""
        self.remaining -= 1
        if self.remaining <= 0:
            self.done = True
            if self._lock is not None:
                self.nudge()

    def finish(self) -> None:
        self.done = True
        if self._lock is not None:
            self.nudge()

    def nudge(self) -> None:
        """Wake the follower that sleeps on this waiter, if any."""
        lock = self._lock
        if lock is not None:
            try:
                lock.release()
            except RuntimeError:
                pass  # already awake

    def sleep(self, timeout: float) -> None:
        self._lock.acquire(True, timeout)


class Lead:
    """The lead over one reactor.

    Args:
        dispatch: called by the leader with a list of reactor events.
        next_deadline: monotonic seconds at which `tick` wants to run, or None.
        tick: runs due timers; called by the leader.
    """

    def __init__(
        self,
        reactor: Reactor,
        dispatch: Callable[[list[Any]], None],
        next_deadline: Callable[[], float | None],
        tick: Callable[[float], None],
    ) -> None:
        self.reactor = reactor
        self._dispatch = dispatch
        self._next_deadline = next_deadline
        self._tick = tick
        self._lead = threading.Lock()
        self.taken = self._lead.locked  # whether some thread polls right now
        self._followers: list[Waiter] = []
        self._turn = 0  # counts takeovers, so that the I/O thread sees whether others lead
        self._io_leads = False
        self._io_parked = False
        self._io_wake = threading.Semaphore(0)
        self._closing = False
        self.interrupted = False  # the thread that leads is to raise KeyboardInterrupt when it can
        # How long the lead must be free before the I/O thread takes it.
        self._pause_s = config.get("io_pause_s")
        self.held: Mapping[int, int] = {}  # what was held back, to be sent by ...
        self.before_waiting: Callable[[], None] = lambda: None  # ... this, where there is anything
        self._io = threading.Thread(target=self._io_loop, name="spoke-io", daemon=True)

    def start(self) -> None:
        self._io.start()

    def stop(self) -> None:
        """End the I/O thread; call without the lead."""
        self._closing = True
        self._io_parked = False
        self._io_wake.release()
        self.reactor.wake()
        if self._io.is_alive() and threading.current_thread() is not self._io:
            self._io.join(2.0)

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        """Block until `waiter.done`, or `deadline` (monotonic seconds); returns `waiter.done`."""
        if self.held:
            self.before_waiting()
        followed = False
        while not waiter.done:
            if self._lead.acquire(False):
                try:
                    self._turn += 1
                    if self.held:  # by others until now
                        self.before_waiting()
                    if not self._lead_until(waiter, deadline):
                        break
                finally:
                    self._lead.release()
                    if self._followers or self._io_parked:
                        self._hand_over()
            else:
                followed = True
                if not self._follow(waiter, deadline):
                    break
        if followed and not self._lead.locked():
            # The lead may have been handed to this thread just as it was done: pass it on, or the
            # other followers would sleep with nobody polling.
            self._hand_over()
        return waiter.done

    def _lead_until(self, waiter: Waiter, deadline: float | None) -> bool:
        poll, dispatch, next_deadline = self.reactor.poll, self._dispatch, self._next_deadline
        while not waiter.done:
            due = next_deadline()
            if due is None and deadline is None:
                events = poll(LOOK_US, SPIN_US)
            else:
                now = time.monotonic()
                if due is not None and due <= now:
                    self._tick(now)
                    continue
                if deadline is not None and deadline <= now:
                    events = poll(0)  # a timeout of 0 still takes what has arrived
                    if events:
                        dispatch(events)
                        if self.interrupted:
                            self._interrupt()
                    return waiter.done
                until = min(t for t in (due, deadline) if t is not None)
                events = poll(min(LOOK_US, int((until - now) * 1e6) + 1), SPIN_US)
            if events:
                dispatch(events)
                if self.interrupted:
                    self._interrupt()
        return True

    def _interrupt(self) -> None:
        self.interrupted = False
        raise KeyboardInterrupt

    def _follow(self, waiter: Waiter, deadline: float | None) -> bool:
        if waiter._lock is None:
            waiter._lock = threading.Lock()
            waiter._lock.acquire()
        self._followers.append(waiter)
        try:
            if self._io_leads:
                self.reactor.wake()
            # The lead may have become free before this thread was a follower: look again.
            if waiter.done or not self._lead.locked():
                return True
            if deadline is None:
                waiter.sleep(60.0)
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            waiter.sleep(left)
            return waiter.done or deadline > time.monotonic()
        finally:
            self._followers.remove(waiter)

    def _hand_over(self) -> None:
        if self._followers:
            try:
                self._followers[-1].nudge()
            except IndexError:
                pass  # it left meanwhile; then it has seen the free lead
        elif self._io_parked:
            self._io_parked = False
            self._io_wake.release()

    def _io_loop(self) -> None:
        while not self._closing:
            turn = self._turn
            time.sleep(self._pause_s)
            if self._lead.locked():
                self._io_parked = True
                if self._lead.locked() and not self._closing:
                    self._io_wake.acquire()
                self._io_parked = False
            elif turn == self._turn and self._lead.acquire(False):
                try:
                    self._io_lead()
                finally:
                    self._io_leads = False
                    self._lead.release()
                    self._hand_over()

    def _io_lead(self) -> None:
        self._io_leads = True
        if self.held:
            self.before_waiting()
        while not self._followers and not self._closing:
            due = self._next_deadline()
            if due is None:
                events = self.reactor.poll(-1)
            else:
                now = time.monotonic()
                if due <= now:
                    self._tick(now)
                    continue
                events = self.reactor.poll(int((due - now) * 1e6) + 1)
            if events:
                self._dispatch(events)
