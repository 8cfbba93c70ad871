"""The checks of the ancestor's feature rows about allocation, devices, addresses, environment and names.

Each test names its rows (S2-..); those about the life of tickets are tested elsewhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spoke.exceptions import ActorPlacementGroupRemoved, GetTimeoutError
from spoke.util.placement_group import PlacementGroup
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup


class Rank:
    """Tells where it is and what it was given."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def about(self) -> dict[str, Any]:
        import spoke

        context = spoke.get_runtime_context()
        return {
            "env": dict(os.environ),
            "gpus": spoke.get_gpu_ids(),
            "ids": context.get_accelerator_ids()["GPU"],
            "node": context.get_node_id(),
            "args": self.args,
        }


@pytest.fixture(scope="module")
def gpus() -> Iterator[Any]:
    """A node of eight GPUs, by count alone."""
    import spoke

    spoke.init(num_cpus=16, num_gpus=8, log_to_driver=False)
    yield spoke
    assert spoke.available_resources()["GPU"] == 8.0
    spoke.shutdown()


def about_all(spoke: Any, gang: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spoke.get([rank.about.remote() for rank in gang.handles], timeout=60)
    return found


def test_s2_01_releases_in_any_order_return_to_the_start(gpus: Any) -> None:
    start = gpus.available_resources()
    gangs = [gpus.gang_allocate(1, 2, {"GPU": 1, "CPU": 0.5, "memory": 1000}) for _ in range(4)]
    assert gpus.available_resources().get("GPU", 0.0) == 0.0
    for place in (2, 0, 3, 1):
        assert gangs[place].release(10)
    assert gpus.available_resources() == start
    for amount in (-4, float("nan")):
        with pytest.raises(ValueError):
            gpus.gang_allocate(1, 1, {"GPU": amount})


def test_s2_02_s2_26_one_of_two_racing_gangs_wins_whole(gpus: Any) -> None:
    with gpus.gang_allocate(1, 8, {"GPU": 1}) as whole:
        assert isinstance(whole.placement_group, PlacementGroup)
        with pytest.raises(GetTimeoutError):  # S2-26: fail fast
            gpus.gang_allocate(1, 1, {"GPU": 1}, timeout=0)
        assert whole.release(10)
    won: list[Any] = []

    def race() -> None:
        try:
            won.append(gpus.gang_allocate(1, 5, {"GPU": 1}, timeout=0))
        except GetTimeoutError:
            pass

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and gpus.available_resources()["GPU"] == 3.0
    later: list[Any] = []  # S2-26: queue
    waiter = threading.Thread(target=lambda: later.append(gpus.gang_allocate(1, 5, {"GPU": 1}, timeout=30)))
    waiter.start()
    won[0].release()
    waiter.join()
    assert later[0].release(10)


def test_s2_06_s2_27_a_rank_gets_exactly_its_slot(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 2, {"GPU": 2})
    first = gang.launch_actor(1, Rank, "x")
    seen = gpus.get(first.about.remote(), timeout=60)
    assert seen["gpus"] == [2, 3] == list(gang.slots[1].gpu_ids) and seen["node"] == gang.slots[1].node_id
    with pytest.raises(ValueError):
        gang.launch_actor(1, Rank)
    with pytest.raises(IndexError):
        gang.launch_actor(2, Rank)
    with pytest.raises(TypeError):
        gang.launch_actor(0, "no class")
    assert gang.release(10)
    with pytest.raises(ActorPlacementGroupRemoved):
        gang.launch_actor(0, Rank)
    with gpus.gang_allocate(1, 2, {"GPU": 2}) as other:  # Ray's own form, into any slot of the ticket
        strategy = InGroup(other.placement_group, 0)
        actor = gpus.remote(Rank).options(num_cpus=0, num_gpus=2, scheduling_strategy=strategy).remote()
        assert gpus.get(actor.about.remote(), timeout=60)["gpus"] == [0, 1]
        assert other.release(10)


def test_s2_07_s2_28_arguments_and_environment(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 1}) as gang:
        gang.launch(Rank, "--verbose", per_rank=lambda slot: ("--rank", slot.global_rank))
        seen = about_all(gpus, gang)
        assert [one["args"] for one in seen] == [("--verbose", "--rank", 0), ("--verbose", "--rank", 1)]
        env = [one["env"] for one in seen]
        assert [one["RANK"] for one in env] == ["0", "1"]
        assert [one["CUDA_VISIBLE_DEVICES"] for one in env] == ["0", "1"]
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SPOKE_GANG_ID"):
            assert env[0][name] == env[1][name]
        assert env[0]["WORLD_SIZE"] == "2" and [one["LOCAL_RANK"] for one in env] == ["0", "1"]
        assert gang.release(10)


def test_s2_08_the_three_cases_of_a_visible_device(gpus: Any) -> None:
    blocker = gpus.gang_allocate(1, 3, {"GPU": 1})
    with gpus.gang_allocate(1, 1, {"GPU": 1}) as gang:
        gang.launch(Rank)
        (seen,) = about_all(gpus, gang)
        assert seen["env"]["CUDA_VISIBLE_DEVICES"] == "3" and seen["gpus"] == [3] and seen["ids"] == ["3"]
        assert gang.release(10)
    with gpus.gang_allocate(1, 1, {"CPU": 1}) as gang:
        gang.launch(Rank)
        (seen,) = about_all(gpus, gang)
        assert seen["env"]["CUDA_VISIBLE_DEVICES"] == "" and seen["gpus"] == []
    free = gpus.remote(Rank).options(num_cpus=0).remote()
    inherited = gpus.get(free.about.remote(), timeout=60)["env"].get("CUDA_VISIBLE_DEVICES")
    assert inherited == os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus.kill(free)
    assert blocker.release(10)


def test_s2_08_fractions_share_one_device_and_never_two(gpus: Any) -> None:
    with gpus.gang_allocate(1, 4, {"GPU": 0.5}) as gang:
        gang.launch(Rank)
        seen = about_all(gpus, gang)
        assert [one["gpus"] for one in seen] == [[0], [0], [1], [1]]
        assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0", "0", "1", "1"]
        assert [one["ids"] for one in seen] == [["0"], ["0"], ["1"], ["1"]]
        assert gang.release(10)
    with gpus.gang_allocate(1, 3, {"GPU": 0.6}) as gang:
        assert [slot.gpu_ids for slot in gang.slots] == [(0,), (1,), (2,)]
        assert gang.release(10)


def test_s2_09_several_devices_per_actor(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 4}) as gang:
        gang.launch(Rank)
        assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in about_all(gpus, gang)] == ["0,1,2,3", "4,5,6,7"]
        assert gang.release(10)


def test_s2_10_devices_are_never_given_twice(gpus: Any) -> None:
    first = gpus.gang_allocate(1, 4, {"GPU": 1})
    second = gpus.gang_allocate(1, 4, {"GPU": 1})
    mine = [slot.gpu_ids for slot in first.slots]
    assert first.release(10)
    third = gpus.gang_allocate(1, 4, {"GPU": 1})
    assert [slot.gpu_ids for slot in third.slots] == mine
    assert not set(mine) & {slot.gpu_ids for slot in second.slots}
    assert second.release(10) and third.release(10)


def test_s2_30_a_class_needs_no_resource_api(gpus: Any) -> None:
    alone = gpus.remote(Rank).options(num_cpus=0).remote("same")
    assert gpus.get(alone.about.remote(), timeout=60)["args"] == ("same",)
    with gpus.gang_allocate(1, 1, {"GPU": 1}) as gang:
        gang.launch(Rank, "same")
        assert about_all(gpus, gang)[0]["args"] == ("same",)
        assert gang.release(10)
    gpus.kill(alone)
