"""`ray.util.client`: Spoke's; a package here, as fixtures import the server below it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import spoke
from ray_compat import mirror


class _Api(ModuleType):
    """What `ray.util.client.ray` is: the interface, and whether it goes through a client server."""

    def is_connected(self) -> bool:
        """Never: a program is a driver itself."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(spoke, name)


ray = _Api("ray")


def num_connected_contexts() -> int:
    """How many connections go through a client server."""
    return 0


mirror.become(sys.modules[__name__])
