"""Names of `ray.remote_function`."""

from __future__ import annotations

from spoke import absent
from spoke.handles import RemoteFunction as RemoteFunction

__all__ = ["RemoteFunction"]

__getattr__ = absent.getter(__name__)
