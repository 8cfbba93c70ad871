"""Interrupting user code on the main thread, and only user code.

A cancel arrives on whichever thread polls.  If the job that it names is inside its user code, the
main thread gets SIGINT, which ends blocking calls too and becomes a KeyboardInterrupt there; when the
job has left its code meanwhile, nothing happens.  While the main thread, waiting in its code, takes what has
arrived, the interrupt waits until that is done (`install`): half a message, or none of those polled with it,
would be lost.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any


class Interrupts:
    """One per executor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside: Any = None  # the job whose code the main thread runs; set by it, cleared by `end`
        self._sent = False
        self.main = threading.main_thread().ident or 0

    def install(self, client: Any) -> None:
        """Be the handler of SIGINT in a worker."""
        taking = type(client)._dispatch.__code__

        def on_signal(number: int, frame: Any) -> None:
            while frame is not None:
                if frame.f_code is taking:
                    client.lead.interrupted = True
                    return
                frame = frame.f_back
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, on_signal)

    def end(self, job: Any) -> None:
        """Leave user code, on the main thread; an interrupt that was sent is taken here at the latest."""
        with self._lock:
            self.inside = None
            sent, self._sent = self._sent, False
        if sent and sys.exc_info()[0] is not KeyboardInterrupt:
            # The kernel has queued the signal for this thread; a few steps of the interpreter let the
            # handler raise here rather than in the engine's code.
            for _ in range(5):
                time.sleep(0.001)

    def interrupt(self, job: Any) -> None:
        """Raise KeyboardInterrupt in the main thread if it is inside the code of `job`."""
        with self._lock:
            if self.inside is job and not self._sent:
                self._sent = True
                signal.pthread_kill(self.main, signal.SIGINT)
