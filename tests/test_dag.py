"""Compiled graphs: values between actors, errors, deaths, idleness."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke as ray
from spoke.bench.surroundings import cpu_seconds
from spoke.dag import DAGOperationFuture, GPUFuture, InputNode, MultiOutputNode, plot
from spoke.experimental import collective
from spoke.experimental.util.types import ReduceOp
from tests.conformance.kit import eventually


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Step:
    def __init__(self) -> None:
        self.calls = 0

    def add(self, x: Any, y: Any = 1) -> Any:
        self.calls += 1
        return x + y

    @ray.method(num_returns=2)
    def split(self, x: int) -> tuple[int, int]:
        return x, -x

    @ray.method(num_returns=2)
    def pair(self, items: list[int]) -> Any:
        return items

    def inverse(self, x: float) -> float:
        return 1 / x

    def count(self) -> int:
        return self.calls

    def number(self, *args: Any) -> int:
        self.calls += 1
        return self.calls

    def pid(self, *args: Any) -> int:
        return os.getpid()

    def die(self, x: int) -> None:
        os._exit(3)

    def wait_for(self, path: str) -> bool:
        return eventually(lambda: os.path.exists(path))

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def chain(*methods: Any, **options: Any) -> Any:
    with InputNode() as value:
        node: Any = value
        for method in methods:
            node = method.bind(node)
    return node.experimental_compile(**options)


def test_many_executions_through_three_actors() -> None:
    steps = [Step.remote() for _ in range(3)]
    graph = chain(*(step.add for step in steps))
    assert [ray.get(graph.execute(x)) for x in range(200)] == [x + 3 for x in range(200)]
    ahead = [graph.execute(x) for x in range(10)]
    assert ray.get(ahead) == [x + 3 for x in range(10)]
    graph.teardown()
    assert ray.get([step.count.remote() for step in steps]) == [210] * 3, "the actors live on"


def test_one_actor_may_appear_twice_and_values_may_fan_out_and_in() -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        first = a.add.bind(value.left, value.right)
        second = b.add.bind(first, first)
        third = a.add.bind(first, second)
        graph = MultiOutputNode([third, first, second]).experimental_compile()
    for left in range(20):
        assert ray.get(graph.execute(left=left, right=2)) == [3 * (left + 2), left + 2, 2 * (left + 2)]
    graph.teardown()


def test_parts_of_a_return() -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        plus, minus = a.split.bind(value)
        graph = MultiOutputNode([b.add.bind(plus, minus), minus]).experimental_compile()
    assert ray.get(graph.execute(4)) == [0, -4]
    graph.teardown()


def test_large_values_travel_as_objects_and_are_given_back() -> None:
    numpy = pytest.importorskip("numpy")
    a, b = Step.remote(), Step.remote()
    graph = chain(a.add, b.add)
    for value in range(30):
        result = ray.get(graph.execute(numpy.full(1 << 20, value, numpy.uint8)))
        assert result.shape == (1 << 20,) and result[-1] == value + 2
        del result
    assert ray.object_store_stats()["blocks"] <= 14, "those of the last executions at most"
    graph.teardown()


def test_an_error_is_the_result_and_the_graph_goes_on() -> None:
    a, b = Step.remote(), Step.remote()
    graph = chain(a.inverse, b.add)
    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(graph.execute(0))
    assert isinstance(caught.value, ray.exceptions.RayTaskError) and "in inverse" in str(caught.value)
    assert ray.get(graph.execute(1)) == 2.0
    graph.teardown()


def test_every_actor_keeps_the_order_of_bind() -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        left = b.number.bind(a.number.bind(value))
        right = a.number.bind(b.number.bind(value))
        graph = MultiOutputNode([right, left]).experimental_compile()
    assert ray.get(graph.execute(0)) == [2, 1], "each ran first what was bound first"
    graph.teardown()


def test_an_output_that_fails_fails_its_execution_at_once_and_what_it_owes_is_passed_over(
    tmp_path: Path,
) -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        outputs = [a.wait_for.bind(value.path), b.inverse.bind(value.x)]
        graph = MultiOutputNode(outputs).experimental_compile(_max_inflight_executions=2)
    gate = tmp_path / "gate"
    for ref in graph.execute(path=str(gate), x=0):
        with pytest.raises(ZeroDivisionError):
            ray.get(ref, timeout=20)
    assert graph._frames.behind() == 1, "the other output still runs"
    gate.touch()
    for x in (1, 2, 4):  # the second waits for what the failed one owes
        assert ray.get(graph.execute(path=str(gate), x=x)) == [True, 1 / x]
    assert graph._frames.behind() == 0
    graph.teardown()


def test_what_a_graph_cannot_carry_is_refused_when_it_is_compiled() -> None:
    a = Step.remote()

    class Holder:
        def __init__(self, node: Any) -> None:
            self.node = node

    def bound(argument: Any) -> Any:
        with InputNode() as value:
            return a.add.bind(argument(value))

    for argument in (lambda node: [node], lambda node: {"k": (node,)}, Holder):
        with pytest.raises(ValueError, match="Found 1 DAGNodes from the arg"):
            bound(argument).experimental_compile()
    with InputNode() as value:
        named = a.add.bind(value, y=value)
    with pytest.raises(ValueError, match="does not support binding to other DAG nodes as kwargs"):
        named.experimental_compile()
    with InputNode() as value:
        plus, _ = a.split.bind(value)
        a.add.bind(plus)
    with pytest.raises(ValueError, match="There are 2 leaf nodes"):
        plus.experimental_compile()


def test_a_part_that_is_not_there_is_an_error_and_the_graph_goes_on() -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        first, second = a.pair.bind(value[0])
        graph = MultiOutputNode([b.add.bind(first), b.add.bind(second)]).experimental_compile()
    assert ray.get(graph.execute([1, 2])) == [2, 3]
    for ref in graph.execute([1]):
        with pytest.raises(ValueError, match="Expected 2 outputs, but got 1"):
            ray.get(ref)
    assert ray.get(graph.execute([3, 4])) == [4, 5]
    graph.teardown()


def test_CALL_3_the_death_of_an_actor_ends_every_wait_by_name() -> None:
    a, b, c = (Step.remote() for _ in range(3))
    graph = chain(a.add, b.die, c.add)
    refs = [graph.execute(x) for x in range(3)]
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(refs[0])
    for ref in refs[1:]:
        with pytest.raises(ray.exceptions.RayChannelError):
            ray.get(ref)
    with pytest.raises(ray.exceptions.RayChannelError):
        graph.execute(1)
    assert ray.get(a.add.remote(1)) == 2, "the others live"


def test_a_late_result_can_be_asked_for_again() -> None:
    a = Step.remote()
    graph = chain(a.sleep)
    ref = graph.execute(0.5)
    with pytest.raises(ray.exceptions.RayChannelTimeoutError):
        ref.get(timeout=0.05)
    assert ref.get(timeout=-1) == 0.5
    with pytest.raises(ValueError, match="only be called once"):
        ref.get()
    graph.teardown()


def test_refs_that_are_dropped_make_room() -> None:
    a = Step.remote()
    graph = chain(a.add, _max_inflight_executions=2)
    for x in range(9):
        graph.execute(x)
    kept = [graph.execute(10), graph.execute(20)]
    with pytest.raises(ray.exceptions.RayCgraphCapacityExceeded):
        graph.execute(30)
    assert ray.get(kept) == [11, 21]
    graph.teardown()


def test_awaiting() -> None:
    a, b = Step.remote(), Step.remote()

    async def run() -> list[int]:
        graph = chain(a.add, b.add, enable_asyncio=True)
        futures = [await graph.execute_async(x) for x in range(5)]
        values = [await future for future in futures]
        with pytest.raises(ValueError, match="execute_async"):
            graph.execute(1)
        graph.teardown()
        return values

    assert asyncio.run(run()) == [2, 3, 4, 5, 6]


def test_no_stranger_gets_in() -> None:
    """SEC-1: who cannot prove the graph's secret is not read."""
    import socket

    from spoke.dag.links import Closed, join, listen

    name = os.urandom(16)
    sockets, _ = listen(name, "127.0.0.1", False)
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(b"\0" + name)
    stranger.sendall(b"x" * 68)
    with pytest.raises(Closed, match="does not know"):
        join(0, b"secret", sockets, [1], {})
    stranger.close()
    for sock in sockets:
        sock.close()


def test_an_idle_graph_uses_no_cpu() -> None:
    steps = [Step.remote() for _ in range(3)]
    pids = [*ray.get([step.pid.remote() for step in steps]), os.getpid()]
    graph = chain(*(step.add for step in steps))
    ray.get(graph.execute(1))

    def switches() -> int:
        total = 0
        for pid in pids:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/status") as file:
                    total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
        return total

    time.sleep(0.2)  # whoever waits has looked a few times more, and sleeps
    before, used = switches(), cpu_seconds(pids)
    time.sleep(1.0)
    assert switches() - before < 200, "whoever waits sleeps"
    assert cpu_seconds(pids) - used < 0.05, "less than 5 % of a core, the program and its actors together"
    graph.teardown()


def test_what_cannot_be_compiled() -> None:
    a = Step.remote()
    function = ray.remote(lambda x: x)
    with InputNode() as value:
        with pytest.raises(NotImplementedError, match="actor method nodes"):
            function.bind(value).experimental_compile()
        with pytest.raises(ValueError, match="already created"):
            Step.bind().add.bind(value).experimental_compile()
        with pytest.raises(ValueError, match="InputNode"):
            a.count.bind().experimental_compile()
        with pytest.raises(ValueError, match="at least one"):
            value.experimental_compile()
        with pytest.raises(TypeError):
            a.add.bind(1, 2, 3)


def test_a_graph_that_is_dropped_is_torn_down() -> None:
    a = Step.remote()
    graph = chain(a.add)
    assert ray.get(graph.execute(1)) == 2

    def threads() -> list[str]:
        import threading

        return [thread.name for thread in threading.enumerate()]

    assert "spoke-dag" in ray.get(a.__ray_call__.remote(lambda self: threads()))
    del graph
    deadline = time.monotonic() + 10
    while "spoke-dag" in ray.get(a.__ray_call__.remote(lambda self: threads())):
        assert time.monotonic() < deadline, "the actor's thread goes on"


# -- collective operations, pictures, futures ------------------------------------------------------------


@ray.remote(num_cpus=0)
class Tensors:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scaled(self, value: Any) -> Any:
        return value * self.factor

    def pair(self, value: Any) -> Any:
        return value * self.factor, value + self.factor

    def within(self, name: str) -> Any:
        import torch

        mine, both = torch.full((2,), float(self.factor)), [torch.zeros(2), torch.zeros(2)]
        part = torch.zeros(2)
        collective.allgather(both, mine, name)
        collective.reducescatter(part, [mine, mine], name)
        collective.allreduce(mine, name)
        return mine.tolist(), [one.tolist() for one in both], part.tolist()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_collective_operations_inside_of_a_graph(kind: str) -> None:
    library = pytest.importorskip(kind)
    actors = [Tensors.remote(factor) for factor in (1, 3)]
    given = library.arange(4) * 1.0
    operations: list[tuple[Any, list[list[float]]]] = [
        (lambda nodes: collective.allreduce.bind(nodes), [[0, 4, 8, 12]] * 2),
        (lambda nodes: collective.allreduce.bind(nodes, ReduceOp.AVG), [[0, 2, 4, 6]] * 2),
        (lambda nodes: collective.allreduce.bind(nodes, ReduceOp.PRODUCT), [[0, 3, 12, 27]] * 2),
        (lambda nodes: collective.allreduce.bind(nodes, op=ReduceOp.MAX), [[0, 3, 6, 9]] * 2),
        (lambda nodes: collective.allreduce.bind(nodes, op=ReduceOp.MIN), [[0, 1, 2, 3]] * 2),
        (lambda nodes: collective.reducescatter.bind(nodes), [[0, 4], [8, 12]]),
        (lambda nodes: collective.allgather.bind(nodes), [[0, 1, 2, 3, 0, 3, 6, 9]] * 2),
    ]
    for bind, wanted in operations:
        with InputNode() as value:
            nodes = bind([actor.scaled.bind(value) for actor in actors])
            graph = MultiOutputNode(nodes).experimental_compile()
        for _ in range(2):
            assert [result.tolist() for result in ray.get(graph.execute(given), timeout=100)] == wanted
        graph.teardown()


def test_a_collective_operation_on_several_tensors_and_one_that_fails() -> None:
    numpy = pytest.importorskip("numpy")
    actors = [Tensors.remote(factor) for factor in (1, 3)]
    with InputNode() as value:
        nodes = collective.allreduce.bind([actor.pair.bind(value) for actor in actors])
        graph = MultiOutputNode(nodes).experimental_compile()
    for first, second in ray.get(graph.execute(numpy.ones(2))):
        assert (first.tolist(), second.tolist()) == ([4, 4], [6, 6])
    graph.teardown()
    with InputNode() as value:
        nodes = collective.reducescatter.bind([actor.scaled.bind(value) for actor in actors])
        graph = MultiOutputNode(nodes).experimental_compile()
    with pytest.raises(ValueError, match="divisible by the number of actors 2, but got 3"):
        ray.get(graph.execute(numpy.ones(3)))
    assert [part.tolist() for part in ray.get(graph.execute(numpy.ones(2)))] == [[4], [4]]
    graph.teardown()
    with pytest.raises(TypeError, match="call of an actor's method"), InputNode() as value:
        collective.allgather.bind([value])


def test_groups_of_actors() -> None:
    pytest.importorskip("torch")
    actors = [Tensors.remote(factor) for factor in (1, 3)]
    group = collective.create_collective_group(actors, "gloo", "ours")
    assert (group.name, group.backend, group.get_rank(actors[1]), group.get_rank(Tensors.remote(1))) == (
        "ours", "GLOO", 1, -1,
    )  # fmt: skip
    assert collective.get_collective_groups(actors[:1]) == [group] and group.actors == actors
    assert collective.get_collective_groups(actors, "nccl") == []
    with pytest.raises(RuntimeError, match="already in group for backend GLOO"):
        collective.create_collective_group(actors[1:], "torch_gloo")
    with pytest.raises(ValueError, match="'ours' already"):
        collective.create_collective_group([Tensors.remote(1)], "gloo", "ours")
    seen = ray.get([actor.within.remote("ours") for actor in actors])
    assert seen == [([4.0, 4.0], [[1.0, 1.0], [3.0, 3.0]], [4.0, 4.0])] * 2
    collective.destroy_collective_group("ours")
    with pytest.raises(ValueError, match="No group with name ours"):
        collective.destroy_collective_group(group)
    with pytest.raises(ValueError, match="Expected CommunicatorHandle or str"):
        collective.destroy_collective_group(actors[0])
    collective.create_collective_group(actors, "gloo")
    collective.destroy_all_collective_groups()
    assert collective.get_collective_groups(actors) == []
    with pytest.raises(ValueError, match="must be unique"):
        collective.create_collective_group([actors[0], actors[0]], "gloo")


def test_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Step.remote(), Step.remote()
    with InputNode() as value:
        plus, _ = a.split.bind(value.left)
        graph = MultiOutputNode([b.add.bind(plus, value[1])])
    path = tmp_path / "graph.dot"
    plot(graph, str(path))
    text = path.read_text()
    attributes = ("InputAttributeNode['left']", "InputAttributeNode[1]")
    for label in ("InputNode", *attributes, "split", "split[0]", "add"):
        assert f'[label="{label}"]' in text
    assert text.count("->") == 7
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\necho "$1" > "$3"\ncat >> "$3"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    plot(graph, str(tmp_path / "graph.svg"))
    assert (tmp_path / "graph.svg").read_text() == f"-Tsvg\n{text}"
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ImportError, match="graphviz is required"):
        plot(graph)


def test_futures() -> None:
    pytest.importorskip("torch")
    future = GPUFuture("value", 7)
    assert isinstance(future, DAGOperationFuture) and future.wait() == "value"
    assert GPUFuture.gpu_futures == {7: future}
    other = GPUFuture("other", 7)
    assert GPUFuture.gpu_futures == {7: other}
    GPUFuture.remove_gpu_future(7)
    GPUFuture.remove_gpu_future(7)
    assert GPUFuture.gpu_futures == {} and other.wait() == "other"


def test_results_that_nobody_takes_are_bounded() -> None:
    step = Step.remote()
    graph = chain(step.add, _max_inflight_executions=8, _max_buffered_results=2)
    refs = [graph.execute(x) for x in range(6)]
    with pytest.raises(ray.exceptions.RayCgraphCapacityExceeded, match="more than 2 buffered results"):
        ray.get(refs[5])
    assert [ray.get(ref) for ref in refs] == [x + 1 for x in range(6)]
    graph.teardown()
