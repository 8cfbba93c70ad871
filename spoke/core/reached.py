"""What a placement reached: how close the slots of a group are, which NIC each slot should use.

Rules of this module: reads the tables and changes nothing; values are plain msgpack data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoke.core.request import CLOSENESS, NODE
from spoke.core.topology import KINDS, shared

if TYPE_CHECKING:
    from spoke.core.state import Bundle, Group, Node


def closeness(group: Group) -> str:
    """The closest of "nvlink", "numa" and "node" that holds for the slots, "" if none does.

    "nvlink" and "numa": on every node, one such domain holds all GPUs of the group; "node": it has one node.
    """
    nodes = _by_node(group)
    levels = [_level(node, bundles) for node, bundles in nodes]
    for kind in KINDS:
        if levels and all(level and KINDS.index(level) <= KINDS.index(kind) for level in levels):
            return kind
    return NODE if len(nodes) == 1 else ""


def _level(node: Node, bundles: list[Bundle]) -> str:
    return shared(node.ledger.domains, [index for bundle in bundles for index in gpu_ids(bundle)])


def _by_node(group: Group) -> list[tuple[Node, list[Bundle]]]:
    found: dict[bytes, tuple[Node, list[Bundle]]] = {}
    for bundle in group.bundles:
        if bundle.node is not None:
            found.setdefault(bundle.node.node_id, (bundle.node, []))[1].append(bundle)
    return list(found.values())


def gpu_ids(bundle: Bundle) -> list[int]:
    """The devices of a slot."""
    return list(bundle.share.gpu_ids) if bundle.share is not None else []


def nics(group: Group) -> list[str]:
    """The NIC nearest to each slot's GPUs, in turns where several are equally near; "" without any."""
    turns: dict[bytes, int] = {}
    names = []
    for bundle in group.bundles:
        node = bundle.node
        if node is None:
            names.append("")
            continue
        turn = turns.get(node.node_id, 0)
        turns[node.node_id] = turn + 1
        names.append(node.topology.nearest_nic(gpu_ids(bundle), turn))
    return names


def variables(group: Group) -> list[str]:
    """The variable by which each slot's process is limited to its GPUs."""
    return [bundle.node.topology.variable if bundle.node is not None else "" for bundle in group.bundles]


def shown(group: Group) -> list[str | None]:
    """That variable's value; None where it is left alone."""
    return [
        None
        if bundle.node is None or bundle.node.topology.noset
        else ",".join(map(str, bundle.node.topology.shown(gpu_ids(bundle))))
        for bundle in group.bundles
    ]


def describe(group: Group) -> dict[str, Any]:
    """The answer to "where is it": asked for, reached, and the devices of every node."""
    request = group.request
    found = _by_node(group)
    keys = [key for key in (request.same, request.prefer) if key and key not in CLOSENESS]
    values = {key: list(dict.fromkeys(node.labels.get(key, "") for node, _ in found)) for key in keys}
    return {
        "same": request.same,
        "prefer": request.prefer,
        "reached": closeness(group),
        "labels": {key: listed[0] for key, listed in values.items() if len(listed) == 1 and listed[0]},
        "nodes": [
            {
                "node_id": node.node_id.hex(),
                "node_ip": node.host,
                "ranks": [bundle.index for bundle in bundles],
                "reached": _level(node, bundles) or NODE,
                "gpus": [_gpu(node, index) for bundle in bundles for index in gpu_ids(bundle)],
                "nics": list(node.topology.nics),
            }
            for node, bundles in found
        ],
    }


def _gpu(node: Node, index: int) -> dict[str, Any]:
    known = node.topology.gpus[index] if index < len(node.topology.gpus) else {}
    return {
        "index": index,
        "uuid": known.get("uuid", ""),
        "pci": known.get("pci", ""),
        "numa": known.get("numa", -1),
        "nvlink": node.topology.domain_of("nvlink", index),
    }
