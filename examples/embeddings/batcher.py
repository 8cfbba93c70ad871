"""Continuous batching: texts of all waiting requests share the model's next pass, first come, first served.

One thread owns the gang, which must be called from one thread.  While it has no text it pings the ranks
once a second, so a death is noticed without a request.  The queue is bounded: beyond it `embed` fails by
name.  After a rank's death every waiting and every later request fails with the reason.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .gang import Gang, GangBroken

PING_EVERY_S = 1.0
MAX_BATCH_TEXTS = 64
MAX_BATCH_TOKENS = 4096  # padding included
MAX_WAITING_TEXTS = 8192

Row = Sequence[int]
Vector = npt.NDArray[np.float32]


class Overloaded(RuntimeError):
    """Too many texts wait already; try again later."""


class Closed(RuntimeError):
    """The launcher is ending."""


@dataclass
class _Text:
    row: Row
    vector: Future[Vector] = field(default_factory=Future)


class Batcher:
    """The queue in front of a gang; `on_broken(reason)` is called once, from the batcher's thread."""

    def __init__(self, gang: Gang, on_broken: Callable[[GangBroken], Any] = lambda error: None) -> None:
        self._gang = gang
        self._on_broken = on_broken
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="batcher")
        self._thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why no text is embedded any more; None while all is well."""
        return self._failure

    def embed(self, rows: Sequence[Row]) -> Vector:
        """Unit vectors (texts, hidden) of token id lists; waits for its turn.  Any thread may call it.

        Raises Overloaded with more than 8192 texts waiting, Closed after `close`, GangBroken after a
        rank's death.
        """
        texts = [_Text(row) for row in rows]
        with self._changed:
            if self._failure:
                raise self._failure
            if len(self._waiting) + len(texts) > MAX_WAITING_TEXTS:
                raise Overloaded(f"{len(self._waiting)} texts wait already; the bound is {MAX_WAITING_TEXTS}")
            # Neighbours of like length waste little padding; the answer keeps the caller's order.
            self._waiting.extend(sorted(texts, key=lambda text: len(text.row)))
            self._changed.notify()
        wait([text.vector for text in texts])
        return np.stack([text.vector.result() for text in texts])

    def close(self) -> None:
        """Fail what waits, let the current pass finish, and end the thread."""
        self._fail(Closed("the server is shutting down"))
        self._thread.join()

    def _run(self) -> None:
        batch: list[_Text] = []
        try:
            while not self._failure:
                batch = self._next_batch()
                if not batch:
                    self._gang.ping()
                    continue
                vectors = self._gang.embed([text.row for text in batch])
                for text, vector in zip(batch, vectors, strict=True):
                    text.vector.set_result(vector)
        except Exception as error:  # the thread's end must reach those who wait
            name = type(error).__name__
            broken = error if isinstance(error, GangBroken) else GangBroken(f"{name}: {error}")
            for text in batch:
                text.vector.set_exception(broken)
            if self._fail(broken):
                self._on_broken(broken)

    def _next_batch(self) -> list[_Text]:
        """What fits the next pass; empty when it is time for a ping, or after `close`."""
        deadline = time.monotonic() + PING_EVERY_S
        with self._changed:
            while not self._waiting and not self._failure:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            batch: list[_Text] = []
            longest = 0
            while self._waiting and len(batch) < MAX_BATCH_TEXTS:
                longest = max(longest, len(self._waiting[0].row))
                if batch and longest * (len(batch) + 1) > MAX_BATCH_TOKENS:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _fail(self, error: Exception) -> bool:
        """Refuse all that waits and all that comes, for the first reason given; tells if this is it."""
        with self._changed:
            if self._failure:
                return False
            self._failure = error
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for text in waiting:
            text.vector.set_exception(error)
        return True
