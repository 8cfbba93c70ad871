"""Where objects are: the nodes whose shared memory holds them, and their size."""

from __future__ import annotations

from typing import Any

from spoke import absent, api, current
from spoke.core.refs import PUT_SUFFIX, VALUE
from spoke.objectref import ObjectRef


def get_object_locations(
    obj_refs: list[ObjectRef[Any]], timeout_ms: int = -1
) -> dict[ObjectRef[Any], dict[str, Any]]:
    """For each ref: node_ids (hexadecimal), object_size (bytes, None if not resolved), did_spill (False).

    A small result travels inside messages, so no node holds it: `node_ids` is empty.  A small value that
    this process has put is on its node.

    Args:
        timeout_ms: wait at most this many milliseconds for refs of other processes to be resolved; -1 takes
            what is known.

    Raises:
        TypeError: not a list of refs.
        RuntimeError: `init` was not called.
    """
    refs = _checked(obj_refs)
    if timeout_ms > 0 and refs:
        api.wait(refs, num_returns=len(refs), timeout=timeout_ms / 1000)
    return get_local_object_locations(refs)


def get_local_object_locations(obj_refs: list[ObjectRef[Any]]) -> dict[ObjectRef[Any], dict[str, Any]]:
    """As `get_object_locations`, of what this process knows now.

    Raises:
        TypeError: not a list of refs.
        RuntimeError: `init` was not called.
    """
    refs = _checked(obj_refs)
    client: Any = current.client
    with client.lock:
        return {ref: _location(ref._entry, client.node_id) for ref in refs}


def _checked(refs: Any) -> list[ObjectRef[Any]]:
    if current.client is None:
        raise RuntimeError("Ray hasn't been initialized: call init() first.")
    if not isinstance(refs, list) or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(f"expected a list of ObjectRef, got {refs!r}")
    return list(dict.fromkeys(refs))


def _location(entry: Any, here: bytes) -> dict[str, Any]:
    parts = entry.value if entry.status == VALUE else None
    if parts is None:
        return {"node_ids": [], "object_size": None, "did_spill": False}
    inline = [part for part in parts if isinstance(part, bytes)]
    described = [part for part in parts if not isinstance(part, bytes)]
    size = sum(map(len, inline)) + sum(int(part[-1]) for part in described)
    nodes = dict.fromkeys(bytes(part[0]).hex() for part in described)
    if not nodes and entry.owner is None and entry.id.endswith(PUT_SUFFIX):
        nodes[here.hex()] = None
    return {"node_ids": list(nodes), "object_size": size, "did_spill": False}


__getattr__ = absent.getter(__name__)
