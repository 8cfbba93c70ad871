"""Devices and how they are connected: found on the node, known to the hub, reached by placements."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke.core.ledger import Ledger, to_units
from spoke.core.topology import Topology, pick, shared
from spoke.exceptions import ActorUnschedulableError, GetTimeoutError
from tests.fake_machine import pretend

QUADS = (((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1, 2, 3), (4, 5, 6, 7)))
SWITCH = (((0, 1, 2, 3, 4, 5, 6, 7),), ((0, 1, 2, 3), (4, 5, 6, 7)))
FIND = "import json; from spoke import devices; print(json.dumps(devices.topology({visible}, {gpus})))"


def find(visible: list[str] | None = None, gpus: int | None = None) -> Any:
    """What a process of its own finds, as a daemon would."""
    import json

    code = FIND.format(visible=visible, gpus=gpus)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_devices_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path)
    found = find()
    assert [gpu["numa"] for gpu in found["gpus"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found["gpus"][5]["links"] == [4, 6, 7] and found["gpus"][5]["uuid"] == "GPU-50000000-fake"
    assert found["gpus"][0]["pci"] == "00000000:10:00.0" and found["gpus"][0]["memory"] == 80 * 2**30
    assert [(nic["name"], nic["numa"], nic["up"]) for nic in found["nics"]] == [
        ("mlx5_0", 0, True), ("mlx5_1", 0, True), ("mlx5_2", 1, True), ("mlx5_3", 1, False)
    ]  # fmt: skip
    assert found["nics"][1]["net"] == ["eth1"] and found["nics"][1]["pci"] == "0000:a1:00.0"
    mine = sorted(os.sched_getaffinity(0))
    assert sorted(cpu for cpus in found["cpus"].values() for cpu in cpus) == mine
    topology = Topology(found)
    assert topology.domains == QUADS
    assert topology.nearest_nic([5], 0) == "mlx5_2", "an active one on the GPU's NUMA node"
    assert [topology.nearest_nic([0], turn) for turn in range(3)] == ["mlx5_0", "mlx5_1", "mlx5_0"]


def test_only_visible_devices_count_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path)
    found = find(["5", "GPU-2", "4", "9", "0"])
    uuids = [gpu["uuid"] for gpu in found["gpus"]]
    assert [uuid[4] for uuid in uuids] == ["5", "2", "4"], "as CUDA: up to the unknown"
    assert found["gpus"][0]["links"] == [2] and Topology(found).domains[0] == ((0, 2),)
    assert len(find(gpus=2)["gpus"]) == 2
    monkeypatch.setenv("SPOKE_NVML", "off")
    assert find()["gpus"] == []


def test_a_switch_is_one_domain_and_cliques_are_whole() -> None:
    gpu = {"uuid": "", "name": "", "pci": "", "numa": -1, "memory": 0}
    ring = [[1, 3], [0, 2], [1, 3], [2, 0]]
    assert Topology({"gpus": [{**gpu, "links": links} for links in ring]}).domains[0] == ((0, 1), (2, 3))
    everyone = [[other for other in range(8) if other != mine] for mine in range(8)]
    switched = Topology({"gpus": [{**gpu, "links": links} for links in everyone]})
    assert switched.domains[0] == (tuple(range(8)),)
    assert Topology({}).domains == ()


@pytest.mark.parametrize(
    "report",
    [
        {"gpus": 3}, {"gpus": ["x"]}, {"gpus": [{"numa": "zero"}]}, {"gpus": [{"uuid": 1}]},
        {"gpus": [{"links": ["a"]}]}, {"nics": {}}, {"nics": [{"name": None}]}, {"cpus": [1]},
        {"visible": [1]},
    ],
)  # fmt: skip
def test_malformed_reports_are_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Topology(report)


def test_a_report_that_links_to_nowhere_makes_no_domain() -> None:
    assert Topology({"gpus": [{"links": [7, -1]}, {"links": [0]}]}).domains == ()


def test_pick_keeps_devices_together_and_domains_whole() -> None:
    everything = list(range(8))
    assert pick(everything, 4, QUADS) == [0, 1, 2, 3]
    assert pick([2, 3, 4, 5, 6, 7], 2, QUADS) == [2, 3], "the domain that is broken already"
    assert pick([1, 2, 3, 4, 5, 6, 7], 4, QUADS) == [4, 5, 6, 7]
    assert pick([0, 1, 4, 5, 6], 4, QUADS) == [4, 5, 6, 0], "as few domains as possible"
    assert pick([0, 1, 2, 5, 6, 7], 3, SWITCH) == [0, 1, 2], "within the switch, one NUMA node"
    assert pick([0, 4], 2, QUADS) == [0, 4] and pick([0], 2, QUADS) == [0]
    rng = random.Random(1)
    for _ in range(300):
        free = sorted(rng.sample(everything, rng.randrange(9)))
        count = rng.randrange(9)
        chosen = pick(free, count, rng.choice([QUADS, SWITCH, ()]))
        assert len(chosen) == min(count, len(free)) == len(set(chosen)) and set(chosen) <= set(free)


def test_a_ledger_takes_close_devices() -> None:
    ledger = Ledger(to_units({"GPU": 8.0}), domains=QUADS)
    first = ledger.take(to_units({"GPU": 1.0}))
    four = ledger.take(to_units({"GPU": 4.0}))
    two = ledger.take(to_units({"GPU": 2.0}))
    assert first is not None and four is not None and two is not None
    assert (first.gpu_ids, four.gpu_ids, two.gpu_ids) == ((0,), (4, 5, 6, 7), (1, 2))
    assert shared(QUADS, four.gpu_ids) == "nvlink" and shared(QUADS, (0, 4)) == ""
    assert shared(SWITCH, (0, 4)) == "nvlink" and shared(SWITCH[1:], (0, 4)) == ""
    ledger.validate()


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_cluster: Callable[..., Any]
) -> Iterator[Any]:
    pretend(monkeypatch, tmp_path)
    yield fresh_cluster(num_cpus=16, num_gpus=None)


class Rank:
    """Tells what it sees."""

    def about(self) -> dict[str, Any]:
        import spoke

        ids = spoke.get_runtime_context().get_accelerator_ids()["GPU"]
        return {"env": dict(os.environ), "gpus": spoke.get_gpu_ids(), "ids": ids}


def test_gangs_reach_what_they_ask_for(machine: Any) -> None:
    """S2-04, S2-21, S2-22: the topology is known before the launch; the NIC is the GPU's neighbour."""
    (node,) = machine.nodes()
    assert node["Resources"]["GPU"] == 8.0 and len(node["Topology"]["nics"]) == 4
    assert node["Labels"]["ray.io/accelerator-type"] == "H100" and node["Labels"]["spoke.io/nics"] == "4"
    one = machine.gang_allocate(1, 1, {"GPU": 1})
    with machine.gang_allocate(1, 2, {"GPU": 2}, same="nvlink") as gang:
        assert [slot.gpu_ids for slot in gang.slots] == [(4, 5), (6, 7)], "the whole domain that is left"
        assert [slot.nic for slot in gang.slots] == ["mlx5_2", "mlx5_2"]
        topology = gang.topology
        assert topology["same"] == "nvlink" and topology["reached"] == "nvlink"
        (there,) = topology["nodes"]
        assert there["ranks"] == [0, 1] and [gpu["numa"] for gpu in there["gpus"]] == [1, 1, 1, 1]
        assert there["gpus"][0]["uuid"] == "GPU-40000000-fake" and "share: nvlink" in gang.explain()
        gang.launch(Rank)
        about = machine.get([rank.about.remote() for rank in gang.handles], timeout=60)
        assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in about] == ["4,5", "6,7"]
        assert [one["env"]["SPOKE_NIC"] for one in about] == ["mlx5_2", "mlx5_2"]
        assert [one["env"]["CUDA_DEVICE_ORDER"] for one in about] == ["PCI_BUS_ID"] * 2
        assert [one["gpus"] for one in about] == [[4, 5], [6, 7]]
        assert [one["ids"] for one in about] == [["4", "5"], ["6", "7"]]
        with pytest.raises(GetTimeoutError):
            machine.gang_allocate(1, 4, {"GPU": 1}, same="numa", timeout=0)
        assert gang.release(10)
    with pytest.raises(ActorUnschedulableError, match="the largest has 4 GPUs"):
        machine.gang_allocate(1, 5, {"GPU": 1}, same="nvlink", timeout=0)
    with machine.gang_allocate(1, 5, {"GPU": 1}, prefer="nvlink") as gang:
        assert gang.topology["reached"] == "node" and gang.topology["prefer"] == "nvlink"
    one.release()


def test_the_users_choice_of_devices(machine: Any) -> None:
    """S2-22: specific devices; a busy one waits, one that no node has never comes."""
    with machine.gang_allocate(1, 2, {"GPU": 2}, gpu_ids=[[6, 1], [3, 4]]) as gang:
        assert [slot.gpu_ids for slot in gang.slots] == [(6, 1), (3, 4)]
        with pytest.raises(GetTimeoutError):
            machine.gang_allocate(1, 1, {"GPU": 1}, gpu_ids=[3], timeout=0)
        assert gang.release(10)
    with machine.gang_allocate(1, 2, {"GPU": 0.5}, gpu_ids=[3, 3]) as gang:
        assert [slot.gpu_ids for slot in gang.slots] == [(3,), (3,)]
    with pytest.raises(ActorUnschedulableError):
        machine.gang_allocate(1, 1, {"GPU": 1}, gpu_ids=[8], timeout=0)


@pytest.mark.parametrize(
    "options",
    [
        {"same": 3}, {"same": ""}, {"prefer": []}, {"gpu_ids": [0]}, {"gpu_ids": [0, 0]},
        {"gpu_ids": [0, "1"]}, {"gpu_ids": [[0, 1], [2, 3]]}, {"gpu_ids": [0, -1]},
        {"gpu_ids": [0, 1], "strict_pack": False}, {"gpu_ids": 4},
        {"same": "numa", "resources_per_actor": {"CPU": 1}},
    ],
)  # fmt: skip
def test_wishes_that_make_no_sense_are_refused(spoke_cluster: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        spoke_cluster.gang_allocate(1, 2, **{"resources_per_actor": {"GPU": 1}, **options})
    with pytest.raises(ValueError, match="strict_pack=False"):
        spoke_cluster.gang_allocate(2, 1, same="node")
