"""Gangs over several nodes: where the ranks go, and a node that dies under them."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import spoke
from spoke.cluster_utils import Cluster
from spoke.exceptions import ActorUnschedulableError


class Rank:
    """A rank that tells where it is."""

    def about(self) -> dict[str, Any]:
        node = spoke.get_runtime_context().get_node_id()
        return {"pid": os.getpid(), "node": node, "env": dict(os.environ)}


def test_gangs_on_several_nodes() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=4)
        third = cluster.add_node(num_cpus=4)
        spoke.init(address=cluster.address, log_to_driver=False)
        with spoke.gang_allocate(2, 2, master_node=third.node_id) as gang:
            slots = gang.slots
            assert [slot.node_id for slot in slots] == [third.node_id] * 2 + [second.node_id] * 2
            assert [(slot.node_rank, slot.local_rank) for slot in slots] == [(0, 0), (0, 1), (1, 0), (1, 1)]
            gang.launch(Rank)
            gang.wait_ready(30)
            seen = spoke.get([handle.about.remote() for handle in gang.handles], timeout=20)
            assert [about["node"] for about in seen] == [slot.node_id for slot in slots]
            assert [about["env"]["LOCAL_WORLD_SIZE"] for about in seen] == ["2"] * 4
        with pytest.raises(ActorUnschedulableError):
            spoke.gang_allocate(3, 2, timeout=0)
        with spoke.gang_allocate(3, 2, strict_pack=False, timeout=10, master_node=second.node_id) as gang:
            homes = [slot.node_id for slot in gang.slots]
            assert homes[0] == second.node_id and homes == sorted(homes, key=homes.index) and len(homes) == 6
        gang = spoke.gang_allocate(2, 1, {"CPU": 2}, restart="gang", timeout=10)
        gang.launch(Rank)
        gang.wait_ready(30)
        victim = next(node for node in (second, third) if node.node_id == gang.slots[1].node_id)
        fourth = cluster.add_node(num_cpus=4)
        cluster.remove_node(victim, allow_graceful=False)
        while gang.incarnation == 0:
            time.sleep(0.01)
        gang.wait_ready(30)
        assert gang.slots[1].node_id == fourth.node_id and len(set(gang.handles)) == 2
        assert spoke.get(gang.handles[1].about.remote(), timeout=20)["node"] == fourth.node_id
        gang.release(5)
    finally:
        spoke.shutdown()
        cluster.shutdown()
