"""Names of `ray.experimental.queue`."""

from __future__ import annotations

from spoke import absent
from spoke.util.queue import Empty as Empty
from spoke.util.queue import Full as Full
from spoke.util.queue import Queue as Queue

__all__ = ["Empty", "Full", "Queue"]

__getattr__ = absent.getter(__name__)
