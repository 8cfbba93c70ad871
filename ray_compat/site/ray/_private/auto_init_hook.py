"""Names of `ray._private.auto_init_hook`: whether a first remote call may call `init`."""

from __future__ import annotations

import sys
import types

import spoke
from spoke import current, lifecycle


def auto_init_ray() -> None:
    """Call `init`, if that is allowed and nobody has."""
    if lifecycle.may_init_by_first_use() and not spoke.is_initialized():
        spoke.init()


class _Hook(types.ModuleType):
    """This module: its switch is Spoke's."""

    @property
    def enable_auto_connect(self) -> bool:
        """Whether a first remote call may call `init`."""
        return current.auto_connect

    @enable_auto_connect.setter
    def enable_auto_connect(self, allowed: bool) -> None:
        current.auto_connect = bool(allowed)


sys.modules[__name__].__class__ = _Hook
