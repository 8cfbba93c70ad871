"""Progress bars for tasks and actors: one line per report, so that many workers can share a terminal.

A bar prints when it is made, at most once per interval while it moves, and when it is closed.  A
worker's lines reach the driver as all its output does.
"""

from __future__ import annotations

import builtins
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from spoke import absent

RAY_TQDM_MAGIC: Final = "__ray_tqdm_magic_token__"


class _BarManager:
    """The open bars of this process."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def hide_bars(self) -> None:
        """Nothing to hide: bars are lines."""

    def unhide_bars(self) -> None:
        """Nothing to show again."""


_manager = _BarManager()


def instance() -> _BarManager:
    """The open bars of this process."""
    return _manager


def safe_print(*args: Any, **kwargs: Any) -> None:
    """`print`; lines of bars do not mix with it."""
    builtins.print(*args, **kwargs)


class tqdm:
    """A progress bar with the part of tqdm's interface that works across processes.

    Args:
        iterable: what to iterate over while counting.
        desc: a text in front.
        total: how many units there are; default the length of `iterable`.
        unit: name of a unit, default "it".
        position: accepted for compatibility; lines have no position.
        flush_interval_s: at least this many seconds between two lines.
    """

    DEFAULT_FLUSH_INTERVAL_SECONDS: ClassVar[float] = 1.0

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        self._iterable = iterable
        self._desc = desc or ""
        self._total = total if total is not None else _length(iterable)
        self._unit = unit or "it"
        given = self.DEFAULT_FLUSH_INTERVAL_SECONDS if flush_interval_s is None else flush_interval_s
        self._interval = given
        self._n = 0
        self._started = self._printed = time.monotonic()
        self._id = uuid.uuid4().hex
        self._closed = False
        _manager.bars[self._id] = self
        self.refresh()

    @property
    def n(self) -> int:
        """Units done."""
        return self._n

    @property
    def total(self) -> int | None:
        """Units in all, where known."""
        return self._total

    def set_description(self, desc: str) -> None:
        """Change the text in front."""
        self._desc = desc
        self._move()

    def update(self, n: int = 1) -> None:
        """Count `n` units more."""
        self._n += n
        self._move()

    def _move(self) -> None:
        if time.monotonic() - self._printed >= self._interval:
            self.refresh()

    def refresh(self) -> None:
        """Print the line now."""
        self._printed = time.monotonic()
        safe_print(str(self), flush=True)

    def close(self) -> None:
        """Print the last line and end; may be called twice."""
        if not self._closed:
            self._closed = True
            _manager.bars.pop(self._id, None)
            self.refresh()

    def __str__(self) -> str:
        rate = f"{self._n / max(time.monotonic() - self._started, 1e-9):.1f} {self._unit}/s"
        text = f"{self._n} {self._unit}, {rate}"
        if self._total:
            done = min(self._n / self._total, 1.0)
            text = f"{100 * done:3.0f}% {'#' * int(20 * done):<20} {self._n}/{self._total}, {rate}"
        return f"{self._desc}: {text}" if self._desc else text

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("this bar has no iterable: give one, or use update()")
        for item in self._iterable:
            yield item
            self.update()
        self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:
        return None


__getattr__ = absent.getter(__name__)
