"""Names of `ray.experimental.util`."""

from __future__ import annotations

from spoke import absent
from spoke.experimental.util import types as types

__getattr__ = absent.getter(__name__)
