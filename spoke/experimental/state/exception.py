"""Names of `ray.experimental.state.exception`."""

from __future__ import annotations

from spoke import absent
from spoke.util.state.exception import *  # noqa: F403

__getattr__ = absent.getter(__name__)
