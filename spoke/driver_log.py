"""Workers' output at the driver: each line with the name and pid it came from."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from spoke import config, logs, notices
from spoke.dedup import Batch, LogDeduplicator

if TYPE_CHECKING:
    from spoke.client import Client


class DriverLog:
    """What the workers of one driver print.

    Args:
        bare: their lines say themselves where they come from.
    """

    def __init__(self, client: Client, bare: bool) -> None:
        self._client = client
        self._bare = bare
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._window_s = config.get("dedup_logs_window_s")
        self._dedup: LogDeduplicator | None = None
        if config.get("dedup_logs"):
            allow, skip = config.get("dedup_logs_allow"), config.get("dedup_logs_skip")
            self._dedup = LogDeduplicator(self._window_s, allow, skip)

    def print_lines(self, node_id: bytes, pid: int, name: str, stream: str, lines: list[Any]) -> None:
        """Print lines of a worker's stdout or stderr to the stream of the same name."""
        batch = {
            "ip": self._client.address[2] if node_id == self._client.node_id else node_id.hex()[:12],
            "pid": pid,
            "job": self._client.runtime_context["job_id"].hex(),
            "is_err": stream in ("stderr", "err"),
            "lines": lines,
            "actor_name": name or None,  # of an actor or a task: the stream names what prints, not its kind
            "task_name": name or None,
        }
        for subscriber in notices.lines:
            subscriber(batch)
        with self._lock:
            if self._dedup is None:
                self._print([batch])
                return
            self._print(self._dedup.deduplicate(batch))
            if self._timer is None and self._dedup.held():
                self._start_timer()

    def close(self) -> None:
        """Print what is held back: nothing more comes."""
        with self._lock:
            timer, self._timer = self._timer, None
            if self._dedup is not None:
                self._print(self._dedup.flush())
                self._dedup = None  # what still comes is printed at once
        if timer is not None:  # its thread would keep the client for a while
            timer.cancel()
            timer.join()

    def _start_timer(self) -> None:
        timer = threading.Timer(self._window_s, self._look)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            return  # the interpreter ends: `close` prints what is held
        self._timer = timer

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            if self._dedup is None:
                return
            self._print(self._dedup.late())
            if self._dedup.held():
                self._start_timer()

    def _print(self, batches: list[Batch]) -> None:
        for batch in batches:
            target = sys.stderr if batch["is_err"] else sys.stdout
            if self._bare:
                text = "".join(f"{line}\n" for line in batch["lines"])
            else:
                text = logs.format_lines(batch["task_name"] or "", batch["pid"], "", batch["lines"])
            if text:
                try:
                    target.write(text)
                    target.flush()
                except (ValueError, OSError):
                    pass  # the driver closed its output
