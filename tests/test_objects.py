"""Large objects from end to end: no copies on a node, whole bytes between nodes, errors by name."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import re
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

numpy = pytest.importorskip("numpy")

MIB = 1 << 20


def stats() -> dict[str, int]:
    import spoke

    gc.collect()
    return spoke.object_store_stats()


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def checksum(data: Any) -> str:
    return hashlib.blake2b(memoryview(data)).hexdigest()


# -- zero copies


class Holder:
    """Keeps, reads and makes tensors in another process."""

    def __init__(self, *kept: Any) -> None:
        self.kept: list[Any] = list(kept)

    def total(self, value: Any) -> float:
        return float(value.sum())

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    def total_kept(self) -> float:
        return sum(float(value.sum()) for value in self.kept)

    def drop(self) -> None:
        self.kept.clear()

    def make(self, size: int, kind: str) -> Any:
        import spoke

        value = spoke.empty(size, numpy.dtype("float32") if kind == "numpy" else kind)
        value[:] = 3
        return value

    def stats(self) -> dict[str, int]:
        return stats()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_passing_an_empty_tensor_copies_nothing(spoke_cluster: Any, kind: str) -> None:
    ray = spoke_cluster
    if kind == "torch":
        pytest.importorskip("torch")
    count = 4 * MIB // 4
    tensor = ray.empty(count, numpy.dtype("float32") if kind == "numpy" else None)
    tensor[:] = 1
    before = stats()["copied_bytes"]
    holder = ray.remote(Holder).remote(tensor)
    total = ray.remote(lambda value: float(value.sum()))
    assert ray.get(total.remote(tensor)) == count
    assert ray.get(holder.total.remote(tensor)) == count
    assert ray.get(holder.total_kept.remote()) == count
    assert ray.get(holder.total.remote(tensor[10:1000])) == 990  # a view names a part of the block
    assert ray.get(holder.total.remote(value=tensor.reshape(2, -1)[1])) == count // 2
    ref = ray.put({"a": tensor, "b": [tensor[:7]]})
    got = ray.get(ref)
    assert float(got["a"].sum()) == count and float(got["b"][0].sum()) == 7
    assert ray.get(holder.total.remote(ray.put(tensor))) == count
    assert stats()["copied_bytes"] == before
    made = ray.get(holder.make.remote(count, "numpy" if kind == "numpy" else "float32"))
    assert float(made.sum()) == 3 * count
    there = ray.get(holder.stats.remote())
    assert there["copied_bytes"] == 0 and there["blocks"] == 1
    del made
    until(lambda: ray.get(holder.stats.remote())["blocks"] == 0)


def test_REF_1_a_block_is_reused_only_when_its_last_reader_let_go(spoke_cluster: Any) -> None:
    ray = spoke_cluster
    holder = ray.remote(Holder).remote()
    until(lambda: stats()["blocks"] == 0)  # of the test before
    tensor = ray.empty(MIB // 4, numpy.dtype("float32"))
    tensor[:] = 5
    expected = float(tensor.sum())
    ray.get(holder.keep.remote(tensor))
    del tensor  # dropped here, still read there
    assert stats()["blocks"] == 1
    others = [ray.put(numpy.full(MIB // 4, 9, numpy.float32)) for _ in range(80)]
    assert ray.get(holder.total_kept.remote()) == expected
    del others
    ray.get(holder.drop.remote())
    until(lambda: stats()["blocks"] == 0)


def test_REF_1_blocks_of_what_a_generator_gave_before_its_error_come_back(spoke_cluster: Any) -> None:
    ray = spoke_cluster

    @ray.remote(max_retries=1, retry_exceptions=True)
    def stopping() -> Any:
        yield numpy.zeros(MIB)
        yield [ray.put(numpy.zeros(MIB))]
        raise ValueError("stopped")

    until(lambda: stats()["blocks"] == 0)  # of the test before
    for kind in (3, "dynamic"):
        made = stopping.options(num_returns=kind).remote()
        refs = list(ray.get(made)) if kind == "dynamic" else made
        first, (inner,) = ray.get(refs[:2])
        assert len(first) == len(ray.get(inner)) == MIB
        with pytest.raises(ValueError, match="stopped"):
            ray.get(refs[2])
        del made, refs, first, inner
        until(lambda: stats()["blocks"] == 0)


def test_MEM_2_what_was_got_cannot_be_written(spoke_cluster: Any) -> None:
    ray = spoke_cluster
    ref = ray.put(numpy.zeros(MIB, numpy.uint8))
    value = ray.get(ref)
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    torch = pytest.importorskip("torch")
    shared = ray.put(torch.zeros(MIB))
    mine = ray.get(shared)
    mine += 1  # private to this process
    assert float(ray.get(shared).sum()) == 0


def test_a_get_takes_the_same_time_at_any_size(spoke_cluster: Any) -> None:
    ray = spoke_cluster
    times = []
    for size in (MIB, 256 * MIB):
        ref = ray.put(numpy.empty(size, numpy.uint8))
        rounds = []
        for _ in range(50):
            start = time.perf_counter()
            value = ray.get(ref)
            rounds.append(time.perf_counter() - start)
            del value
        times.append(sorted(rounds)[10])
        del ref
    assert max(times) < 0.0005  # far below what reading the bytes would take


class Producer:
    """Makes large objects in another process, and reads those of others."""

    def put(self, fill: int) -> list[Any]:
        import spoke

        return [spoke.put(numpy.full(MIB, fill, numpy.uint8))]

    def result(self, fill: int) -> Any:
        return numpy.full(MIB, fill, numpy.uint8)

    def read(self, value: Any) -> int:
        return int(value[-1])

    def ask_nobody(self) -> None:
        from spoke import current

        def asked(segment_id: int) -> Any:
            raise AssertionError(f"the agent was asked for segment {segment_id}")

        assert current.client is not None
        current.client.store._map_segment = asked


def test_what_another_process_wrote_is_mapped_before_it_is_read(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=2)
    first, second = (ray.remote(Producer).remote() for _ in range(2))
    # Descriptors follow the handshakes: the first messages of a link go without.
    assert ray.get([first.read.remote([1]), second.read.remote([1])]) == [1, 1]
    Producer().ask_nobody()
    ray.get([first.ask_nobody.remote(), second.ask_nobody.remote()])
    result, put = first.result.remote(5), ray.get(first.put.remote(6))[0]
    assert int(ray.get(result)[-1]) == 5 and int(ray.get(put)[-1]) == 6
    assert ray.get(second.read.remote(numpy.full(MIB, 7, numpy.uint8))) == 7  # an argument of the driver's
    assert ray.get(second.read.remote(result)) == 5  # owned here, written in a third process


def test_mappings_end_with_their_segments(fresh_cluster: Callable[..., Any]) -> None:
    from spoke import current

    ray = fresh_cluster(num_cpus=1)
    producer = ray.remote(Producer).remote()
    kept = ray.get([producer.result.remote(fill) for fill in range(4)])
    kept.append(ray.get(producer.read.remote(numpy.ones(MIB, numpy.uint8))))
    assert current.client is not None
    store, links = current.client.store, current.client.links
    assert store._mapped and any(link.shared for link in links.by_conn.values())
    kept.clear()
    ray.kill(producer)
    store.trim()
    until(lambda: not store._mapped and not any(link.shared for link in links.by_conn.values()))


# -- limits


def test_a_full_store_says_so_and_works_again(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=1, object_store_memory=64 * MIB)
    data = numpy.random.default_rng(1).integers(0, 255, 20 * MIB, numpy.uint8)
    refs = [ray.put(data), ray.put(data)]
    with pytest.raises(ray.exceptions.ObjectStoreFullError, match=r"of 67108864 bytes in use.*object_store"):
        ray.put(numpy.zeros(40 * MIB, numpy.uint8))
    fail = ray.remote(lambda: numpy.zeros(60 * MIB, numpy.uint8))
    with pytest.raises(ray.exceptions.ObjectStoreFullError):
        ray.get(fail.remote())
    for ref in refs:
        assert numpy.array_equal(ray.get(ref), data)
    del ref
    refs.clear()
    for size in (10, 30, 50, 60):
        ref = ray.put(numpy.full(size * MIB, size, numpy.uint8))
        assert int(ray.get(ref)[-1]) == size
        del ref


def test_segments_that_one_process_no_longer_needs_serve_the_others(
    fresh_cluster: Callable[..., Any],
) -> None:
    ray = fresh_cluster(num_cpus=1, object_store_memory=64 * MIB)
    make = ray.remote(lambda size, fill: numpy.full(size, fill, numpy.uint8))
    for fill in range(4):
        mine = ray.put(numpy.full(40 * MIB, fill, numpy.uint8))
        assert int(ray.get(mine)[-1]) == fill
        del mine
        theirs = ray.get(make.remote(40 * MIB, fill))
        assert int(theirs[-1]) == fill
        del theirs


def test_results_of_dead_workers_stay_and_then_go(fresh_cluster: Callable[..., Any]) -> None:
    ray = fresh_cluster(num_cpus=1, object_store_memory=96 * MIB)
    make = ray.remote(max_calls=1)(lambda fill: numpy.full(20 * MIB, fill, numpy.uint8))
    for fill in range(8):  # more than there is room for at once
        result = ray.get(make.remote(fill))
        time.sleep(0.1)  # its worker ends meanwhile
        assert int(result[0]) == int(result[-1]) == fill
        del result


def test_REF_3_results_freed_while_their_worker_ends_leave_nothing(
    fresh_cluster: Callable[..., Any],
) -> None:
    ray = fresh_cluster(num_cpus=1, object_store_memory=128 * MIB)
    make = ray.remote(max_calls=1)(lambda fill: numpy.full(12 * MIB, fill, numpy.uint8))
    for fill in range(25):
        result = ray.get(make.remote(fill))
        assert int(result[-1]) == fill
        del result


def test_what_does_not_pickle_is_named_with_its_path() -> None:
    """Position or name of the argument, and the way inside of it; closures and globals of functions."""
    import threading

    import spoke as ray

    class Holder:
        def __init__(self) -> None:
            self.inner = {"k": [1, threading.Lock()]}

    lock = threading.Lock()
    task = ray.remote(lambda *args, **kwargs: 1)
    with pytest.raises(TypeError, match=re.escape("argument 1['x'][0].inner['k'][1]: ")):
        task.remote(0, {"x": [Holder()]})
    with pytest.raises(TypeError, match=r"lock at argument 'name': "):
        task.remote(0, name=lock)
    with pytest.raises(TypeError, match=r"lock at value\.<closure lock>: "):
        ray.remote(lambda: lock).remote()
    code = (lambda: LOCK).__code__  # type: ignore[name-defined] # noqa: F821
    in_main = types.FunctionType(code, {"LOCK": lock, "__name__": "__main__"})
    with pytest.raises(TypeError, match=r"lock at value\.<global LOCK>: "):
        ray.remote(in_main).remote()


# -- between nodes


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    import spoke
    from spoke.cluster_utils import Cluster

    if spoke.is_initialized():
        spoke.shutdown()
    cluster = Cluster(
        initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "object_store_memory": 256 * MIB}
    )
    cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=256 * MIB)
    yield cluster
    spoke.shutdown()
    cluster.shutdown()


def random_bytes(size: int, seed: int) -> Any:
    return numpy.random.default_rng(seed).integers(0, 256, size, numpy.uint8)


def test_bytes_arrive_whole_from_another_node(two_nodes: Any) -> None:
    import spoke as ray

    rng = random.Random(3)
    far = ray.remote(resources={"far": 0.1})
    make = far(lambda size, seed: numpy.random.default_rng(seed).integers(0, 256, size, numpy.uint8))
    check = far(checksum)
    sizes = [100 * 1024 + 1, MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB + 12345]
    sizes += [rng.randrange(100_000, 30 * MIB) for _ in range(4)]
    for seed, size in enumerate(sizes):
        there = ray.get(make.remote(size, seed))
        data = random_bytes(size, seed)
        assert numpy.array_equal(there, data) and not there.flags.writeable
        assert ray.get(check.remote(data)) == checksum(data)
        assert ray.get(check.remote(ray.put(data))) == checksum(data)
        del there


def test_a_block_of_another_node_is_brought_once_and_copied_nowhere(two_nodes: Any) -> None:
    """Arrays are views of what arrived, tensors private mappings of it; the ref keeps it."""
    import torch

    import spoke as ray

    make = ray.remote(resources={"far": 0.1})(lambda: [numpy.arange(MIB), torch.arange(MIB)])
    ref = make.remote()
    ray.wait([ref])
    before = ray.object_store_stats()
    array, tensor = ray.get(ref)
    again, other = ray.get(ref)
    after = ray.object_store_stats()
    assert after["tcp_bytes"] - before["tcp_bytes"] == 16 * MIB, "16 MiB once, though it was got twice"
    assert after["tcp_blocks"] - before["tcp_blocks"] == 2
    assert array.ctypes.data == again.ctypes.data and not array.flags.writeable
    tensor[0] = 7
    assert other[0] == 0 and torch.equal(other, torch.arange(MIB)), "a write in place stays private (MEM-2)"
    del ref
    assert int(array[-1]) == MIB - 1 and int(tensor[-1]) == MIB - 1, "what was got outlives its ref"


def test_threads_read_from_another_node_at_once(two_nodes: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import spoke as ray

    make = ray.remote(resources={"far": 0.1})(
        lambda size, seed: numpy.random.default_rng(seed).integers(0, 256, size, numpy.uint8)
    )
    refs = [make.remote(20 * MIB, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for seed, value in enumerate(pool.map(ray.get, refs)):
            assert numpy.array_equal(value, random_bytes(20 * MIB, seed))


def test_CALL_3_the_source_dies_while_it_is_read(two_nodes: Any) -> None:
    import signal
    import threading

    import spoke as ray

    node = two_nodes.add_node(num_cpus=1, resources={"doomed": 1}, object_store_memory=256 * MIB)
    make = ray.remote(resources={"doomed": 1}, max_retries=0)(lambda: numpy.ones(200 * MIB, numpy.uint8))
    ref = make.remote()
    ray.wait([ref])
    outcome: list[Any] = []

    def read() -> None:
        try:
            while True:
                ray.get(ref)
        except Exception as error:
            outcome.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.15)
    os.kill(node.pid, signal.SIGKILL)
    killed = time.monotonic()
    reader.join(20)
    assert not reader.is_alive() and time.monotonic() - killed < 10
    assert isinstance(outcome[0], ray.exceptions.ObjectLostError), outcome
    two_nodes.remove_node(node, allow_graceful=False)


def test_who_gets_an_object_that_was_freed_is_told_and_its_memory_comes_back(spoke_cluster: Any) -> None:
    import spoke
    from spoke.internal import free

    before = stats()["blocks"]
    ref = spoke.put(numpy.ones(MIB))
    view = spoke.get(ref)
    free([ref])
    with pytest.raises(spoke.exceptions.ObjectFreedError):
        spoke.get(ref)
    with pytest.raises(spoke.exceptions.RayTaskError, match="was freed by hand"):
        spoke.get(spoke.remote(lambda x: x).remote(ref))
    assert view[0] == 1.0 and view[-1] == 1.0  # who looks at it still may
    del ref, view
    until(lambda: stats()["blocks"] <= before)


def test_refs_outside_of_values_can_be_forbidden(
    fresh_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spoke import cloudpickle
    from spoke.errors import OufOfBandObjectRefSerializationException

    spoke = fresh_cluster(num_cpus=1)
    ref = spoke.put(1)

    @spoke.remote
    def captures() -> Any:
        return spoke.get(ref)

    monkeypatch.setenv("RAY_allow_out_of_band_object_ref_serialization", "0")
    for use in (captures.remote, lambda: cloudpickle.dumps([ref])):
        with pytest.raises(OufOfBandObjectRefSerializationException, match=ref.hex()):
            use()
    assert spoke.get(spoke.get(spoke.put([ref]))[0]) == 1, "refs in values are counted"
    monkeypatch.delenv("RAY_allow_out_of_band_object_ref_serialization")
    assert spoke.get(captures.remote()) == 1
