"""A communicator as its driver knows it."""

from __future__ import annotations

from typing import Any

from spoke import absent


class CommunicatorHandle:
    """The actors of a communicator that a driver has set up."""

    def __init__(self, actor_handles: list[Any]) -> None:
        self._actor_handles = actor_handles

    def get_actor_handles(self) -> list[Any]:
        """The actors, by rank."""
        return self._actor_handles


__getattr__ = absent.getter(__name__)
