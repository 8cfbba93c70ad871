"""Collective groups upon Spoke's own objects, and backends that are not there."""

from __future__ import annotations

from typing import Any

import pytest

numpy = pytest.importorskip("numpy")

from spoke.util import collective  # noqa: E402
from spoke.util.collective.types import Backend, ReduceOp  # noqa: E402


class Rank:
    """A rank that runs what it is given."""

    def __init__(self, rank: int, size: int, group: str = "default", timeout_ms: int = 60_000) -> None:
        self.rank, self.size = rank, size
        self.join(group, timeout_ms)

    def join(self, group: str, timeout_ms: int = 60_000) -> None:
        collective.init_collective_group(self.size, self.rank, "spoke", group, timeout_ms)

    def run(self, name: str, *args: Any) -> Any:
        return getattr(self, name)(*args)

    def allreduce(self, op: ReduceOp = ReduceOp.SUM) -> Any:
        mine = numpy.arange(5.0) + 1 + self.rank
        collective.allreduce(mine, op=op)
        return mine

    def torch_allreduce(self) -> Any:
        import torch

        mine = torch.ones(2, 3) * (self.rank + 1)
        collective.allreduce(mine)
        return mine

    def large(self, count: int) -> float:
        mine = numpy.full(count, float(self.rank + 1), dtype=numpy.float32)
        collective.allreduce(mine)
        return float(mine.min() + mine.max())

    def broadcast(self) -> Any:
        mine = numpy.full(3, self.rank, dtype=numpy.int64)
        collective.broadcast(mine, src_rank=1)
        return mine

    def allgather(self) -> Any:
        found = [numpy.zeros(2) for _ in range(self.size)]
        collective.allgather(found, numpy.full(2, float(self.rank)))
        return numpy.stack(found)

    def reducescatter(self) -> Any:
        mine = numpy.zeros(2)
        parts = [numpy.full(2, 10.0 * index + self.rank) for index in range(self.size)]
        collective.reducescatter(mine, parts)
        return mine

    def reduce(self) -> Any:
        mine = numpy.full(2, float(self.rank + 1))
        collective.reduce(mine, dst_rank=1)
        return mine

    def ring(self) -> list[float]:
        """Send to the next and receive from the one before, three times."""
        seen = []
        for turn in range(3):
            collective.send(numpy.full(1, 10.0 * turn + self.rank), (self.rank + 1) % self.size)
            mine = numpy.zeros(1)
            collective.recv(mine, (self.rank - 1) % self.size)
            seen.append(float(mine[0]))
        return seen

    def barriers(self, count: int) -> int:
        for _ in range(count):
            collective.barrier()
        return collective.get_rank()

    def again(self) -> Any:
        """Leave, and join under the same name."""
        collective.destroy_collective_group()
        self.join("default")
        return self.allreduce()


def ranks(spoke: Any, size: int = 3) -> list[Any]:
    return [spoke.remote(Rank).options(num_cpus=0).remote(rank, size) for rank in range(size)]


def everywhere(spoke: Any, made: list[Any], name: str, *args: Any) -> list[Any]:
    return list(spoke.get([one.run.remote(name, *args) for one in made], timeout=120))


def test_every_operation(spoke_cluster: Any) -> None:
    spoke = spoke_cluster
    made = ranks(spoke)
    for result in everywhere(spoke, made, "allreduce"):
        assert result.tolist() == [6.0, 9.0, 12.0, 15.0, 18.0]
    assert everywhere(spoke, made, "allreduce", ReduceOp.MAX)[0].tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert everywhere(spoke, made, "allreduce", ReduceOp.MIN)[1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    product = everywhere(spoke, made, "allreduce", ReduceOp.PRODUCT)[2]
    assert product.tolist() == [6.0, 24.0, 60.0, 120.0, 210.0]
    assert [one.tolist() for one in everywhere(spoke, made, "broadcast")] == [[1, 1, 1]] * 3
    assert [one.tolist() for one in everywhere(spoke, made, "allgather")] == [[[0, 0], [1, 1], [2, 2]]] * 3
    assert [one.tolist() for one in everywhere(spoke, made, "reducescatter")] == [[3, 3], [33, 33], [63, 63]]
    assert [one.tolist() for one in everywhere(spoke, made, "reduce")] == [[1, 1], [6, 6], [3, 3]]
    assert everywhere(spoke, made, "ring") == [[2, 12, 22], [0, 10, 20], [1, 11, 21]]
    assert everywhere(spoke, made, "barriers", 20) == [0, 1, 2]
    assert everywhere(spoke, made, "large", 3_000_001) == [12.0] * 3


def test_tensors_of_torch(spoke_cluster: Any) -> None:
    pytest.importorskip("torch")
    made = ranks(spoke_cluster, 2)
    for result in everywhere(spoke_cluster, made, "torch_allreduce"):
        assert result.tolist() == [[3.0] * 3] * 2


def test_a_group_made_again_under_its_name(spoke_cluster: Any) -> None:
    made = ranks(spoke_cluster, 2)
    for _ in range(3):
        for result in everywhere(spoke_cluster, made, "again"):
            assert result.tolist() == [3.0, 5.0, 7.0, 9.0, 11.0]


def test_a_rank_that_does_not_come_is_named(spoke_cluster: Any) -> None:
    alone = spoke_cluster.remote(Rank).options(num_cpus=0).remote(0, 2, "default", 300)
    with pytest.raises(spoke_cluster.exceptions.RayActorError, match="not all of its 2 ranks take part"):
        spoke_cluster.get(alone.run.remote("allreduce"), timeout=60)


def test_nccl_without_gpus_is_refused_by_name(spoke_cluster: Any) -> None:
    if collective.nccl_available():
        pytest.skip("there are GPUs")
    with pytest.raises(RuntimeError, match="NCCL is not available here: it needs torch with CUDA and a GPU"):
        collective.init_collective_group(1, 0, "nccl")
    with pytest.raises(ValueError, match="not registered"):
        collective.init_collective_group(1, 0, "nothing")
    assert collective.is_backend_available("spoke") and Backend("spoke") == "SPOKE"
