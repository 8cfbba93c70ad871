"""Interrupting user code on the main thread, and only user code.

A cancel arrives on whichever thread polls.  If the job that it names is inside its user code, the
main thread gets a KeyboardInterrupt; when the job has left its code meanwhile, nothing happens.
"""

from __future__ import annotations

import _thread
import threading
import time
from typing import Any


class Interrupts:
    """One per executor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: Any = None
        self._sent = False

    def begin(self, job: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._inside = job

    def end(self, job: Any) -> None:
        """Leave user code; an interrupt that was sent is taken here at the latest."""
        if self._inside is not job:
            return
        with self._lock:
            self._inside = None
            sent, self._sent = self._sent, False
        if sent:
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:  # the signal is on its way: let it land here
                time.sleep(0.001)

    def interrupt(self, job: Any) -> None:
        """Raise KeyboardInterrupt in the main thread if it is inside the code of `job`."""
        with self._lock:
            if self._inside is job and not self._sent:
                self._sent = True
                _thread.interrupt_main()
