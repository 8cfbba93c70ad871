"""Collective operations: bound into compiled graphs, or between the actors of a group.

``allreduce.bind(nodes)`` makes nodes of a graph, ``allreduce(tensor, group_name)`` is called by every
actor of a group; the driver makes groups with `create_collective_group`.
"""

from __future__ import annotations

from spoke import absent
from spoke.experimental.collective.collective import (
    create_collective_group,
    destroy_all_collective_groups,
    destroy_collective_group,
    get_collective_groups,
)
from spoke.experimental.collective.operations import allgather, allreduce, reducescatter

__all__ = [
    "allgather",
    "allreduce",
    "create_collective_group",
    "destroy_all_collective_groups",
    "destroy_collective_group",
    "get_collective_groups",
    "reducescatter",
]

__getattr__ = absent.getter(__name__)
