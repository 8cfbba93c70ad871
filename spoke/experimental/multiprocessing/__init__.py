"""Names of `ray.experimental.multiprocessing`, the older place of `spoke.util.multiprocessing`."""

from __future__ import annotations

from multiprocessing import TimeoutError

from spoke import absent
from spoke.util.multiprocessing.pool import Pool as Pool

__all__ = ["Pool", "TimeoutError"]

__getattr__ = absent.getter(__name__)
