"""What the hub writes down for its next life: one record per thing that must outlive it (HUB-2).

Rules of this module: whatever changed in a step (`State.note`) is written once, as it is at the end of
the step, before the step's messages.  A record is plain data (msgpack).  Tables:

    job     job id    driver's process id, what it said of itself, whether it has ended
    node    node id   the nodes that are alive: their agents are waited for
    actor   actor id  state, incarnation, owner, and the claim: worker, node, devices, slot
    blob    actor id  the creation blob, written once
    group   group id  spec, owner, state, incarnation, and per slot the node and its devices
    refused id        of an actor or group that was not created: the error
    kv      key       one entry of the key-value store
    package uri, piece  a piece of a package of a runtime environment
    submission id     a submitted job: `Submitted.record`
    endpoint id       an endpoint: `Endpoint.record`

Not written, as those concerned report it again: workers, leases, what is wanted, who watches what.
"""

from __future__ import annotations

from typing import Any, Final

from spoke.core import Journal
from spoke.core.state import Actor, Group, Job, Node, State

TABLES: Final = (
    "job",
    "node",
    "actor",
    "blob",
    "group",
    "refused",
    "kv",
    "package",
    "submission",
    "endpoint",
)

Records = list[tuple[str, bytes, Any]]  # table, key, record


def kv_key(namespace: str, key: bytes) -> bytes:
    """The key of a key-value entry's record; two entries never share one."""
    space = namespace.encode("utf-8", "surrogatepass")
    return len(space).to_bytes(4, "big") + space + key


def flush(s: State) -> list[Journal]:
    """The commands that write down what changed in this step."""
    changed, s.changed = s.changed, {}
    return [
        Journal(table, key, None if what is None else _RECORD[table](what))
        for (table, key), what in changed.items()
    ]


def _job(job: Job) -> dict[str, Any]:
    driver = job.driver.peer if job.driver is not None else b""
    return {"driver": driver, "info": job.info, "started_at": job.started_at, "ended_at": job.ended_at}


def _node(node: Node) -> dict[str, Any]:
    return {"host": node.host}


def _actor(actor: Actor) -> dict[str, Any]:
    holding = actor.holding
    worker = holding.worker if holding is not None else None
    claim = None
    if holding is not None and worker is not None:
        claim = {
            "node_id": holding.node.node_id,
            "worker_id": worker.worker_id,
            "devices": list(holding.share.devices),
            "slot": holding.bundle.index if holding.bundle is not None else -1,
        }
    return {
        "spec": actor.spec,
        "state": actor.state,
        "incarnation": actor.incarnation,
        "restarts_left": actor.restarts_left,
        "namespace": actor.namespace,
        "owner": actor.owner.peer if actor.owner is not None else b"",
        "job": actor.job,
        "info": actor.info,
        "error": bytes(actor.error),
        "workers": actor.workers,
        "claim": claim,
    }


def _group(group: Group) -> dict[str, Any]:
    fresh = group.preparing.fresh if group.preparing is not None else []  # not agreed yet
    slots = [
        [bundle.node.node_id, list(bundle.share.devices)]
        if bundle.node is not None and bundle.share is not None and bundle not in fresh
        else None
        for bundle in group.bundles
    ]
    return {
        "spec": group.spec,
        "state": group.state,
        "reason": group.reason,
        "namespace": group.namespace,
        "owner": group.owner.peer if group.owner is not None else b"",
        "creator": group.creator,
        "job": group.job,
        "incarnation": group.incarnation,
        "lost": group.lost,
        "restarts": group.restarts,
        "attempt": group.attempt,
        "ports": group.ports,
        "ports_of": group.ports_of,
        "relaunch": group.relaunch,
        "slots": slots,
    }


_RECORD: Final[dict[str, Any]] = {
    "job": _job,
    "node": _node,
    "actor": _actor,
    "blob": lambda actor: bytes(actor.blob),
    "group": _group,
    "refused": list,
    "kv": lambda entry: list(entry),
    "package": list,
    "submission": lambda job: job.record(),
    "endpoint": lambda endpoint: endpoint.record(),
}
