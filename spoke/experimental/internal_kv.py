"""The cluster's key-value store: small bytes under bytes, kept by the hub.

Keys and values are bytes or text; namespaces are apart from each other.
"""

from __future__ import annotations

from typing import Any

from spoke import absent, current
from spoke.handles import engine


def _bytes(value: bytes | str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    assert isinstance(value, bytes), f"keys and values are bytes or text, not {type(value).__name__}"
    return value


def _ask(what: str, namespace: bytes | str | None, **args: Any) -> Any:
    client = current.client or engine()
    space = namespace.decode(errors="surrogateescape") if isinstance(namespace, bytes) else namespace or ""
    return client.request(what, namespace=space, **args)


def _internal_kv_initialized() -> bool:
    """Is there a store, that is, is this process connected?"""
    return current.client is not None


def _internal_kv_put(
    key: bytes | str, value: bytes | str, overwrite: bool = True, *, namespace: bytes | str | None = None
) -> bool:
    """Set a key; was it there before?  With ``overwrite=False`` a key that is there keeps its value."""
    return not _ask("kv_put", namespace, key=_bytes(key), value=_bytes(value), overwrite=overwrite)


def _internal_kv_get(key: bytes | str, *, namespace: bytes | str | None = None) -> bytes | None:
    """The value of a key, or None."""
    found: bytes | None = _ask("kv_get", namespace, key=_bytes(key))
    return found


def _internal_kv_exists(key: bytes | str, *, namespace: bytes | str | None = None) -> bool:
    """Is the key there?"""
    return bool(_ask("kv_exists", namespace, key=_bytes(key)))


def _internal_kv_del(
    key: bytes | str, *, del_by_prefix: bool = False, namespace: bytes | str | None = None
) -> int:
    """Delete a key, or all that start with it; how many were there."""
    return int(_ask("kv_del", namespace, key=_bytes(key), by_prefix=del_by_prefix))


def _internal_kv_list(prefix: bytes | str, *, namespace: bytes | str | None = None) -> list[bytes]:
    """The keys that start with `prefix`."""
    return list(_ask("kv_keys", namespace, prefix=_bytes(prefix)))


__getattr__ = absent.getter(__name__)
