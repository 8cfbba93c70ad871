"""Two switches of Linux that Python does not offer: subreaper and death signal."""

from __future__ import annotations

from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Orphans below this process become its children.  False where the system does not offer that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_death_signal(number: int) -> bool:
    """This process gets signal `number` when its parent dies.  False where that is not offered."""
    return _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> bool:
    try:
        import ctypes

        libc: Any = ctypes.CDLL(None)
        return bool(libc.prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False
