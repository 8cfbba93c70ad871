"""Defects that systems of this kind had, each as a test that they are not here.

The numbers in the names (B1, B2, ...) are those of the list of such defects; gangs, spawning, death.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spoke import wire
from spoke.exceptions import ActorDiedError, RayTaskError
from tests.hub_harness import Harness


class Plain:
    """An actor."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def about(self) -> tuple[int, tuple[Any, ...], dict[str, str], list[int]]:
        import spoke

        return os.getpid(), self.args, dict(os.environ), spoke.get_gpu_ids()

    def fail(self) -> None:
        raise ValueError("on purpose")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture(scope="module")
def gpus() -> Iterator[Any]:
    import spoke

    spoke.init(num_cpus=8, num_gpus=8, log_to_driver=False)
    yield spoke
    spoke.shutdown()


def test_b1_an_actor_outlives_the_thread_that_made_it(gpus: Any) -> None:
    import threading

    made: list[Any] = []
    maker = threading.Thread(target=lambda: made.append(gpus.remote(Plain).remote()))
    maker.start()
    maker.join()
    pid = gpus.get(made[0].about.remote())[0]
    time.sleep(1.0)
    assert gpus.get(made[0].about.remote())[0] == pid


def test_b2_devices_are_never_shared_in_any_order_of_release() -> None:
    rng = random.Random(2)
    hub = Harness()
    node = hub.node("n", CPU=64.0, GPU=8.0)
    driver = hub.driver("driver", node)
    held: dict[bytes, list[int]] = {}
    for step in range(300):
        if held and rng.random() < 0.5:
            group = rng.choice(list(held))
            hub.say(driver, wire.REMOVE_GROUP, group)
            del held[group]
        else:
            count = rng.choice([1, 2, 4])
            group = hub.group(driver, f"g{step}", [{"GPU": 1.0}] * count, "STRICT_PACK", gang={})
            row = hub.ask(driver, "group", id=group)
            if row["state"] != "CREATED":
                hub.say(driver, wire.REMOVE_GROUP, group)
                continue
            held[group] = [index for ids in row["gpu_ids"] for index in ids]
        devices = [index for ids in held.values() for index in ids]
        assert len(devices) == len(set(devices)), "GANG-1"
        assert hub.free(node, "GPU") == 8 - len(devices)


def test_b3_a_rank_with_two_devices_sees_both(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 2}) as gang:
        gang.launch(Plain)
        seen = gpus.get([rank.about.remote() for rank in gang.handles])
        assert [one[2]["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0,1", "2,3"]
        assert [one[3] for one in seen] == [[0, 1], [2, 3]]


def test_b4_b7_senseless_amounts_and_counts_are_refused(gpus: Any) -> None:
    for call in ((1, 1, {"GPU": -4}), (0, 1, None), (1, 0, None), (1, 1, {"GPU": float("nan")})):
        with pytest.raises(ValueError):
            gpus.gang_allocate(*call)


def test_b5_a_preferred_node_adds_no_member(gpus: Any) -> None:
    with gpus.gang_allocate(1, 2, {"GPU": 1}, master_node=gpus.nodes()[0]["NodeID"]) as gang:
        assert len(gang) == len(gang.slots) == 2


def test_b6_strict_pack_is_read() -> None:
    hub = Harness()
    for name in ("a", "b"):
        hub.node(name, CPU=8.0, GPU=4.0)
    driver = hub.driver("driver")
    bundles = [{"GPU": 1.0}] * 8
    tight = hub.group(driver, "tight", bundles, "STRICT_PACK", gang={})
    loose = hub.group(driver, "loose", bundles, "PACK", gang={})
    assert hub.ask(driver, "group", id=tight)["state"] == "PENDING"
    row = hub.ask(driver, "group", id=loose)
    assert row["state"] == "CREATED" and row["nodes"] == sorted(row["nodes"])


def test_b8_a_call_in_flight_ends_with_its_actor(gpus: Any) -> None:
    actor = gpus.remote(Plain).remote()
    pid = gpus.get(actor.about.remote())[0]
    ref = actor.sleep.remote(60)
    time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        gpus.get(ref, timeout=10)
    with pytest.raises(ActorDiedError):
        gpus.get(actor.about.remote(), timeout=10)
    assert time.monotonic() - started < 2.0
    with pytest.raises(AttributeError):
        _ = actor.no_such_method


def test_b9_a_method_that_raises_leaves_the_actor_alive(gpus: Any) -> None:
    actor = gpus.remote(Plain).remote()
    pid = gpus.get(actor.about.remote())[0]
    with pytest.raises(RayTaskError, match="on purpose") as caught:
        gpus.get(actor.fail.remote())
    assert isinstance(caught.value, ValueError)
    assert gpus.get(actor.about.remote())[0] == pid


def test_b10_a_method_pushes_to_its_caller_while_it_runs(gpus: Any) -> None:
    class Pusher:
        def push(self, count: int) -> Iterator[int]:
            yield from range(count)

    pusher = gpus.remote(Pusher).remote()
    items = pusher.push.options(num_returns="streaming").remote(3)
    assert [gpus.get(item, timeout=30) for item in items] == [0, 1, 2]


def test_l2_a_stuck_actor_holds_up_nobody(gpus: Any) -> None:
    """Large bodies that it does not take wait for it alone."""
    stuck, other = (gpus.remote(num_cpus=0)(Plain).remote() for _ in range(2))
    gpus.get([one.about.remote() for one in (stuck, other)])
    stuck.sleep.remote(600)
    waiting = [stuck.sleep.remote(os.urandom(90_000)) for _ in range(64)]  # it never comes to them
    waiting += [stuck.sleep.remote(os.urandom(200_000)) for _ in range(8)]
    task = gpus.remote(num_cpus=0)(lambda body: len(body)).remote(os.urandom(200_000))
    assert gpus.get(task, timeout=30) == 200_000
    assert gpus.get(other.about.remote(), timeout=30)[0] > 0
    ready, _ = gpus.wait(waiting, timeout=0)
    assert ready == []
    gpus.kill(stuck)
    for ref in waiting:
        with pytest.raises(ActorDiedError):
            gpus.get(ref, timeout=30)


def test_l6_connections_that_say_nothing_cost_no_threads(gpus: Any) -> None:
    import socket

    import psutil

    (node,) = gpus.nodes()
    daemon = psutil.Process(node["pid"])
    before = daemon.num_threads()
    address = ("127.0.0.1", node["NodeManagerPort"])
    idle = [socket.create_connection(address) for _ in range(200)]
    try:
        assert gpus.get(gpus.remote(num_cpus=0)(lambda: os.getpid()).remote(), timeout=30) > 0
        assert daemon.num_threads() <= before + 1
    finally:
        for one in idle:
            one.close()


def test_l16_a_result_that_nobody_wants_holds_up_nobody(gpus: Any) -> None:
    """The original's future waited for the whole call when it was dropped."""
    actor = gpus.remote(num_cpus=0)(Plain).remote()
    gpus.get(actor.about.remote())
    actor.sleep.remote(600)  # its ref is dropped here
    ref = actor.about.remote()
    assert gpus.wait([ref], timeout=0) == ([], [ref])  # we are here, and that call runs
    gpus.kill(actor)


def test_b15_b16_types_are_checked_and_arguments_arrive(gpus: Any) -> None:
    with pytest.raises(ValueError, match="unknown actor type"):
        gpus.spawn("Nobody")
    with gpus.gang_allocate(1, 2) as gang:
        gang.launch(Plain, "--rank", per_rank=lambda slot: (slot.global_rank,))
        seen = gpus.get([rank.about.remote() for rank in gang.handles])
        assert [one[1] for one in seen] == [("--rank", 0), ("--rank", 1)]
        assert [one[2]["RANK"] for one in seen] == ["0", "1"]


def test_b19_usage_is_zero_after_many_lives(gpus: Any) -> None:
    for _ in range(5):
        actors = [gpus.remote(num_cpus=1)(Plain).remote() for _ in range(4)]
        gpus.get([actor.about.remote() for actor in actors])
        for actor in actors:
            gpus.kill(actor)
    deadline = time.monotonic() + 5
    while gpus.available_resources().get("CPU") != 8.0:
        assert time.monotonic() < deadline, gpus.available_resources()
        time.sleep(0.01)


def test_b20_devices_come_back_only_when_the_process_is_gone(gpus: Any) -> None:
    gang = gpus.gang_allocate(1, 8, {"GPU": 1})
    gang.launch(Plain)
    pids = [one[0] for one in gpus.get([rank.about.remote() for rank in gang.handles])]
    gang.release()
    with gpus.gang_allocate(1, 8, {"GPU": 1}, timeout=10):
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")], "GANG-3"


def test_s2_14_a_killed_driver_releases_its_gang() -> None:
    hub = Harness()
    node = hub.node("n", CPU=4.0, GPU=4.0)
    driver = hub.driver("driver", node)
    hub.group(driver, "g", [{"GPU": 1.0}] * 4, "STRICT_PACK", gang={})
    kept = hub.group(driver, "d", [{"CPU": 1.0}], "STRICT_PACK", gang={}, detached=True)
    assert hub.free(node, "GPU") == 0.0
    hub.lose(driver)
    assert hub.free(node, "GPU") == 4.0 and hub.free(node) == 3.0
    assert hub.ask(hub.driver("other"), "group", id=kept)["state"] == "CREATED"
