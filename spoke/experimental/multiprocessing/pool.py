"""Names of `ray.experimental.multiprocessing.pool`."""

from __future__ import annotations

import multiprocessing as multiprocessing

from spoke import absent
from spoke.util.multiprocessing.pool import Pool as Pool

__all__ = ["Pool"]

__getattr__ = absent.getter(__name__)
