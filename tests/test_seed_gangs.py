"""The life of tickets, row by row: what each row of the seed's list (S2-..) asks of a gang.

Rows about other things have their tests elsewhere: S2-12 `test_gang_slots`, S2-14 also `test_gang_soak`,
S2-16 `test_gang_cli`, S2-20 `test_hub_restart`, S2-21 and S2-22 `test_topology`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spoke.cluster_utils import Cluster
from spoke.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    GetTimeoutError,
)
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy

SOON_S = 30.0


class Rank:
    """A rank that tells what it is."""

    def about(self) -> dict[str, Any]:
        import spoke

        env = dict(os.environ)
        return {"pid": os.getpid(), "env": env, "gpus": spoke.get_gpu_ids(),
                "node": spoke.get_runtime_context().get_node_id()}  # fmt: skip

    def square(self, number: float) -> float:
        return number * number

    def leave(self, code: int) -> None:
        os._exit(code)


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    import spoke

    spoke.init(num_cpus=8, num_gpus=8, log_to_driver=False)
    yield spoke
    spoke.shutdown()


@pytest.fixture
def gpus(node: Any) -> Any:
    """The module `spoke` with a node of 8 GPUs, all of them free again."""
    until(lambda: node.available_resources().get("GPU") == 8, "what earlier tests released is free")
    return node


def until(condition: Callable[[], Any], what: str, within: float = SOON_S) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.01)
    return found


def about(spoke: Any, handles: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spoke.get([one.about.remote() for one in handles], timeout=SOON_S)
    return found


def gone(pids: list[int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_s2_01_any_order_of_reserve_and_release_ends_where_it_began(gpus: Any) -> None:
    rng = random.Random(1)
    before = gpus.available_resources()
    held: list[Any] = []
    for _ in range(40):
        if held and rng.random() < 0.5:
            held.pop(rng.randrange(len(held))).release(timeout=SOON_S)
        else:
            try:
                amounts = {"CPU": 1, "GPU": rng.choice([0.25, 0.5, 1, 2])}
                held.append(gpus.gang_allocate(1, rng.choice([1, 2]), amounts, timeout=0))
            except (GetTimeoutError, ActorUnschedulableError):
                continue
    for gang in held:
        gang.release(timeout=SOON_S)
    assert gpus.available_resources() == before
    for amount in (-4, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            gpus.gang_allocate(1, 1, {"GPU": amount})


def test_s2_02_one_of_two_racing_gangs_wins_whole(gpus: Any) -> None:
    won: list[Any] = []
    lost: list[BaseException] = []

    def race() -> None:
        try:
            won.append(gpus.gang_allocate(1, 5, {"GPU": 1}, timeout=1.0))
        except GetTimeoutError as error:
            lost.append(error)

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(lost) == 1 and len(won[0].slots) == 5
    won[0].release(timeout=SOON_S)
    with gpus.gang_allocate(1, 8, {"GPU": 1}), pytest.raises(GetTimeoutError):
        gpus.gang_allocate(1, 1, {"GPU": 1}, timeout=0)


def test_s2_05_tickets_are_unguessable_names(gpus: Any) -> None:
    ids = [gpus.gang_allocate(1, 1, {"GPU": 0.125}) for _ in range(8)]
    try:
        names = {gang.id for gang in ids}
        assert len(names) == 8 and all(len(bytes.fromhex(name)) >= 16 for name in names)
        assert len({name[:24] for name in names}) == 8, "random, not counted"
    finally:
        for gang in ids:
            gang.release(timeout=SOON_S)
    with pytest.raises(ValueError):
        gpus.util.get_placement_group("no such ticket")


def test_s2_06_ranks_run_in_their_slots_and_misuse_is_named(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 2}) as gang:
        second = gang.launch_actor(1, Rank, name="second")
        (seen,) = about(gpus, [second])
        assert seen["node"] == gang.slots[1].node_id and seen["gpus"] == list(gang.slots[1].gpu_ids)
        assert gpus.get_actor("second") is not None
        with pytest.raises(IndexError):
            gang.launch_actor(2, Rank)
        with pytest.raises(ValueError, match="launched already"):
            gang.launch_actor(1, Rank)
        with pytest.raises(TypeError, match="not a class"):
            gang.launch_actor(0, "Rank")
    with pytest.raises(ActorPlacementGroupRemoved):
        gang.launch_actor(0, Rank)


def test_s2_08_what_each_process_sees_of_the_devices(gpus: Any) -> None:
    with gpus.gang_allocate(1, 3, {"GPU": 1}), gpus.gang_allocate(1, 1, {"GPU": 1}) as one:
        (seen,) = about(gpus, one.launch(Rank))
        assert seen["env"]["CUDA_VISIBLE_DEVICES"] == "3" and seen["gpus"] == [3]
    with gpus.gang_allocate(1, 1, {"CPU": 1}) as none:
        (seen,) = about(gpus, none.launch(Rank))
        assert seen["env"]["CUDA_VISIBLE_DEVICES"] == "" and seen["gpus"] == []


def test_s2_10_released_devices_go_to_who_comes_next(gpus: Any) -> None:
    first, second = (gpus.gang_allocate(1, 4, {"GPU": 1}) for _ in range(2))
    ids = [[slot.gpu_ids for slot in gang.slots] for gang in (first, second)]
    assert not set(ids[0]) & set(ids[1])
    first.release(timeout=SOON_S)
    with gpus.gang_allocate(1, 4, {"GPU": 1}) as third:
        assert sorted(slot.gpu_ids for slot in third.slots) == sorted(ids[0])
    second.release(timeout=SOON_S)


def test_s2_13_release_may_be_repeated_and_waits_for_the_processes(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 4, {"GPU": 2})
    pids = [one["pid"] for one in about(gpus, gang.launch(Rank))]
    assert gang.release(timeout=SOON_S) is True and gone(pids)
    assert gang.release() is True and gang.release(timeout=1.0) is True
    assert gpus.available_resources()["GPU"] == 8


def test_s2_13_release_is_safe_at_any_moment_of_a_launch(gpus: Any) -> None:
    rng = random.Random(13)
    for _ in range(10):
        gang = gpus.gang_allocate(1, 4, {"GPU": 1})
        launching = threading.Thread(target=_launch_quietly, args=(gang,))
        launching.start()
        time.sleep(rng.uniform(0, 0.05))
        gang.release()
        launching.join()
        assert gang.release(timeout=SOON_S)
    until(lambda: gpus.available_resources().get("GPU") == 8, "all devices are back")


def _launch_quietly(gang: Any) -> None:
    try:
        gang.launch(Rank)
    except (ActorPlacementGroupRemoved, RuntimeError):
        pass  # released before, or in the middle of it


def test_s2_15_an_unused_reservation_is_kept_as_long_as_it_was_asked_for(gpus: Any) -> None:
    with gpus.gang_allocate(1, 1, {"GPU": 1}, launch_timeout=0.3) as short:
        until(lambda: short.state == "REMOVED", "nothing was launched")
        with pytest.raises(ActorPlacementGroupRemoved, match="nothing was launched"):
            short.launch(Rank)
    with gpus.gang_allocate(1, 1, {"GPU": 1}) as endless:
        time.sleep(0.5)
        assert endless.state == "CREATED"


def test_s2_24_exit_codes_and_signals_reach_who_waits(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 1}) as gang:
        ranks = gang.launch(Rank)
        gang.wait_ready(SOON_S)
        with pytest.raises(ActorDiedError, match="exit code 3"):
            gpus.get(ranks[0].leave.remote(3), timeout=SOON_S)
        with pytest.raises(ActorDiedError, match="rank 0"):
            while True:  # a call may be quicker than the end of the other ranks, which the hub sees to
                gpus.get(ranks[1].square.remote(2), timeout=SOON_S)
        until(lambda: "exit code 3" in gang.explain(), "the gang says what it died of")


def test_s2_25_the_others_go_with_one_rank_and_the_ticket_is_freed_once(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 8, {"GPU": 1})
    pids = [one["pid"] for one in about(gpus, gang.launch(Rank))]
    os.kill(pids[3], signal.SIGKILL)
    until(lambda: gone(pids), "all ranks are gone", within=10.0)
    until(lambda: gpus.available_resources().get("GPU") == 8, "the devices are back")
    stops = [threading.Thread(target=gang.release) for _ in range(2)]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    assert gpus.available_resources()["GPU"] == 8


def test_s2_25_a_rank_that_ignores_sigterm_is_killed_with_its_children(gpus: Any) -> None:
    class Stubborn(Rank):
        def __init__(self) -> None:
            import subprocess

            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.child = subprocess.Popen(["sleep", "600"], preexec_fn=_ignore)

        def pids(self) -> list[int]:
            return [os.getpid(), self.child.pid]

    def _ignore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    gang = gpus.gang_allocate(1, 2, {"GPU": 1})
    found = gpus.get([rank.pids.remote() for rank in gang.launch(Stubborn)], timeout=SOON_S)
    pids = [pid for pair in found for pid in pair]
    os.kill(found[0][0], signal.SIGKILL)
    until(lambda: gone(pids), "whole process groups are killed after the grace")
    gang.release(timeout=SOON_S)


def test_s2_26_queue_or_fail_fast(gpus: Any) -> None:
    with gpus.gang_allocate(1, 8, {"GPU": 1}) as all_of_it:
        with pytest.raises(GetTimeoutError, match="could not be reserved"):
            gpus.gang_allocate(1, 1, {"GPU": 1}, timeout=0)
        group = gpus.util.placement_group([{"GPU": 1}])
        assert not group.wait(0.2)
        all_of_it.release()
        assert group.wait(SOON_S)
        gpus.util.remove_placement_group(group)
    with pytest.raises(ActorUnschedulableError, match="can never be placed"):
        gpus.gang_allocate(1, 1, {"GPU": 9}, timeout=0.5)


def test_s2_27_s2_30_the_same_class_runs_with_and_without_a_gang(gpus: Any) -> None:
    alone = gpus.remote(Rank).remote()
    with gpus.gang_allocate(1, 1, {"CPU": 1, "GPU": 1}) as gang:
        strategy = PlacementGroupSchedulingStrategy(gang.placement_group, 0)
        placed = gpus.remote(Rank).options(num_cpus=1, num_gpus=1, scheduling_strategy=strategy).remote()
        assert gpus.get([one.square.remote(5) for one in (alone, placed)], timeout=SOON_S) == [25, 25]
        assert about(gpus, [placed])[0]["gpus"] == list(gang.slots[0].gpu_ids)


def test_s2_28_s2_31_the_examples_of_the_original(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 1}) as gang:
        ranks = gang.launch(Rank)
        seen = [one["env"] for one in about(gpus, ranks)]
        assert [(one["RANK"], one["CUDA_VISIBLE_DEVICES"]) for one in seen] == [("0", "0"), ("1", "1")]
        assert gpus.get([rank.square.remote(5) for rank in ranks], timeout=SOON_S) == [25, 25]
        assert gang.release() is True


@pytest.mark.timeout_s(600)
def test_s2_19_many_lives_leave_nothing(leak_snapshot: Callable[[], Any]) -> None:
    """A cluster starts and ends 200 times, in every tenth life with a gang."""
    import spoke

    spoke.shutdown()
    spoke.init(num_cpus=1, log_to_driver=False)
    spoke.shutdown()
    before = leak_snapshot()
    for life in range(200):
        spoke.init(num_cpus=1, log_to_driver=False)
        if life % 10 == 0:
            with spoke.gang_allocate(1, 1) as gang:
                assert spoke.get(gang.launch(Rank)[0].square.remote(3)) == 9
        spoke.shutdown()
    assert not before.settle()


@pytest.mark.timeout_s(600)
def test_s2_23_a_silent_node_is_fenced() -> None:
    """An agent that is stopped is dead after the limit, its gang fails; when it wakes it learns of that."""
    import spoke

    spoke.shutdown()
    os.environ["SPOKE_NODE_DEAD_S"] = "2"
    cluster = Cluster(True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=2, resources={"far": 2})
        spoke.init(address=cluster.address, log_to_driver=False)
        gang = spoke.gang_allocate(1, 2, {"far": 1})
        ranks = gang.launch(Rank)
        gang.wait_ready(SOON_S)
        pids = [one["pid"] for one in about(spoke, ranks)]
        os.kill(node.pid, signal.SIGSTOP)
        with pytest.raises(ActorDiedError, match="no heartbeat"):
            while True:
                spoke.get(ranks[0].square.remote(2), timeout=SOON_S)
                time.sleep(0.05)
        assert [row["Alive"] for row in spoke.nodes()].count(True) == 1 and gang.state == "REMOVED"
        os.kill(node.pid, signal.SIGCONT)
        until(lambda: not node.is_alive() and gone(pids), "the fenced agent ends with its workers")
    finally:
        del os.environ["SPOKE_NODE_DEAD_S"]
        spoke.shutdown()
        cluster.shutdown()
