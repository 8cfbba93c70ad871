"""Names of `ray._private.gcs_utils`: the states that rows of `ray._private.state` are compared with."""

from __future__ import annotations

from typing import Final

DRIVER: Final = 1
WORKER: Final = 0


class _Enum:
    """Names numbered from 0, as a message's field has them."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def Name(self, number: int) -> str:
        """The name of a number.

        Raises:
            ValueError: it has none.
        """
        if not 0 <= number < len(self._names):
            raise ValueError(f"{number} is none of {dict(self.items())}")
        return self._names[number]

    def Value(self, name: str) -> int:
        """The number of a name.

        Raises:
            ValueError: there is no such name.
        """
        return self._names.index(name)

    def keys(self) -> list[str]:
        """The names, in order."""
        return list(self._names)

    def values(self) -> list[int]:
        """The numbers."""
        return list(range(len(self._names)))

    def items(self) -> list[tuple[str, int]]:
        """Names and numbers."""
        return list(zip(self._names, self.values(), strict=True))


class ActorTableData:
    """States of an actor."""

    ActorState = _Enum("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD")
    DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING, DEAD = range(5)


class PlacementGroupTableData:
    """States of a placement group."""

    PlacementGroupState = _Enum("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING")
    PENDING, PREPARED, CREATED, REMOVED, RESCHEDULING = range(5)


class GcsNodeInfo:
    """States of a node."""

    GcsNodeState = _Enum("ALIVE", "DEAD")
    ALIVE, DEAD = range(2)


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"module {__name__!r} has no {name!r}: Spoke's messages are others, see spoke.util.state"
    )
