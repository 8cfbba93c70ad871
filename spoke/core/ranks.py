"""What a rank of a gang is started with: its place among the others, as `torch.distributed` reads it.

Rules of this module: pure functions of a gang's description (`Groups.message`), used by the creator and,
where that is gone, by the hub.
"""

from __future__ import annotations

from typing import Any


class Place:
    """Where a rank is among the others."""

    __slots__ = ("local_rank", "local_size", "node_rank")

    def __init__(self, local_rank: int, local_size: int, node_rank: int) -> None:
        self.local_rank = local_rank
        self.local_size = local_size  # ranks on the same node
        self.node_rank = node_rank


def places(nodes: list[bytes]) -> list[Place]:
    """One per rank, from the nodes of the ranks."""
    order: dict[bytes, int] = {}
    mates: dict[bytes, int] = {}
    local: list[int] = []
    for node in nodes:
        order.setdefault(node, len(order))
        local.append(mates.get(node, 0))
        mates[node] = local[-1] + 1
    return [Place(local[rank], mates[node], order[node]) for rank, node in enumerate(nodes)]


def environment(gang_id: str, rank: int, info: dict[str, Any], ports: list[int]) -> dict[str, str]:
    """The variables of one rank; CUDA_VISIBLE_DEVICES is not here, as its node sets it."""
    place = places(info["nodes"])[rank]
    found = {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(info["nodes"])),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "GROUP_RANK": str(place.node_rank),
        "MASTER_ADDR": str(info["hosts"][0]),
        "MASTER_PORT": str(ports[0]),
        "SPOKE_GANG_ID": gang_id,
    }
    if info["nics"][rank]:
        found["SPOKE_NIC"] = info["nics"][rank]
    return found


def next_spec(spec: dict[str, Any], incarnation: int, variables: dict[str, str]) -> dict[str, Any]:
    """The creation spec of the same rank in the next incarnation."""
    found = {**spec, "strategy": {**spec["strategy"], "incarnation": incarnation}}
    found.pop("request_id", None)  # nobody waits for it
    env = spec.get("env") or {}
    nested = isinstance(env.get("vars"), dict)
    found["env"] = {**env, "vars": {**env["vars"], **variables}} if nested else {**env, **variables}
    given = spec.get("runtime_env")
    if isinstance(given, dict):
        given = {**given, "env_vars": {**(given.get("env_vars") or {}), **variables}}
        found["runtime_env"] = given
        if isinstance(spec.get("context"), dict):
            found["context"] = {**spec["context"], "runtime_env": given}
    return found
