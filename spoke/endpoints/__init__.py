"""Endpoints: addresses under names, visible while the process that registered them lives.

``register("search", handle)`` makes an actor a member of the name, ``register("search", "host:port")`` a
server of plain objects (`ActorServer` does so by itself); ``spoke.lookup("search")`` calls all members as
one.
"""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

from spoke.endpoints.channel import Channel, parse_url
from spoke.handles import ActorHandle, engine


class Endpoint(NamedTuple):
    """One registered address; `job_id` is "" where a plain program registered it."""

    id: str
    name: str
    address: str
    metadata: dict[str, Any]
    namespace: str
    job_id: str
    pid: int


def _endpoint(row: dict[str, Any]) -> Endpoint:
    return Endpoint(row["id"], row["name"], row["address"], row["metadata"], row["namespace"], row["job_id"],
                    row["pid"])  # fmt: skip


def register(
    name: str,
    address: str | ActorHandle,
    metadata: dict[str, Any] | None = None,
    *,
    namespace: str | None = None,
    job: str | None = None,
) -> str:
    """Make an address known under a name, until this process ends.  Returns its id.

    Args:
        address: an actor's handle, or ``host:port`` or ``spoke://host:port/object`` of an `ActorServer`.
        metadata: plain values for those who look it up.
        namespace: of the name.  [default: this job's]
        job: refuse unless this process belongs to that job.

    Raises:
        ValueError: the name is empty, the address is none, the actor is dead.
        KeyError: `job` is unknown.
        AuthenticationError: `job` is another one.
    """
    args: dict[str, Any] = {"name": name, "metadata": metadata or {}, "namespace": namespace, "job": job}
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of an endpoint is a text, not {name!r}")
    if isinstance(address, ActorHandle):
        core = address._core
        args.update(address=f"actor:{core.actor_id.hex()}", actor_id=core.actor_id, meta=core.meta.blob)
    else:
        (host, port), hosted = parse_url(address)
        args["address"] = f"spoke://{host}:{port}/{hosted or name}"
    return str(engine().request("endpoint_register", **args))


def unregister(endpoint_id: str) -> bool:
    """Forget an endpoint; False when it was not there (any more).

    Raises:
        AuthenticationError: it belongs to another job.
    """
    return bool(engine().request("endpoint_unregister", id=endpoint_id))


def lookup(name: str, namespace: str | None = None) -> Endpoint | None:
    """The first endpoint of a name, or None."""
    rows = engine().request("endpoints", name=name, namespace=namespace)
    return _endpoint(rows[0]) if rows else None


def list(  # the name that the registry's users know
    prefix: str = "", namespace: str | None = None, all_namespaces: bool = False
) -> builtins.list[Endpoint]:
    """All endpoints whose name begins with `prefix`, in order of registration."""
    rows = engine().request("endpoints", prefix=prefix, namespace=namespace, all_namespaces=all_namespaces)
    return [_endpoint(row) for row in rows]


def describe(address: str, token: str | None = None, timeout: float = 10.0) -> dict[str, Any]:
    """What an `ActorServer` says of itself: health, and each object's methods with their signatures.

    Raises:
        ActorUnavailableError: nobody listens there.
        TimeoutError: no answer within `timeout` seconds.
    """
    target, _ = parse_url(address)
    channel = Channel(target, token.encode() if token else None)
    try:
        health = channel.call("", "health", (), {}).result(timeout)
        return {**health, "actors": channel.call("", "methods", (), {}).result(timeout)}
    finally:
        channel.close()
