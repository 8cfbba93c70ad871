"""The daemon's one thread: the native reactor, timers, and who handles which source.

Rules: a handler runs to its end before the next; it never blocks.  After each batch of events the
`after` hook runs once, and no later than `deadline` says.  Times are `time.monotonic()` seconds.  A
handler that raises is reported to `on_error` and the loop goes on: one bad message must not take the
node down.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from spoke._native import Reactor

FRAME: Final = 0
CLOSED: Final = 1
ACCEPTED: Final = 2
READABLE: Final = 3
WOKEN: Final = 4

Handler = Callable[[int, bytes, Any], None]  # kind, meta, payload


class Timer:
    """A call planned for later."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """The call will not happen; harmless when it did."""
        self.call = None


class Loop:
    """Waits, dispatches, keeps time.

    Args:
        on_error: told what failed and the exception, for the log.
        on_unknown: events of sources nobody registered (accepted connections begin so).
    """

    def __init__(self, on_error: Callable[[str, Exception], None]) -> None:
        self.reactor = Reactor()
        self.on_error = on_error
        self.on_unknown: Callable[[int, int, bytes, Any], None] = lambda kind, source, meta, payload: None
        self.after: Callable[[], None] = lambda: None
        self.deadline: Callable[[], float | None] = lambda: None
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._stopping = False

    def handle(self, source: int, handler: Handler) -> None:
        """`handler` gets the events of this source from now on."""
        self._handlers[source] = handler

    def forget(self, source: int) -> None:
        """The source has no handler any more."""
        self._handlers.pop(source, None)

    def at(self, when: float, call: Callable[[], object]) -> Timer:
        """Call `call()` once at `when`, or soon after."""
        timer = Timer(when, call)
        self._sequence += 1
        heappush(self._timers, (when, self._sequence, timer))
        return timer

    def after_s(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call()` once, `seconds` from now."""
        return self.at(time.monotonic() + seconds, call)

    def stop(self) -> None:
        """`run` returns after the present batch."""
        self._stopping = True
        self.reactor.wake()

    def run(self) -> None:
        """Serve until `stop`."""
        self._stopping = False
        self.after()
        while not self._stopping:
            self.turn(-1.0)

    def turn(self, limit_s: float) -> None:
        """One wait of at most `limit_s` seconds (negative: until something happens), and its batch."""
        events = self.reactor.poll(self._timeout_us(limit_s))
        handlers = self._handlers
        for kind, source, meta, payload in events:
            handler = handlers.get(source)
            try:
                if handler is not None:
                    handler(kind, meta, payload)
                elif kind != WOKEN:
                    self.on_unknown(kind, source, meta, payload)
            except Exception as error:  # the node outlives one bad event; the log says what it was
                self.on_error(f"event {kind} of source {source}", error)
        self._fire()
        try:
            self.after()
        except Exception as error:  # as above
            self.on_error("after a batch", error)

    def _timeout_us(self, limit_s: float) -> int:
        while self._timers and self._timers[0][2].call is None:
            heappop(self._timers)
        until = self.deadline()
        if self._timers and (until is None or self._timers[0][0] < until):
            until = self._timers[0][0]
        if until is not None:
            left = max(0.0, until - time.monotonic())
            limit_s = left if limit_s < 0 else min(limit_s, left)
        return -1 if limit_s < 0 else int(limit_s * 1e6) + 1

    def _fire(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heappop(self._timers)[2].call
            if call is None:
                continue
            try:
                call()
            except Exception as error:  # as in `turn`
                self.on_error("a timer", error)
