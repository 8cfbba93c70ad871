"""A group of actors, as its driver and as a member know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spoke import absent
from spoke.util.collective.types import Backend


@dataclass
class Communicator:
    """A group as one of its members knows it."""

    name: str
    rank: int
    backend: str


class CommunicatorHandle:
    """A group as its driver knows it.

    Raises:
        ValueError: no such backend.
    """

    def __init__(self, actors: list[Any], name: str, backend: str) -> None:
        self._actors = list(actors)
        self._name = name
        self._backend = str(Backend(backend))

    def get_rank(self, actor: Any) -> int:
        """The rank of an actor; -1 if it is no member."""
        return self._actors.index(actor) if actor in self._actors else -1

    @property
    def actors(self) -> list[Any]:
        """The members, by rank."""
        return list(self._actors)

    @property
    def name(self) -> str:
        """The group's name."""
        return self._name

    @property
    def backend(self) -> str:
        """What carries the tensors."""
        return self._backend


__getattr__ = absent.getter(__name__)
