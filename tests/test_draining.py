"""GANG-3 where NVML can tell: a device that somebody still holds goes to nobody; the holder is named."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke import wire
from spoke.exceptions import GetTimeoutError
from tests.fake_machine import pretend
from tests.hub_harness import one_node

UNIT = 10_000


def test_a_held_device_leaves_the_pool_until_it_is_free() -> None:
    hub, node, driver = one_node(4.0, GPU=2.0)
    first = hub.actor(driver, "first", GPU=1.0)
    worker = hub.ready(first)
    assert hub.spawned[worker][4] == [0]
    hub.say(node, wire.DEVICES_HELD, [[0, [77]]])
    hub.step(hub.exit_of(worker, None, 9))
    assert hub.free(node, "GPU") == 1.0, "GANG-3"
    second, third = hub.actor(driver, "second", GPU=1.0), hub.actor(driver, "third", GPU=1.0)
    assert hub.spawned[hub.ready(second)][4] == [1]
    with pytest.raises(LookupError):
        hub.started(third)
    assert "GPU 0" in hub.ask(driver, "why", id=third) and "77" in hub.ask(driver, "why", id=third)
    assert hub.ask(driver, "nodes")[0]["Draining"] == {0: [77]}
    hub.say(node, wire.DEVICES_HELD, [[0, [78]]])
    assert "78" in hub.ask(driver, "why", id=third)
    hub.say(node, wire.DEVICES_HELD, [])
    assert hub.spawned[hub.ready(third)][4] == [0]
    assert hub.ask(driver, "nodes")[0]["Draining"] == {}


def test_a_slot_of_a_living_gang_drains_too() -> None:
    """Ranks that come back wait until their own device is free."""
    hub, node, driver = one_node(4.0, GPU=2.0)
    policy = {"restart": "gang", "max_restarts": 3, "window_s": 100.0}
    group = hub.group(driver, "gang", [{"GPU": 1.0}] * 2, "STRICT_PACK", gang=policy)

    def rank(number: int, incarnation: int) -> bytes:
        strategy = {"kind": "group", "group_id": group, "index": number, "rank": number}
        strategy["incarnation"] = incarnation
        return hub.actor(driver, f"r{number}.{incarnation}", {"strategy": strategy}, GPU=1.0)

    workers = [hub.ready(rank(number, 0)) for number in range(2)]
    hub.say(node, wire.DEVICES_HELD, [[1, [77]]])
    hub.step(hub.exit_of(workers[1], None, 9))
    again = [rank(number, 1) for number in range(2)]
    hub.ready(again[0], 0)
    with pytest.raises(LookupError):
        hub.started(again[1])
    why = hub.ask(driver, "why", id=again[1])
    assert "GPU 1" in why and "77" in why
    hub.say(node, wire.DEVICES_HELD, [])
    hub.ready(again[1], 0)
    hub.say(node, wire.DEVICES_HELD, [[0, [5]], [1, [6]]])
    hub.say(driver, wire.REMOVE_GROUP, group)
    assert hub.free(node, "GPU") == 0.0
    hub.say(node, wire.DEVICES_HELD, [[1, [6]], [9, [6]]])
    assert hub.free(node, "GPU") == 1.0, "a device that the node does not have changes nothing"
    hub.say(node, wire.DEVICES_HELD, [])
    assert hub.hub.state.nodes[node].ledger.idle()
    hub.say(node, wire.DEVICES_HELD, [["x"]])


class Holder:
    """Something on a GPU."""

    def pid(self) -> int:
        return os.getpid()


def tell(path: Path, pids: dict[str, list[int]]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(pids), encoding="ascii")
    part.rename(path)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_process_left_on_a_gpu_keeps_it_out_of_the_pool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_cluster: Callable[..., Any]
) -> None:
    processes = pretend(monkeypatch, tmp_path)
    tell(processes, {"0": [11]})  # somebody else's, there before any worker
    spoke = fresh_cluster(num_cpus=4, num_gpus=2)
    holder = spoke.remote(Holder)
    for _ in range(2):  # what was there before does not count
        actor = holder.options(num_gpus=2).remote()
        mine = spoke.get(actor.pid.remote(), timeout=60)
        tell(processes, {"0": [11, mine], "1": [mine]})
        tell(processes, {"0": [11]})
        spoke.kill(actor)
        until(lambda: spoke.available_resources().get("GPU") == 2.0, "both devices come back")
    actor = holder.options(num_gpus=2).remote()
    spoke.get(actor.pid.remote(), timeout=60)
    tell(processes, {"0": [11], "1": [4242]})
    spoke.kill(actor)
    until(lambda: spoke.available_resources().get("GPU") == 1.0, "one device is held")
    (node,) = spoke.nodes()
    assert node["Draining"] == {1: [4242]}
    with pytest.raises(GetTimeoutError, match="process 4242"):
        spoke.gang_allocate(1, 2, {"GPU": 1}, timeout=0)
    tell(processes, {})
    with spoke.gang_allocate(1, 2, {"GPU": 1}, timeout=30) as gang:
        assert [slot.gpu_ids for slot in gang.slots] == [(0,), (1,)]
