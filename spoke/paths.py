"""Which way the bytes of an object, or the calls of a handle, take: ``transport_of``."""

from __future__ import annotations

from typing import Any

from spoke.handles import ActorHandle, engine
from spoke.transport.router import Path


def transport_of(ref_or_handle: Any) -> Path:
    """The path to what a ref or an actor handle names: ``(name, why_not_rdma)``.

    name: of an object "inline" (its bytes are here already, they came in a message), "shm" (mapped),
    "rdma", "tcp", or "pending" (not computed yet, or not asked for); of an actor's calls "unix", "tcp" or
    "rdma", or "pending" while nobody knows where it runs.  why_not_rdma is empty where the path is RDMA or
    stays on the node.

    Raises:
        RayDirectTransportError: ``SPOKE_TRANSPORT`` allows no way there.
        TypeError: neither a ref nor a handle.
    """
    from spoke.objectref import ObjectRef

    client = engine()
    if isinstance(ref_or_handle, ObjectRef):
        return _of_object(client, ref_or_handle._entry)
    if isinstance(ref_or_handle, ActorHandle):
        return _of_actor(client, ref_or_handle)
    raise TypeError(f"transport_of takes an ObjectRef or an actor handle, not {type(ref_or_handle).__name__}")


def _of_object(client: Any, entry: Any) -> Path:
    if entry.value is None:
        return Path("pending", "")
    blocks = [part for part in entry.value if type(part) is not bytes]
    if not blocks:
        return Path("inline", "")
    return client.router.path_of(max(blocks, key=lambda part: part[4]))  # type: ignore[no-any-return]


def _of_actor(client: Any, handle: ActorHandle) -> Path:
    core = handle._core
    name, why = handle._transport
    if name == "rdma":
        return Path("rdma", "")
    channel = client.calls.actors.channels.get(core.actor_id)
    if channel is None or channel.address is None:
        return Path("pending", "")
    if channel.address[1] == client.node_id:
        return Path("unix", "")
    return Path("tcp", why or "calls go over RDMA after handle.init_rdma()")
