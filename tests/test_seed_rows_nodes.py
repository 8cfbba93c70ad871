"""More checks of the ancestor's feature rows (S2-..): those that start clusters of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spoke.cluster_utils import Cluster
from spoke.exceptions import ActorUnschedulableError
from tests.test_seed_rows_gang import Rank, about_all


def test_s2_03_s2_04_s2_11_nodes_ranks_and_the_master() -> None:
    import spoke

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        first = cluster.add_node(num_cpus=4, num_gpus=4)
        second = cluster.add_node(num_cpus=4, num_gpus=4)
        spoke.init(address=cluster.address, log_to_driver=False)
        with pytest.raises(ActorUnschedulableError, match="no single node"):
            spoke.gang_allocate(1, 8, {"GPU": 1}, strict_pack=True, timeout=0)
        with spoke.gang_allocate(1, 8, {"GPU": 1}, strict_pack=False, timeout=30) as split:  # S2-03
            assert sorted(slot.gpu_ids[0] for slot in split.slots) == sorted([*range(4), *range(4)])
            assert split.release(10)
        with spoke.gang_allocate(2, 2, {"GPU": 1}, master_node=second.node_id, timeout=30) as gang:
            slots = gang.slots
            assert len(slots) == 4, "S2-11: the asked node counts among the n"
            assert [slot.global_rank for slot in slots] == [0, 1, 2, 3]
            homes = [slot.node_id for slot in slots]
            assert homes == [second.node_id] * 2 + [first.node_id] * 2, "S2-04: node by node"
            assert [slot.local_rank for slot in slots] == [0, 1, 0, 1]
            assert gang.master_addr == slots[0].node_ip
            assert [row["ranks"] for row in gang.topology["nodes"]] == [[0, 1], [2, 3]]
    finally:
        spoke.shutdown()
        cluster.shutdown()


def test_s2_08_a_node_that_has_a_part_of_the_devices(
    monkeypatch: pytest.MonkeyPatch, fresh_cluster: Callable[..., Any]
) -> None:
    """Numbers are mapped through what the node itself was given; unique names are passed on."""
    for visible in ("5,6", "GPU-abc,MIG-def"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        spoke = fresh_cluster(num_gpus=2)
        with spoke.gang_allocate(1, 2, {"GPU": 1}) as gang:
            shown = visible.split(",")
            assert [gang.environment(rank)["CUDA_VISIBLE_DEVICES"] for rank in range(2)] == shown
            gang.launch(Rank)
            seen = about_all(spoke, gang)
            assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in seen] == shown
            assert [one["gpus"] for one in seen] == [[name] for name in shown]
            assert [one["ids"] for one in seen] == [[name] for name in shown]


def test_the_opt_out_leaves_the_variable_alone(
    monkeypatch: pytest.MonkeyPatch, fresh_cluster: Callable[..., Any]
) -> None:
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    spoke = fresh_cluster(num_gpus=4)
    with spoke.gang_allocate(1, 2, {"GPU": 2}) as gang:
        assert "CUDA_VISIBLE_DEVICES" not in gang.environment(1)
        gang.launch(Rank)
        seen = about_all(spoke, gang)
        assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0,1,2,3"] * 2
        assert [one["gpus"] for one in seen] == [["0", "1"], ["2", "3"]]
