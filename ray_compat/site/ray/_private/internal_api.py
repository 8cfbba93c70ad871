"""Names of `ray._private.internal_api`."""

from __future__ import annotations

import functools
import gc
from typing import Any

import spoke
from ray.scripts.scripts import memory_summary as _memory

free = spoke.internal.free


def global_gc() -> None:
    """Collect garbage in this process; other processes collect theirs."""
    gc.collect()


@functools.wraps(_memory)
def memory_summary(*args: Any, **kwargs: Any) -> str:
    """What ``ray memory`` prints, as a text; what is in use is called as it is in Ray's."""
    text: str = _memory(*args, **kwargs)
    return text.replace("Shared memory usage", "Plasma memory usage").replace(".0 MiB", " MiB")
