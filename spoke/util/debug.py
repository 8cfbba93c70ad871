"""Messages that are worth saying once."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from spoke import absent

PERIOD_S: Final = 60.0  # with periodic logging, the same thing may be said again after this long

_said: set[str] = set()
_enabled = True
_periodic = False
_last_cleared = 0.0


class Suspect(NamedTuple):
    """A place in a program whose memory grows: what a search for leaks reports."""

    traceback: Any
    memory_increase: float
    slope: float
    rvalue: float
    hist: list[float]


def log_once(key: str) -> bool:
    """True the first time in this process for each key."""
    global _last_cleared
    if not _enabled:
        return False
    now = time.monotonic()
    if _periodic and now - _last_cleared > PERIOD_S:
        _said.clear()
        _last_cleared = now
    if key in _said:
        return False
    _said.add(key)
    return True


def disable_log_once_globally() -> None:
    """Make `log_once` answer False from now on, in this process."""
    global _enabled
    _enabled = False


def enable_periodic_logging() -> None:
    """Make `log_once` answer True again for a key after a minute."""
    global _periodic
    _periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Forget that a key was asked for; None forgets all."""
    if key is None:
        _said.clear()
    else:
        _said.discard(key)


__getattr__ = absent.getter(__name__)
