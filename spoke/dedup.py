"""Lines that many workers print, printed once: the first at once, how many more some seconds later.

Two lines are the same where they differ only in words with digits in them: ids, times, numbers.  What one
process alone repeats is always printed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

GREEN: Final = "\x1b[32m"
PLAIN: Final = "\x1b[0m"
_HINT: Final = (
    " (Ray deduplicates logs by default. Set RAY_DEDUP_LOGS=0 to disable log deduplication, or see "
    "https://docs.ray.io/en/master/ray-observability/user-guides/configure-logging.html#log-deduplication "
    "for more options.)"
)
Batch = dict[str, Any]  # ip, pid, lines, and what else is known of where they come from


class _Seen:
    """A line that was printed lately."""

    __slots__ = ("batch", "count", "line", "since", "sources")

    def __init__(self, since: float) -> None:
        self.since = since
        self.sources: set[tuple[Any, Any]] = set()
        self.count = 0  # that were not printed
        self.line = ""  # the latest of these
        self.batch: Batch = {}


class LogDeduplicator:
    """Which lines to print, and when.

    Args:
        agg_window_s: after so many seconds a line is new again, and the others like it are told.
        allow_re: lines in which this is found are all printed.
        skip_re: those in which this is found never are.
    """

    def __init__(
        self,
        agg_window_s: float,
        allow_re: str | None,
        skip_re: str | None,
        *,
        _timesource: Callable[[], float] | None = None,
    ) -> None:
        self._window_s = agg_window_s
        self._allow = re.compile(allow_re) if allow_re else None
        self._skip = re.compile(skip_re) if skip_re else None
        self._now = _timesource or time.monotonic
        self._seen: dict[str, _Seen] = {}  # the oldest first
        self._holding = 0  # of these, those with lines held back
        self._hinted = False

    def deduplicate(self, batch: Batch) -> list[Batch]:
        """What to print now that these lines have come: of them, and of those held back for long enough."""
        now = self._now()
        source = (batch["ip"], batch["pid"])
        shown = []
        for line in batch["lines"]:
            if self._skip is not None and self._skip.search(line):
                continue
            key = " ".join(word for word in line.split() if not any(sign.isdigit() for sign in word))
            if not key or (self._allow is not None and self._allow.search(line)):
                shown.append(line)
                continue
            seen = self._seen.get(key)
            if seen is None:
                seen = self._seen[key] = _Seen(now)
            seen.sources.add(source)
            if len(seen.sources) == 1:
                shown.append(line)
            else:
                self._holding += not seen.count
                seen.count += 1
                seen.line, seen.batch = line, batch
        return [{**batch, "lines": shown}, *self._told(now)]

    def held(self) -> bool:
        """Are lines held back?"""
        return self._holding > 0

    def late(self) -> list[Batch]:
        """What to print although no more lines have come."""
        return self._told(self._now())

    def flush(self) -> list[Batch]:
        """All that is held back; every line is new afterwards."""
        told = [self._of(seen) for seen in self._seen.values() if seen.count]
        self._seen.clear()
        self._holding = 0
        return told

    def _told(self, now: float) -> list[Batch]:
        """What was held back for long enough; a line that keeps coming from several goes on being held."""
        told = []
        while self._seen:
            key, seen = next(iter(self._seen.items()))  # the oldest: one that goes on moves to the end
            if now - seen.since <= self._window_s:
                break
            del self._seen[key]
            if seen.count:
                told.append(self._of(seen))
                self._holding -= 1
            if seen.count > 1:
                seen.since, seen.count = now, 0
                self._seen[key] = seen
        return told

    def _of(self, seen: _Seen) -> Batch:
        return {**seen.batch, "lines": [self._summary(seen)]}

    def _summary(self, seen: _Seen) -> str:
        if seen.count == 1:
            return seen.line
        hint, self._hinted = "" if self._hinted else _HINT, True
        return f"{seen.line}{GREEN} [repeated {seen.count}x across cluster]{hint}{PLAIN}"
