"""Gangs of real processes: seen before they run, launched by rank, lost, launched again, released."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spoke.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    GetTimeoutError,
)


class Rank:
    """A rank that tells what it was given."""

    def __init__(self, tag: str = "", fails: int = -1, sleep: float = 0.0) -> None:
        self.tag = tag
        time.sleep(sleep)
        if int(os.environ["RANK"]) == fails:
            raise KeyError("bad weights")

    def about(self) -> dict[str, Any]:
        import spoke

        context = spoke.get_runtime_context()
        return {
            "pid": os.getpid(), "tag": self.tag, "node": context.get_node_id(), "gpus": spoke.get_gpu_ids(),
            "env": dict(os.environ),
        }  # fmt: skip

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture(scope="module")
def gpus() -> Iterator[Any]:
    """A node with 8 CPUs and as many GPUs (that nobody touches)."""
    import spoke

    spoke.init(num_cpus=8, num_gpus=8, log_to_driver=False)
    yield spoke
    spoke.shutdown()


def settled(spoke: Any, cpus: float = 8.0, within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while spoke.available_resources().get("CPU") != cpus:
        assert time.monotonic() < deadline, spoke.available_resources()
        time.sleep(0.01)


def test_everything_is_known_before_the_launch(gpus: Any) -> None:
    with gpus.gang_allocate(1, 4, {"CPU": 1, "GPU": 2}) as gang:
        assert len(gang) == 4 and gang.state == "CREATED"
        slots = gang.slots
        assert [slot.global_rank for slot in slots] == [slot.local_rank for slot in slots] == [0, 1, 2, 3]
        assert [slot.gpu_ids for slot in slots] == [(0, 1), (2, 3), (4, 5), (6, 7)]
        assert {slot.node_id for slot in slots} == {gpus.nodes()[0]["NodeID"]}
        assert gang.master_addr == slots[0].node_ip == "127.0.0.1"
        ports = [slot.port for slot in slots]
        assert len(set(ports)) == 4 and gang.master_port == ports[0] == gang.free_port(0)
        expected = gang.environment(2)
        assert (expected["RANK"], expected["WORLD_SIZE"], expected["LOCAL_RANK"]) == ("2", "4", "2")
        assert expected["CUDA_VISIBLE_DEVICES"] == "4,5" and expected["MASTER_PORT"] == str(ports[0])
        handles = gang.launch(Rank, per_rank=lambda slot: {"tag": f"r{slot.global_rank}"})
        assert gang.wait_ready(20) == handles == gang.handles
        for slot, about in zip(slots, gpus.get([one.about.remote() for one in handles]), strict=True):
            for name, value in gang.environment(slot.global_rank).items():
                assert about["env"][name] == value, name
            assert about["tag"] == f"r{slot.global_rank}"
            assert about["gpus"] == list(slot.gpu_ids) and about["node"] == slot.node_id
        assert "Slot(3" in gang.explain()
    settled(gpus)


def test_two_racing_gangs_do_not_split(gpus: Any) -> None:
    first = gpus.gang_allocate(1, 5, {"GPU": 1})
    with pytest.raises(GetTimeoutError, match="could not be reserved"):
        gpus.gang_allocate(1, 5, {"GPU": 1}, timeout=0)
    assert gpus.available_resources()["GPU"] == 3.0
    assert first.release(5) and gpus.available_resources()["GPU"] == 8.0
    with gpus.gang_allocate(1, 5, {"GPU": 1}, timeout=0) as second:
        assert second.state == "CREATED"


def test_wrong_numbers_are_refused(gpus: Any) -> None:
    for bad in ((0, 1), (1, 0), (-1, 2), (1.5, 1), (True, 1)):
        with pytest.raises(ValueError):
            gpus.gang_allocate(*bad)
    for amounts in ({"GPU": -4}, {"GPU": float("nan")}, {"CPU": float("inf")}, {}, {"CPU": 0}, {"GPU": "1"}):
        with pytest.raises(ValueError):
            gpus.gang_allocate(1, 1, amounts)
    for options in ({"timeout": -1}, {"timeout": float("nan")}, {"restart": "all"}, {"max_restarts": -2},
                    {"master_node": "zz"}, {"lifetime": "long"}):  # fmt: skip
        with pytest.raises(ValueError):
            gpus.gang_allocate(1, 1, **options)
    with pytest.raises(ActorUnschedulableError, match="no single node"):
        gpus.gang_allocate(1, 9, {"GPU": 1}, timeout=0)
    assert gpus.available_resources()["GPU"] == 8.0


def test_ranks_are_launched_once_and_only_in_the_gang(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 2)
    gang.launch_actor(1, Rank, "one", name="second")
    assert gpus.get(gpus.get_actor("second").about.remote())["env"]["RANK"] == "1"
    with pytest.raises(ValueError, match="rank 1"):
        gang.launch_actor(1, Rank)
    with pytest.raises(IndexError):
        gang.launch_actor(2, Rank)
    with pytest.raises(ValueError, match="launched already"):
        gang.launch(Rank)
    assert gang.release(5) is True and gang.release() is True
    with pytest.raises(ActorPlacementGroupRemoved):
        gang.launch_actor(0, Rank)
    with pytest.raises(ActorPlacementGroupRemoved):
        gang.wait_ready(5)
    settled(gpus)


def test_a_constructor_that_raises_stops_all(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 3, restart="gang")
    handles = gang.launch(Rank, fails=2)
    with pytest.raises(ActorDiedError, match="bad weights") as caught:
        gang.wait_ready(20)
    assert "KeyError" in str(caught.value) and gang.state == "REMOVED"
    for handle in handles:
        with pytest.raises(ActorDiedError):
            gpus.get(handle.about.remote(), timeout=5)
    settled(gpus)


def test_wait_ready_waits_and_times_out(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2) as gang:
        gang.launch(Rank, sleep=1.0)
        started = time.monotonic()
        with pytest.raises(GetTimeoutError):
            gang.wait_ready(0.2)
        gang.wait_ready(20)
        assert time.monotonic() - started >= 1.0


def pids_of(spoke: Any, gang: Any) -> list[int]:
    return [about["pid"] for about in spoke.get([one.about.remote() for one in gang.handles], timeout=20)]


def gone(pids: list[int], within: float) -> None:
    deadline = time.monotonic() + within
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a rank outlived its gang"
        time.sleep(0.01)


def test_a_lost_rank_ends_all(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 4)
    handles = gang.launch(Rank)
    gang.wait_ready(20)
    pids = pids_of(gpus, gang)
    busy = [handle.sleep.remote(60) for handle in handles]
    os.kill(pids[1], signal.SIGKILL)
    for ref in busy:
        with pytest.raises(ActorDiedError):
            gpus.get(ref, timeout=5)
    gone(pids, 2.0)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        gang.wait_ready(5)
    assert gang.state == "REMOVED" and "rank 1" in gang.explain()
    settled(gpus)
    assert gang.release() is True


def test_the_whole_gang_comes_back_with_new_handles(gpus: Any) -> None:
    with gpus.gang_allocate(1, 3, {"CPU": 1, "GPU": 1}, restart="gang", max_restarts=2) as gang:
        old = gang.launch(Rank, per_rank=[("a",), ("b",), ("c",)])
        gang.wait_ready(20)
        before = pids_of(gpus, gang)
        devices = [slot.gpu_ids for slot in gang.slots]
        for incarnation in (1, 2):
            os.kill(pids_of(gpus, gang)[0], signal.SIGKILL)
            while gang.incarnation < incarnation:
                time.sleep(0.005)
            gang.wait_ready(20)
            assert gang.incarnation == incarnation
            now = pids_of(gpus, gang)
            assert not set(now) & set(before)
            assert [slot.gpu_ids for slot in gang.slots] == devices
            tags = [one["tag"] for one in gpus.get([handle.about.remote() for handle in gang.handles])]
            assert tags == ["a", "b", "c"]
            started = time.monotonic()
            with pytest.raises(ActorDiedError):
                gpus.get(old[1].about.remote(), timeout=5)
            assert time.monotonic() - started < 0.5, "a call to an old incarnation must fail at once"
        os.kill(pids_of(gpus, gang)[2], signal.SIGKILL)  # the budget is spent
        while gang.state != "REMOVED":
            time.sleep(0.005)
        with pytest.raises(ActorDiedError):
            gang.wait_ready(5)
    settled(gpus)


def test_one_member_comes_back_alone(gpus: Any) -> None:
    with gpus.gang_allocate(1, 3, restart="member", max_restarts=1) as gang:
        handles = gang.launch(Rank)
        gang.wait_ready(20)
        pids = pids_of(gpus, gang)
        os.kill(pids[1], signal.SIGKILL)
        gone([pids[1]], 2.0)
        gang.wait_ready(20)
        assert gang.incarnation == 0 and gang.handles == handles
        now = pids_of(gpus, gang)
        assert now[0] == pids[0] and now[2] == pids[2] and now[1] != pids[1]
        os.kill(now[1], signal.SIGKILL)
        gone(now, 3.0)
        with pytest.raises(ActorDiedError):
            gang.wait_ready(5)
    settled(gpus)


def test_unused_slots_are_given_back(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 4, launch_timeout=0.3)
    deadline = time.monotonic() + 5
    while gang.state != "REMOVED" and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ActorPlacementGroupRemoved, match="nothing was launched"):
        gang.launch(Rank)
    with pytest.raises(GetTimeoutError, match=r"within 0\.3 s"), gpus.gang_allocate(1, 8):
        gpus.gang_allocate(1, 2, pending_timeout=0.3)
    settled(gpus)
