"""What this process is running right now, per thread and per asyncio task."""

from __future__ import annotations

import contextvars
import threading
from typing import Any


class Running:
    """The current job of each thread; `main_job` is the main thread's."""

    def __init__(self) -> None:
        self.main_job: Any = None
        self.actor: Any = None  # ActorHost of this process
        self._job: contextvars.ContextVar[Any] = contextvars.ContextVar("spoke-job", default=None)
        self._main = threading.main_thread().ident

    def on_main_thread(self) -> bool:
        return threading.get_ident() == self._main

    def enter(self, job: Any) -> None:
        if threading.get_ident() == self._main:
            self.main_job = job
        else:
            self._job.set(job)

    def leave(self) -> None:
        if threading.get_ident() == self._main:
            self.main_job = None
        else:
            self._job.set(None)

    def enter_actor(self, host: Any) -> None:
        self.actor = host

    def job(self) -> Any:
        """The job whose code calls this, or None (the driver, or a thread of the user's)."""
        job = self._job.get()
        if job is None and threading.get_ident() == self._main:
            return self.main_job
        return job


running = Running()
