"""`multiprocessing.Pool` over actors: the processes may be on any node of the cluster."""

from __future__ import annotations

from multiprocessing import JoinableQueue, TimeoutError

from spoke import absent
from spoke.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]

__getattr__ = absent.getter(__name__)
