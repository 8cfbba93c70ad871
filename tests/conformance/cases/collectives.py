"""ray.util.collective on gloo: every operation, tensors of torch and numpy, declared groups, misuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.conformance.kit import caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class Rank:
    """Runs what it is given."""

    def do(self, work: Callable[[Any], Any], module: str) -> Any:
        import importlib

        return work(importlib.import_module(module))


def _ranks(ray: Any, count: int = 2, group: str = "default") -> Callable[[Callable[[Any], Any]], list[Any]]:
    made = [ray.remote(Rank).remote() for _ in range(count)]
    module = sub(ray, "util.collective").__name__

    def everywhere(work: Callable[[Any], Any]) -> list[Any]:
        return list(ray.get([one.do.remote(work, module) for one in made], timeout=60))

    ray.get(
        [
            one.do.remote(
                lambda col, rank=rank: col.init_collective_group(count, rank, "gloo", group), module
            )
            for rank, one in enumerate(made)
        ]
    )
    everywhere.actors = made  # type: ignore[attr-defined]
    return everywhere


def _torch_ones(col: Any, size: int = 3) -> Any:
    import torch

    return torch.ones(size) * (col.get_rank() + 1)


def rank_and_size(ray: Any) -> Any:
    run = _ranks(ray, 3)
    seen = run(
        lambda col: [col.get_rank(), col.get_collective_group_size(), col.is_group_initialized("default")]
    )
    return [seen, run(lambda col: [col.get_rank("other"), col.is_group_initialized("other")])]


def allreduce(ray: Any) -> Any:
    def work(col: Any) -> Any:
        tensor = _torch_ones(col)
        return [col.allreduce(tensor), tensor.tolist()]

    return _ranks(ray, 3)(work)


def allreduce_of_arrays(ray: Any) -> Any:
    def work(col: Any) -> Any:
        import numpy

        array = numpy.full(4, col.get_rank() + 1, dtype=numpy.float64)
        col.allreduce(array)
        return array

    return _ranks(ray)(work)


def other_reductions(ray: Any) -> Any:
    def work(col: Any) -> Any:
        import importlib

        kinds = importlib.import_module(f"{col.__name__}.types").ReduceOp
        found = []
        for kind in (kinds.PRODUCT, kinds.MIN, kinds.MAX):
            tensor = _torch_ones(col) + 1
            col.allreduce(tensor, op=kind)
            found.append(tensor.tolist())
        return found

    return _ranks(ray)(work)


def broadcast(ray: Any) -> Any:
    def work(col: Any) -> Any:
        tensor = _torch_ones(col)
        col.broadcast(tensor, src_rank=1)
        return tensor.tolist()

    return _ranks(ray, 3)(work)


def allgather(ray: Any) -> Any:
    def work(col: Any) -> Any:
        import torch

        found = [torch.zeros(2) for _ in range(2)]
        col.allgather(found, _torch_ones(col, 2))
        return [one.tolist() for one in found]

    return _ranks(ray)(work)


def reducescatter(ray: Any) -> Any:
    def work(col: Any) -> Any:
        import torch

        parts = [_torch_ones(col, 2) * (index + 1) for index in range(2)]
        mine = torch.zeros(2)
        col.reducescatter(mine, parts)
        return mine.tolist()

    return _ranks(ray)(work)


def reduce_to_a_rank(ray: Any) -> Any:
    def work(col: Any) -> Any:
        tensor = _torch_ones(col)
        col.reduce(tensor, dst_rank=1)
        return tensor.tolist() if col.get_rank() == 1 else None

    return _ranks(ray)(work)


def send_and_recv(ray: Any) -> Any:
    def work(col: Any) -> Any:
        tensor = _torch_ones(col)
        if col.get_rank() == 0:
            col.send(tensor * 5, 1)
            col.recv(tensor, 1)
        else:
            col.recv(tensor, 0)
            col.send(tensor + 1, 0)
        return tensor.tolist()

    return _ranks(ray)(work)


def barrier_and_second_group(ray: Any) -> Any:
    run = _ranks(ray, 2, "first")

    def work(col: Any) -> Any:
        col.barrier("first")
        col.init_collective_group(2, 1 - col.get_rank("first"), "gloo", "second")
        tensor = _torch_ones(col, 1) * 0 + col.get_rank("second")
        col.broadcast(tensor, 1, "second")
        return [tensor.tolist(), col.get_rank("first"), col.get_rank("second")]

    return run(work)


def destroyed_and_made_again(ray: Any) -> Any:
    run = _ranks(ray)

    def again(col: Any) -> Any:
        rank = col.get_rank()
        col.barrier()
        col.destroy_collective_group()
        gone = col.is_group_initialized("default")
        return [gone, rank, caught(lambda: col.barrier(), "not initialized")]

    return run(again)


def declared_group(ray: Any) -> Any:
    col = sub(ray, "util.collective")
    actors = [ray.remote(Rank).remote() for _ in range(2)]
    col.create_collective_group(actors, 2, [1, 0], backend="gloo", group_name="declared")

    def work(col: Any) -> Any:
        import torch

        tensor = torch.ones(2)
        col.allreduce(tensor, "declared")
        return [tensor.tolist(), col.get_rank("declared")]

    seen = ray.get([actor.do.remote(work, col.__name__) for actor in actors], timeout=60)
    twice = caught(lambda: col.create_collective_group(actors, 2, [1, 0], "gloo", "declared"), "twice")
    return [seen, twice]


def misuse(ray: Any) -> Any:
    run = _ranks(ray)

    def work(col: Any) -> Any:
        import torch

        one = torch.ones(1)
        return [
            caught(lambda: col.send(one, col.get_rank()), "is self"),
            caught(lambda: col.allreduce(one, "nobody"), "not initialized"),
            caught(lambda: col.init_collective_group(2, 0, "gloo"), "second time"),
            caught(lambda: col.broadcast(one, src_rank=7), "must be less than world size '2'"),
            caught(lambda: col.allreduce([1, 2]), "Unrecognized tensor type"),
            caught(lambda: col.init_collective_group(0, 0, "gloo", "bad")),
            caught(lambda: col.init_collective_group(2, 5, "gloo", "bad")),
            caught(lambda: col.init_collective_group(1, 0, "xx", "bad"), "not registered"),
            caught(lambda: col.allreduce_multigpu([one]), "Multigpu calls requires NCCL and Cupy"),
        ]

    return run(work)


def wrong_declarations(ray: Any) -> Any:
    col = sub(ray, "util.collective")
    actors = [ray.remote(Rank).remote() for _ in range(2)]
    return [
        caught(lambda: col.create_collective_group(actors, 2, [0], "gloo", "w1"), "one rank"),
        caught(lambda: col.create_collective_group(actors, 2, [0, 0], "gloo", "w2"), "permutation"),
        caught(lambda: col.create_collective_group(actors, 0, [0, 1], "gloo", "w3"), "World size"),
    ]


def what_is_available(ray: Any) -> Any:
    col = sub(ray, "util.collective")
    return [col.gloo_available(), col.nccl_available(), col.is_backend_available("gloo")]
