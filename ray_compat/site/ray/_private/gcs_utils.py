"""Names of `ray._private.gcs_utils`: the store of the cluster by its client, and the states of actors."""

from __future__ import annotations

import enum
from typing import Any

import spoke
from spoke.experimental import internal_kv as kv


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


class ActorTableData(str, enum.Enum):
    """The states of actors, which are texts here."""

    DEPENDENCIES_UNREADY = "DEPENDENCIES_UNREADY"
    PENDING_CREATION = "PENDING_CREATION"
    ALIVE = "ALIVE"
    RESTARTING = "RESTARTING"
    DEAD = "DEAD"
