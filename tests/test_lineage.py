"""Results that are made again when their node is gone, on real clusters of several nodes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spoke as ray
from spoke import current, exceptions
from spoke.cluster_utils import Cluster, Node

LONG = 60_000  # doubles: in blocks


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    head = {"num_cpus": 2, "resources": {"head": 4}}
    made = Cluster(initialize_head=True, connect=True, head_node_args=head)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def eventually(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


def kill(cluster: Cluster, node: Node) -> None:
    cluster.remove_node(node, allow_graceful=False)


def add(cluster: Cluster, **settings: Any) -> Node:
    return cluster.add_node(num_cpus=2, resources={"far": 4}, **settings)


def runs(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@ray.remote(resources={"far": 1}, num_cpus=0)
def make(log: Path, value: float, *needed: Any) -> Any:
    with log.open("a") as file:
        file.write(f"{value}\n")
    return np.full(LONG, value + sum(float(one[0]) for one in needed))


def test_get_after_the_node_is_gone_makes_the_value_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    add(cluster)
    kill(cluster, node)
    value = ray.get(ref, timeout=30)
    assert value.shape == (LONG,) and (value == 3.0).all()
    assert runs(tmp_path / "log") == 2


def lose(cluster: Cluster, node: Node) -> Node:
    """The node is killed, and there is another like it."""
    kill(cluster, node)
    return add(cluster)


def first(ref: Any) -> float:
    return float(ray.get(ref, timeout=30)[0])


def test_a_value_is_made_again_each_time_it_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 3.0)
    for _ in range(2):
        ray.wait([ref])
        node = lose(cluster, node)
    assert first(ref) == 3.0
    assert runs(tmp_path / "log") == 3


def test_retries_are_used_up_by_losses(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.options(max_retries=1).remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    node = lose(cluster, node)
    assert ray.wait([ref], timeout=30)[0] == [ref]
    kill(cluster, node)
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="used up its retries"):
        ray.get(ref, timeout=30)
    assert runs(tmp_path / "log") == 2


def test_without_retries_a_loss_is_named(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.options(max_retries=0).remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    kill(cluster, node)
    with pytest.raises(exceptions.ObjectLostError, match="max_retries=0"):
        ray.get(ref, timeout=30)


def test_what_was_read_here_stays_readable(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.options(max_retries=0).remote(tmp_path / "log", 3.0)
    assert first(ref) == 3.0
    kill(cluster, node)
    assert first(ref) == 3.0


def test_a_chain_is_made_again_from_its_start(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 1.0)
    for value in (10.0, 100.0, 1000.0):
        ref = make.remote(tmp_path / "log", value, ref)
    ray.wait([ref])
    lose(cluster, node)
    assert first(ref) == 1111.0
    assert runs(tmp_path / "log") == 8


def test_of_a_chain_only_the_lost_part_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    other = cluster.add_node(num_cpus=2, resources={"other": 4})
    one = make.options(resources={"other": 1}).remote(tmp_path / "one", 1.0)
    two = make.remote(tmp_path / "two", 10.0, one)
    ray.wait([two])
    lose(cluster, node)
    assert first(two) == 11.0
    assert runs(tmp_path / "one") == 1 and runs(tmp_path / "two") == 2
    assert other.is_alive()


def test_a_freed_argument_is_made_again_for_what_needs_it(cluster: Cluster, tmp_path: Path) -> None:
    """Its memory was given back with its last ref: a chain of kept calls pins no values."""
    node = add(cluster)
    other = cluster.add_node(num_cpus=2, resources={"other": 4})
    one = make.options(resources={"other": 1}).remote(tmp_path / "one", 1.0)
    two = make.remote(tmp_path / "two", 10.0, one)
    ray.wait([two])
    gone = one.binary()
    del one
    client = current.client
    eventually(lambda: gone not in client.refs.entries)
    lose(cluster, node)
    assert first(two) == 11.0
    assert runs(tmp_path / "one") == 2 and runs(tmp_path / "two") == 2
    assert other.is_alive()


@ray.remote(resources={"head": 1}, num_cpus=0)
def head_first(array: Any) -> float:
    return float(array[0])


def test_an_argument_of_a_later_task_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 4.0)
    ray.wait([ref])
    lose(cluster, node)
    assert ray.get(head_first.remote(ref), timeout=30) == 4.0
    assert runs(tmp_path / "log") == 2


@pytest.mark.parametrize("known", [False, True])
def test_a_callee_that_finds_an_argument_gone_waits_for_it(
    cluster: Cluster, tmp_path: Path, known: bool
) -> None:
    """The call was sent before anybody knew of the loss, and its arguments are opened after it.

    known: the callee has read the object before, and has a copy of it.
    """

    @ray.remote(resources={"head": 1}, num_cpus=1)
    class Busy:
        def hold(self, started: Path, go_on: Path) -> None:
            started.touch()
            eventually(go_on.exists)

        def read(self, refs: Any) -> None:
            self.refs = refs
            self.value = ray.get(refs[0])

        def first(self, array: Any) -> float:
            return float(array[0])

    node = add(cluster)
    ref = make.remote(tmp_path / "log", 4.0)
    ray.wait([ref])
    busy = Busy.remote()
    if known:
        ray.get(busy.read.remote([ref]))
    held = busy.hold.remote(tmp_path / "started", tmp_path / "go on")
    answer = busy.first.remote(ref)
    eventually((tmp_path / "started").exists)
    lose(cluster, node)
    (tmp_path / "go on").touch()
    assert ray.get(answer, timeout=30) == 4.0
    assert ray.get(held) is None
    assert known or runs(tmp_path / "log") == 2  # it uses its copy at once


def test_a_borrower_asks_the_owner(cluster: Cluster, tmp_path: Path) -> None:
    @ray.remote(resources={"head": 1}, num_cpus=0)
    class Reader:
        def keep(self, refs: Any) -> None:
            self.ref = refs[0]
            ray.wait(refs)

        def read(self) -> float:
            return float(ray.get(self.ref, timeout=30)[0])

    node = add(cluster)
    ref = make.remote(tmp_path / "log", 5.0)
    reader = Reader.remote()
    ray.get(reader.keep.remote([ref]))
    lose(cluster, node)
    assert ray.get(reader.read.remote(), timeout=30) == 5.0
    assert first(ref) == 5.0
    assert runs(tmp_path / "log") == 2


def test_two_returns_are_made_again_by_one_run(cluster: Cluster, tmp_path: Path) -> None:
    @ray.remote(resources={"far": 1}, num_cpus=0, num_returns=3)
    def three(log: Path) -> Any:
        with log.open("a") as file:
            file.write("x\n")
        return np.full(LONG, 1.0), np.full(LONG, 2.0), "small"

    node = add(cluster)
    one, two, small = three.remote(tmp_path / "log")
    ray.wait([one, two, small], num_returns=3)
    del one
    lose(cluster, node)
    assert first(two) == 2.0 and ray.get(small) == "small"
    assert runs(tmp_path / "log") == 2
    assert len(current.client.lineage.records) == 1


def test_objects_put_on_a_lost_node_have_lost_their_owner(cluster: Cluster) -> None:
    @ray.remote(resources={"far": 1}, num_cpus=0)
    def put() -> Any:
        return [ray.put(np.ones(LONG))]

    node = add(cluster)
    (ref,) = ray.get(put.remote())
    kill(cluster, node)
    with pytest.raises(exceptions.OwnerDiedError):
        ray.get(ref, timeout=30)


@ray.remote(resources={"far": 1}, num_cpus=0)
class Maker:
    def make(self, log: Path) -> Any:
        with log.open("a") as file:
            file.write("x\n")
        return np.full(LONG, 9.0)


def test_results_of_actors_are_lost_by_name(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    maker = Maker.remote()
    ref = maker.make.remote(tmp_path / "log")
    ray.wait([ref])
    kill(cluster, node)
    with pytest.raises(exceptions.ObjectLostError, match="max_task_retries=0"):
        ray.get(ref, timeout=30)


def test_results_of_actors_whose_calls_are_retried_are_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    maker = Maker.options(max_restarts=1, max_task_retries=1).remote()
    ref = maker.make.remote(tmp_path / "log")
    ray.wait([ref])
    lose(cluster, node)
    assert first(ref) == 9.0
    assert runs(tmp_path / "log") == 2


def test_a_kept_call_does_not_keep_its_actor(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    maker = Maker.options(max_restarts=1, max_task_retries=1).remote()
    ref = maker.make.remote(tmp_path / "log")
    ray.wait([ref])
    actor_id = maker._actor_id.hex()
    del maker
    eventually(lambda: get_actor(actor_id).state == "DEAD")
    lose(cluster, node)
    with pytest.raises(exceptions.RayError):
        ray.get(ref, timeout=30)


def get_actor(actor_id: str) -> Any:
    from spoke.util.state import get_actor

    return get_actor(actor_id)


def test_a_second_run_that_raises_is_the_users_error(cluster: Cluster, tmp_path: Path) -> None:
    @ray.remote(resources={"far": 1}, num_cpus=0)
    def once(log: Path) -> Any:
        if log.exists():
            raise ValueError("only once")
        log.touch()
        return np.ones(LONG)

    node = add(cluster)
    ref = once.remote(tmp_path / "log")
    ray.wait([ref])
    lose(cluster, node)
    with pytest.raises(ValueError, match="only once"):
        ray.get(ref, timeout=30)


def test_a_get_with_a_timeout_does_not_wait_longer(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    kill(cluster, node)  # and nothing is there to make it again
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(ref, timeout=1.5)
    add(cluster)
    assert first(ref) == 3.0


def test_kept_calls_go_with_their_refs(cluster: Cluster, tmp_path: Path) -> None:
    add(cluster)
    client = current.client
    kept = client.lineage
    refs = [make.remote(tmp_path / "log", 1.0)]
    for _ in range(20):
        refs.append(make.remote(tmp_path / "log", 1.0, refs[-1]))
    ray.wait(refs, num_returns=len(refs))
    assert len(kept.kept) == 21 and kept.bytes > 0
    del refs[:-1]
    eventually(lambda: len(client.refs.entries) < 5)  # the values are gone, the calls are not
    assert len(kept.kept) == 21
    refs.clear()
    eventually(lambda: not kept.records)
    assert kept.bytes == 0


def test_results_of_this_node_and_small_ones_are_not_kept(cluster: Cluster, tmp_path: Path) -> None:
    add(cluster)
    near = make.options(resources={"head": 1}).remote(tmp_path / "log", 1.0)
    small = ray.remote(resources={"far": 1}, num_cpus=0)(lambda: 1).remote()
    ray.wait([near, small], num_returns=2)
    assert not current.client.lineage.records


def test_the_oldest_calls_are_forgotten_at_the_bound(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = current.client.lineage
    monkeypatch.setattr(kept, "max_bytes", 5000)
    node = add(cluster)
    refs = [make.remote(tmp_path / "log", float(i)) for i in range(5)]
    ray.wait(refs, num_returns=5)
    assert kept.bytes <= 5000 and 0 < len(kept.kept) < 5
    lose(cluster, node)
    failed = 0
    for index, ref in enumerate(refs):
        try:
            assert first(ref) == float(index)
        except exceptions.ObjectReconstructionFailedError as error:
            assert "SPOKE_MAX_LINEAGE_BYTES" in str(error)
            failed += 1
    assert failed == 5 - 3


def test_await_and_future_see_the_value_made_again(cluster: Cluster, tmp_path: Path) -> None:
    async def read(ref: Any) -> float:
        return float((await ref)[0])

    node = add(cluster)
    refs = [make.remote(tmp_path / "log", 2.0) for _ in range(2)]
    ray.wait(refs, num_returns=2)
    lose(cluster, node)
    assert asyncio.run(read(refs[0])) == 2.0
    assert float(refs[1].future().result(30)[0]) == 2.0


def test_get_into_memory_waits_for_the_value_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    refs = [make.remote(tmp_path / "log", float(value)) for value in range(2)]
    ray.wait(refs, num_returns=2)
    lose(cluster, node)
    into = [np.zeros(LONG), np.zeros(LONG)]
    ray.get(refs, into=into, timeout=30)
    assert [float(one[0]) for one in into] == [0.0, 1.0]


def test_a_graceful_end_of_a_node_loses_no_more(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    ref = make.remote(tmp_path / "log", 3.0)
    ray.wait([ref])
    cluster.remove_node(node)
    add(cluster)
    assert first(ref) == 3.0


@ray.remote(resources={"far": 1}, num_cpus=0, num_returns="streaming")
def items(log: Path, count: int, go_on: Path | None = None) -> Any:
    with log.open("a") as file:
        file.write("x\n")
    for index in range(count):
        yield np.full(LONG, float(index)) if index % 2 == 0 else f"small {index}"
    if go_on is not None:
        eventually(go_on.exists)


def test_items_of_a_generator_are_made_again(cluster: Cluster, tmp_path: Path) -> None:
    node = add(cluster)
    refs = list(items.remote(tmp_path / "log", 5))
    del refs[0]
    lose(cluster, node)
    assert ray.get(refs[0]) == "small 1"
    assert [first(refs[1]), first(refs[3])] == [2.0, 4.0]
    assert runs(tmp_path / "log") == 2
    kept = current.client.lineage
    refs.clear()
    eventually(lambda: not kept.records)


def test_items_are_made_again_by_a_generator_that_is_retried(cluster: Cluster, tmp_path: Path) -> None:
    """Its node is lost with what it has yielded, while it runs."""
    node = add(cluster)
    stream = items.remote(tmp_path / "log", 3, tmp_path / "go on")
    refs = [next(stream) for _ in range(3)]
    (tmp_path / "go on").touch()
    lose(cluster, node)
    assert [first(refs[0]), first(refs[2])] == [0.0, 2.0]
    assert list(stream) == []


def test_items_that_a_generator_no_longer_yields_are_lost_by_name(cluster: Cluster, tmp_path: Path) -> None:
    @ray.remote(resources={"far": 1}, num_cpus=0, num_returns="streaming")
    def fewer(log: Path) -> Any:
        with log.open("a") as file:
            file.write("x\n")
        for index in range(3 if runs(log) == 1 else 1):
            yield np.full(LONG, float(index))

    node = add(cluster)
    refs = list(fewer.remote(tmp_path / "log"))
    lose(cluster, node)
    assert first(refs[0]) == 0.0
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="did not yield it"):
        ray.get(refs[2], timeout=30)


def test_a_generator_that_runs_again_is_not_held_up_by_its_consumer(cluster: Cluster, tmp_path: Path) -> None:
    """It may be one item ahead of the consumer, who has taken them all before."""
    node = add(cluster)
    limited = items.options(_generator_backpressure_num_objects=2)
    refs = list(limited.remote(tmp_path / "log", 6))
    lose(cluster, node)
    assert first(refs[4]) == 4.0


def test_a_retried_generator_is_not_held_up_by_what_was_taken(cluster: Cluster, tmp_path: Path) -> None:
    """Its first items come twice, and nobody takes them the second time."""

    @ray.remote(num_cpus=1, num_returns="streaming", _generator_backpressure_num_objects=2)
    def numbers(died: Path) -> Any:
        for index in range(6):
            if index == 4 and not died.exists():
                died.touch()
                os._exit(1)
            yield index

    stream = numbers.remote(tmp_path / "died")
    assert [ray.get(stream._next_sync(20)) for _ in range(6)] == [0, 1, 2, 3, 4, 5]


def test_a_node_may_be_lost_while_the_hub_is_away(tmp_path: Path) -> None:
    head = {"num_cpus": 2, "resources": {"head": 4}, "state_dir": str(tmp_path / "state")}
    made = Cluster(initialize_head=True, connect=True, head_node_args=head)
    try:
        node = add(made)
        refs = [make.remote(tmp_path / "log", value) for value in (1.0, 2.0)]
        ray.wait(refs, num_returns=2)
        assert made.head_node is not None
        made.head_node.kill(allow_graceful=False)
        node.kill(allow_graceful=False)
        made.worker_nodes.remove(node)
        reading = refs[1].future()
        made.restart_head()
        add(made)
        assert first(refs[0]) == 1.0
        assert float(reading.result(30)[0]) == 2.0
    finally:
        ray.shutdown()
        made.shutdown()
