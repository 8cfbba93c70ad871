"""Spare workers become what somebody needs before they run anything: core, agent, and real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke import wire
from tests.hub_harness import Harness
from tests.test_agent import Bench, alive, bench  # noqa: F401  # a fixture

ENV = {"env": {"vars": {"MODE": "fast"}, "cwd": "/"}}


# -- the hub


def warm(cpus: float = 2.0, **more: float) -> tuple[Harness, bytes, bytes]:
    """A hub whose one node has a spare worker per CPU."""
    hub = Harness(prestart=None)
    node = hub.node("n1", CPU=cpus, **more)
    hub.take(node, wire.SPAWN)
    return hub, node, hub.driver("driver", node)


def test_a_spare_worker_takes_over_variables_directory_and_devices() -> None:
    hub, node, driver = warm(GPU=4.0)
    spare = list(hub.worker_node)
    actor_id = hub.actor(driver, "a", ENV, GPU=2.0)
    assert hub.started(actor_id) == spare[0]
    order = [wire.SPECIALIZE, spare[0], {"MODE": "fast"}, "/", [0, 1], None]
    assert hub.take(node, wire.SPECIALIZE) == [order]
    assert hub.take(node, wire.SPAWN), "the pool is filled up behind it"


def test_the_constructor_waits_until_the_worker_has_its_environment() -> None:
    hub, _, driver = warm()
    hub.auto_start = False
    actor_id = hub.actor(driver, "a", ENV)
    with pytest.raises(LookupError):
        hub.started(actor_id)
    worker_id = next(iter(hub.worker_node))
    hub.say(worker_id, wire.SPECIALIZED)
    assert hub.started(actor_id) == worker_id
    hub.say(worker_id, wire.SPECIALIZED)  # said twice, it changes nothing
    assert len([message for message in hub.inbox[worker_id] if message[0] == wire.START_ACTOR]) == 1


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "PYTHONPATH", "LANG", "SPOKE_TRANSPORT", "RAY_ADDRESS"])
def test_what_is_read_at_a_start_needs_a_start(variable: str) -> None:
    hub, node, driver = warm()
    actor_id = hub.actor(driver, "a", {"env": {variable: "x"}})
    assert not hub.take(node, wire.SPECIALIZE)
    assert hub.spawned[hub.started(actor_id)][2] == {variable: "x"}


def test_an_environment_that_must_be_made_needs_a_start() -> None:
    hub, node, driver = warm()
    hub.actor(driver, "a", {"env": {"vars": {}, "hash": "packages"}})
    assert not hub.take(node, wire.SPECIALIZE)


def test_a_worker_that_ran_anything_is_not_taken() -> None:
    hub, node, driver = warm(cpus=1.0)
    hub.want(driver, 1, 1, CPU=1.0)
    (grant,) = hub.grants(driver)
    hub.auto_start = False  # no other spare worker comes
    hub.want(driver, 1, 0, CPU=1.0)
    hub.say(driver, wire.GIVE_BACK, grant[2], False)
    fresh = [one for one in hub.hub.state.nodes[node].workers.values() if not one.job and one.state == "IDLE"]
    for worker in fresh:
        hub.step(hub.exit_of(worker.worker_id, None, 9))
    hub.take(node, wire.SPECIALIZE)
    hub.actor(driver, "a", ENV)
    assert not hub.take(node, wire.SPECIALIZE)


def test_a_worker_that_dies_of_it_is_replaced() -> None:
    hub, node, driver = warm()
    hub.auto_start = False
    actor_id = hub.actor(driver, "a", ENV)
    (order,) = hub.take(node, wire.SPECIALIZE)
    hub.step(hub.exit_of(order[1], 1, 0, "no such directory"))
    hub.pass_time(1, node)  # a start that failed is tried again after a pause
    (second,) = hub.take(node, wire.SPECIALIZE)
    assert second[1] != order[1]
    hub.say(second[1], wire.SPECIALIZED)
    assert hub.started(actor_id) == second[1]


def test_an_actor_that_ends_meanwhile_leaves_a_worker_for_the_next_like_it() -> None:
    hub, node, driver = warm()
    hub.auto_start = False
    first = hub.actor(driver, "a", ENV)
    (order,) = hub.take(node, wire.SPECIALIZE)
    hub.say(driver, wire.KILL_ACTOR, first, True, "not wanted", -1)
    hub.say(order[1], wire.SPECIALIZED)
    second = hub.actor(driver, "b", ENV)
    assert hub.started(second) == order[1] and not hub.take(node, wire.SPECIALIZE)


def test_one_that_never_answers_is_killed() -> None:
    hub, node, driver = warm()
    hub.auto_start = False
    actor_id = hub.actor(driver, "a", ENV)
    (order,) = hub.take(node, wire.SPECIALIZE)
    hub.auto_start = True
    hub.pass_time(hub.hub.state.config.start_timeout_s + 2, node)
    assert [wire.STOP_WORKER, order[1], True] in hub.take(node, wire.STOP_WORKER)
    assert hub.started(actor_id) != order[1]


# -- the agent


def test_the_files_of_output_move_into_the_gangs_folder(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    bench.spawn(
        "import time; print('before', flush=True); time.sleep(1); print('after', flush=True); time.sleep(60)"
    )
    out = tmp_path / f"worker-{(b'w' * 28).hex()}.out"
    bench.until(lambda: out.exists() and out.read_text())
    place = "gang-ab/rank-3"
    bench.agent.message((wire.SPECIALIZE, b"w" * 28, {"A": "1", "B": None}, "/", [1], place))
    ((process_id, kind, changes, cwd),) = bench.told
    assert (process_id, kind, cwd) == (b"w" * 28, wire.SURROUNDINGS, "/")
    assert (changes["A"], changes["B"], changes["CUDA_VISIBLE_DEVICES"]) == ("1", None, "GPU-b")
    bench.until(lambda: (tmp_path / "gang-ab" / "rank-3.out").read_text() == "before\nafter\n")
    assert not list(tmp_path.glob("worker-*"))
    bench.agent.message((wire.STOP_WORKER, b"w" * 28, True))
    bench.exit()
    assert not (tmp_path / "gang-ab" / "rank-3.err").exists(), "empty files go, from where they are"


@pytest.mark.parametrize("place, linked", [("../up", True), (None, False)])
def test_a_worker_that_cannot_be_specialized_ends_by_name(bench: Bench, place: Any, linked: bool) -> None:  # noqa: F811
    bench.spawn("import time; time.sleep(60)")
    bench.until(bench.agent.worker_pids)
    bench.linked = linked
    bench.agent.message((wire.SPECIALIZE, b"w" * 28, {}, None, None, place))
    tail = bench.exit()[5]
    assert ("no place for log files" if linked else "link to the agent") in tail


def test_one_that_is_gone_is_told_again(bench: Bench) -> None:  # noqa: F811
    bench.agent.message((wire.SPECIALIZE, b"x" * 28, {}, None, None, None))
    assert bench.exit()[1] == b"x" * 28 and not bench.told


# -- real processes


class Member:
    """An actor that tells how it was started."""

    def about(self) -> dict[str, Any]:
        import ctypes
        import sys

        get = ctypes.CDLL(None).getenv  # what a library sees, not what Python does
        get.restype = ctypes.c_char_p
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return {
            "started": ticks,
            "heavy": [name for name in ("numpy", "torch", "pandas") if name in sys.modules],
            "devices": get(b"CUDA_VISIBLE_DEVICES"),
            "rank": get(b"RANK"),
            "cwd": os.getcwd(),
            "group": os.getpgid(0) == os.getpid(),
            "pid": os.getpid(),
        }


def _ticks() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _spare(spoke: Any, count: int) -> None:
    """Wait until that many workers have nothing to do."""
    from spoke.util.state import list_workers

    deadline = time.monotonic() + 60
    while sum(one.is_alive and one.worker_type == "WORKER" for one in list_workers()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # started is not yet connected


def test_ranks_are_spare_workers(fresh_cluster: Callable[..., Any]) -> None:
    spoke = fresh_cluster(num_cpus=4, num_gpus=4)
    _spare(spoke, 4)
    before = _ticks()
    with spoke.gang_allocate(1, 4, {"CPU": 1, "GPU": 1}) as gang:
        gang.launch(Member)
        told = spoke.get([one.about.remote() for one in gang.handles], timeout=60)
        assert all(one["started"] < before for one in told), "they were there before the gang was"
        assert [one["rank"] for one in told] == [b"0", b"1", b"2", b"3"]
        assert sorted(one["devices"] for one in told) == [b"0", b"1", b"2", b"3"]
        assert all(one["group"] and not one["heavy"] for one in told)
    deadline = time.monotonic() + 30
    while any(alive(one["pid"]) for one in told):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_variables_and_devices_of_an_actor(fresh_cluster: Callable[..., Any]) -> None:
    spoke = fresh_cluster(num_cpus=2, num_gpus=2)
    _spare(spoke, 2)
    before = _ticks()
    cls = spoke.remote(Member)
    first = cls.options(num_gpus=1, runtime_env={"env_vars": {"RANK": "7"}}).remote()
    told = spoke.get(first.about.remote(), timeout=60)
    assert told["started"] < before and (told["rank"], told["devices"]) == (b"7", b"0")


def test_a_task_with_variables_takes_a_spare_worker_once(fresh_cluster: Callable[..., Any]) -> None:
    """The worker keeps them for its life: the next task without them does not see them."""
    spoke = fresh_cluster(num_cpus=1)

    @spoke.remote
    def see() -> tuple[int, str | None]:
        return os.getpid(), os.environ.get("MODE")

    fast = see.options(runtime_env={"env_vars": {"MODE": "fast"}})
    pid, mode = spoke.get(fast.remote(), timeout=60)
    assert mode == "fast" and spoke.get(fast.remote(), timeout=60)[0] == pid
    plain, mode = spoke.get(see.remote(), timeout=60)
    assert mode is None and plain != pid


def test_gangs_one_after_the_other_leave_nothing_of_their_environment(
    fresh_cluster: Callable[..., Any],
) -> None:
    spoke = fresh_cluster(num_cpus=2)
    seen = []
    for _ in range(4):
        with spoke.gang_allocate(1, 2) as gang:
            gang.launch(Member)
            seen += [
                one["pid"] for one in spoke.get([one.about.remote() for one in gang.handles], timeout=60)
            ]
    assert len(set(seen)) == 8, "a process serves one gang"
