"""Names of `ray._private.internal_api`."""

from __future__ import annotations

import gc

import spoke
from ray.scripts.scripts import memory_summary as _memory

free = spoke.internal.free


def global_gc() -> None:
    """Collect garbage in this process; other processes collect theirs."""
    gc.collect()


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """What ``ray memory`` prints, as a text; what is in use is called as it is in Ray's."""
    text: str = _memory(address, group_by, sort_by, units, line_wrap, stats_only, num_entries)
    return text.replace("Shared memory usage", "Plasma memory usage").replace(".0 MiB", " MiB")
