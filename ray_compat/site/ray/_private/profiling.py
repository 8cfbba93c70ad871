"""Names of `ray._private.profiling`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def profile(event_type: str, extra_data: dict[str, Any] | None = None) -> Iterator[None]:
    """Run the block; it does not appear in the timeline, which shows calls only."""
    yield
