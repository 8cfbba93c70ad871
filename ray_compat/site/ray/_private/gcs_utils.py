"""Names of `ray._private.gcs_utils`: the cluster's store by a client, and states of rows."""

from __future__ import annotations

from typing import Any, Final

import spoke
from spoke.experimental import internal_kv as kv

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


class GcsClient:
    """A client of the cluster that this process is in.

    Args:
        address: ``host:port`` of the cluster.

    Raises:
        ConnectionError: this process is in another cluster, or in none.
    """

    def __init__(self, address: str | None = None, *args: Any, **kwargs: Any) -> None:
        if address is not None and (not spoke.is_initialized() or address != self.address):
            raise ConnectionError(f"this process is not in the cluster at {address}: init(address=...) first")

    @property
    def address(self) -> str:
        """``host:port`` of the cluster."""
        return spoke.get_runtime_context().gcs_address

    def internal_kv_get(
        self, key: bytes, namespace: bytes | None = None, timeout: Any = None
    ) -> bytes | None:
        """The value of a key of the cluster's store, or None."""
        return kv._internal_kv_get(key, namespace=namespace)

    def internal_kv_multi_get(
        self, keys: list[bytes], namespace: bytes | None = None, timeout: Any = None
    ) -> dict[bytes, bytes]:
        """The values of those keys that are there."""
        found = {key: self.internal_kv_get(key, namespace) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def internal_kv_put(
        self,
        key: bytes,
        value: bytes,
        overwrite: bool = False,
        namespace: bytes | None = None,
        timeout: Any = None,
    ) -> int:
        """Set a key of the cluster's store; 1 if it was not there before."""
        return int(not kv._internal_kv_put(key, value, overwrite, namespace=namespace))

    def internal_kv_del(
        self, key: bytes, del_by_prefix: bool = False, namespace: bytes | None = None, timeout: Any = None
    ) -> int:
        """Delete a key, or all that start with it; how many were there."""
        return kv._internal_kv_del(key, del_by_prefix=del_by_prefix, namespace=namespace)

    def internal_kv_exists(self, key: bytes, namespace: bytes | None = None, timeout: Any = None) -> bool:
        """Is the key there?"""
        return kv._internal_kv_exists(key, namespace=namespace)

    def internal_kv_keys(
        self, prefix: bytes, namespace: bytes | None = None, timeout: Any = None
    ) -> list[bytes]:
        """The keys that start with `prefix`."""
        return kv._internal_kv_list(prefix, namespace=namespace)


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
