"""Names of `ray.experimental.state`, the older place of `spoke.util.state`."""

from __future__ import annotations

from spoke import absent

__getattr__ = absent.getter(__name__)
